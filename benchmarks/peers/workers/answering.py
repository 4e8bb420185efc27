"""What every worker does: read the work, let its peer answer, write what came of it.

Runs in a peer's environment, started as a script beside its worker: the standard library and numpy only.
`benchmarks/peers/protocol.py` reads what is written here and describes the files.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

TEXT_TOKENS = 48
REPEATS = 3
"""Full prefills and reusing calls that are timed, in turn: a busy machine drifts."""


class Clock:
    """Seconds and peak memory of the block that it guards.

    The kernel's high-water mark of resident memory is set back first (write 5 to clear_refs, proc(5)), so that an
    earlier, larger prompt does not stand in for this one; and what earlier calls left to collect is collected.
    """

    seconds: float
    peak_rss_bytes: int

    def __enter__(self) -> Clock:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._started
        status = Path("/proc/self/status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        self.peak_rss_bytes = int(kilobytes) * 1024


@dataclass(frozen=True)
class Answer:
    """After reuse: the clock of the timed part, log-probabilities [k, vocabulary] or None, the peer's own text, the
    bytes of the cache that it decodes from, and those of its own cache after a full prefill."""

    clock: Clock
    log_probs: NDArray[Any] | None
    text_tokens: Sequence[int]
    kv_bytes: int
    kv_bytes_full: int


class Adapter(Protocol):
    """A peer behind four calls. No call may leave anything that makes the next one faster, but `load`."""

    def full(self, target: list[int], continuation: list[int]) -> tuple[float, NDArray[Any] | None]:
        """Seconds of a full prefill up to the first token; log-probabilities [k, vocabulary] along ``continuation``."""
        ...

    def load(self, setting: str, references: list[list[int]]) -> None:
        """Forget what there was and see the references, untimed."""
        ...

    def reuse(self, setting: str, target: list[int], continuation: list[int]) -> Answer:
        """Answer ``target`` with what was loaded."""
        ...

    def again(self, setting: str, target: list[int]) -> float:
        """Seconds of the timed part of `reuse`, which is all that it does; `load` was called anew before."""
        ...


@dataclass(frozen=True)
class Options:
    """What the benchmark's process asks for; ``longest`` is the room in tokens that any item may need."""

    model: Path
    threads: int
    longest: int


def serve(build: Callable[[Options], Adapter]) -> None:
    """The whole of a worker's work."""
    parser = argparse.ArgumentParser()
    for name in ("model", "work", "answers"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    items = [json.loads(line) for line in given.work.read_text(encoding="utf-8").splitlines()]
    prompts = (prompt for item in items for prompt in (item["target"], *item["references"]))
    room = max(map(len, prompts)) + max(TEXT_TOKENS, *(len(item["continuation"]) for item in items))
    adapter = build(Options(given.model, given.threads, room))
    adapter.full(items[0]["target"], items[0]["continuation"][:1])  # kernels and threads start up in the first one
    with given.answers.open("w", encoding="utf-8") as file:
        for number, item in enumerate(items):
            for answer in _answers(adapter, number, item, given.answers.parent):
                file.write(json.dumps(answer) + "\n")
                file.flush()


def _answers(adapter: Adapter, number: int, item: dict[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    """One after each reusing call, with all timings so far: the last one of a setting counts, if the time is up too."""
    full: str | None = None
    for place, setting in enumerate(item["settings"]):
        named = {"id": item["id"], "setting": setting, "error": None}
        told: dict[str, Any] = {"full_seconds": [], "ttft_seconds": []}
        try:
            for repeat in range(REPEATS):
                # The log-probabilities stay the same: they are read once.
                seconds, rows = adapter.full(item["target"], item["continuation"][: 1 if full else None])
                full = full or _write(folder, f"{number}-full.npz", rows)
                told["full_seconds"].append(seconds)
                adapter.load(setting, item["references"])
                if repeat:
                    told["ttft_seconds"].append(adapter.again(setting, item["target"]))
                else:
                    answer = adapter.reuse(setting, item["target"], item["continuation"])
                    told["ttft_seconds"].append(answer.clock.seconds)
                    told |= {
                        "full_log_probs": full,
                        "log_probs": _write(folder, f"{number}-{place}.npz", answer.log_probs),
                        "text_tokens": [int(token) for token in answer.text_tokens],
                        "kv_bytes": answer.kv_bytes,
                        "kv_bytes_full": answer.kv_bytes_full,
                        "peak_rss_bytes": answer.clock.peak_rss_bytes,
                    }
                yield named | told
        except Exception as error:  # whatever another project raises: its text is the answer, and the rest goes on
            traceback.print_exc()
            yield named | {"error": f"{type(error).__name__}: {error}"}


def _write(folder: Path, name: str, rows: NDArray[Any] | None) -> str | None:
    if rows is None:
        return None
    np.savez(folder / name, log_probs=rows.astype(np.float16))
    return name


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Of one row [vocabulary]."""
    shifted = logits.astype(np.float64) - logits.max()
    rows: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return rows
