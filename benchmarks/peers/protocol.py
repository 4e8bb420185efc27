"""The files between the benchmark's process and a worker: work out, answers in, nothing believed unseen.

Work is one JSON object a line: `id`, `references`, `target`, `continuation` (token ids), `settings`. An answer is one
JSON object for each item and setting, or several of which the last counts: `id`, `setting`, `error`, and, where `error`
is null, the fields of `PeerSample` with `log_probs` and `full_log_probs` naming .npz files whose array `log_probs` is
float16 [k, vocabulary].
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.item import PeerItem, PeerResult, PeerSample

WORK_FILE = "work.jsonl"
ANSWERS_FILE = "answers.jsonl"
_NORMALISED = 0.05
"""How far the logarithm of a row's sum may lie from 0: float16 rounds each of 49,152 log-probabilities."""


def write_work(folder: Path, items: Sequence[PeerItem], settings: Sequence[str]) -> None:
    """Every item under every setting; raises `ValueError` where that would be nothing, or an id stands twice."""
    if not items or not settings:
        raise ValueError(f"nothing to ask: {len(items)} items under {len(settings)} settings")
    if len({item.id for item in items}) != len(items):
        raise ValueError("the items' ids must differ")
    with (folder / WORK_FILE).open("w", encoding="utf-8") as file:
        for item in items:
            work = {
                "id": item.id,
                "references": item.references,
                "target": item.target,
                "continuation": item.continuation,
                "settings": list(settings),
            }
            file.write(json.dumps(work) + "\n")


def read_answers(
    folder: tempfile.TemporaryDirectory[str], items: Sequence[PeerItem], settings: Sequence[str], missing: str
) -> list[PeerResult]:
    """One result for each item and setting, in their order; ``missing`` is the error of those without an answer.

    An answer with a field missing, a NaN, a time of 0 or log-probabilities that are none becomes an error, too.
    """
    answers: dict[tuple[Any, Any], str] = {}
    path = Path(folder.name) / ANSWERS_FILE
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            told = json.loads(line)
            answers[told["id"], told["setting"]] = line
        except (ValueError, KeyError, TypeError):
            continue  # cut short when the worker was ended: its item has no answer
    return [
        _result(folder, item, setting, answers.get((item.id, setting)), missing)
        for item in items
        for setting in settings
    ]


def _result(
    folder: tempfile.TemporaryDirectory[str], item: PeerItem, setting: str, line: str | None, missing: str
) -> PeerResult:
    if line is None:
        return PeerResult(item.id, setting, error=missing)
    try:
        told = json.loads(line, parse_constant=_no_number)
        if told["error"] is not None:
            return PeerResult(item.id, setting, error=str(told["error"]) or "an error without a word")
        stored = _stored(folder, told, len(item.continuation))
        sample = PeerSample(
            ttft_seconds=tuple(told["ttft_seconds"]),
            full_seconds=tuple(told["full_seconds"]),
            text_tokens=tuple(int(token) for token in told["text_tokens"]),
            kv_bytes=told["kv_bytes"],
            kv_bytes_full=told["kv_bytes_full"],
            peak_rss_bytes=told["peak_rss_bytes"],
            log_probs=stored.load if stored else None,
        )
    except (ValueError, TypeError) as error:
        return PeerResult(item.id, setting, error=f"the answer is refused: {error}")
    except KeyError as error:
        return PeerResult(item.id, setting, error=f"the answer is refused: it has no {error}")
    return PeerResult(item.id, setting, sample=sample)


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")


@dataclass(frozen=True)
class _Stored:
    """Log-probabilities left on disk, 6 MB a sample; the folder lives as long as any of them."""

    folder: tempfile.TemporaryDirectory[str]
    after_reuse: str
    after_full: str

    def load(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._read(self.after_reuse), self._read(self.after_full)

    def _read(self, name: str) -> NDArray[np.float32]:
        with np.load(Path(self.folder.name) / name, allow_pickle=False) as arrays:
            rows: NDArray[np.float32] = arrays["log_probs"].astype(np.float32)
        return rows - _log_sums(rows)  # what float16 rounded is a distribution again


def _stored(folder: tempfile.TemporaryDirectory[str], told: dict[str, Any], count: int) -> _Stored | None:
    if told["log_probs"] is None:
        return None
    stored = _Stored(folder, told["log_probs"], told["full_log_probs"])
    for name in (stored.after_reuse, stored.after_full):
        try:
            _check_rows(Path(folder.name) / name, count)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{name} cannot be read: {error}") from error
    return stored


def _check_rows(path: Path, count: int) -> None:
    with np.load(path, allow_pickle=False) as arrays:
        rows = arrays["log_probs"]
    if rows.ndim != 2 or len(rows) != count or not rows.shape[1]:
        raise ValueError(f"{path.name} is of shape {list(rows.shape)}, not [{count}, vocabulary]")
    if not np.isfinite(rows).all():
        raise ValueError(f"{path.name} holds NaN or infinity")
    if np.abs(_log_sums(rows.astype(np.float32))).max() > _NORMALISED:
        raise ValueError(f"{path.name} holds rows that are no log-probabilities")


def _log_sums(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    highest = rows.max(axis=-1, keepdims=True)
    sums: NDArray[np.float32] = highest + np.log(np.exp(rows - highest).sum(axis=-1, keepdims=True))
    return sums
