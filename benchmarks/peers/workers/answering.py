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
        for answer in _answers(adapter, items, given.answers.parent):
            file.write(json.dumps(answer) + "\n")
            file.flush()


def _answers(adapter: Adapter, items: Sequence[dict[str, Any]], folder: Path) -> Iterator[dict[str, Any]]:
    """Every item under every setting, and then again: where the time is up, all have been asked before one is repeated.

    Each time, an answer comes with all its timings so far; the last one counts.
    """
    known: dict[tuple[int, int], dict[str, Any]] = {}
    for _ in range(REPEATS):
        for number, item in enumerate(items):
            for place, setting in enumerate(item["settings"]):
                new = {"id": item["id"], "setting": setting, "error": None, "full_seconds": [], "ttft_seconds": []}
                told = known.setdefault((number, place), new)
                if told["error"] is not None:
                    continue
                try:
                    _ask(adapter, item, told, folder / f"{number}-full.npz", folder / f"{number}-{place}.npz")
                except Exception as error:  # whatever another project raises is the answer, and the rest goes on
                    traceback.print_exc()
                    told["error"] = f"{type(error).__name__}: {error}"
                yield told


def _ask(adapter: Adapter, item: dict[str, Any], told: dict[str, Any], full_rows: Path, rows: Path) -> None:
    """A full prefill and, behind it, a reusing call; the log-probabilities stay the same and are read once."""
    setting, target, continuation = told["setting"], item["target"], item["continuation"]
    seconds, log_probs = adapter.full(target, continuation[: 1 if full_rows.exists() else None])
    told["full_seconds"].append(seconds)
    if not full_rows.exists():
        _write(full_rows, log_probs)
    adapter.load(setting, item["references"])
    if told["ttft_seconds"]:
        told["ttft_seconds"].append(adapter.again(setting, target))
        return
    answer = adapter.reuse(setting, target, continuation)
    told["ttft_seconds"].append(answer.clock.seconds)
    told |= {
        "log_probs": _write(rows, answer.log_probs),
        "full_log_probs": full_rows.name,
        "text_tokens": [int(token) for token in answer.text_tokens],
        "kv_bytes": answer.kv_bytes,
        "kv_bytes_full": answer.kv_bytes_full,
        "peak_rss_bytes": answer.clock.peak_rss_bytes,
    }


def _write(path: Path, rows: NDArray[Any] | None) -> str | None:
    if rows is None:
        return None
    np.savez(path, log_probs=rows.astype(np.float16))
    return path.name


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Of one row [vocabulary]."""
    shifted = logits.astype(np.float64) - logits.max()
    rows: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return rows
