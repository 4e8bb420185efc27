"""Two records side by side: what is in one and not in the other, or not the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.same_engine.probes import Array
from benchmarks.same_engine.record import Record

LOGITS = 1e-5
"""How far logits, and what is digested of the cache, may lie apart. All other arrays are equal or are not."""

FLOATS = 1e-9
"""How far plain numbers may lie apart, relative to them."""

RENAMED = {
    "report: exact_tokens": "report: moved_tokens",
}
"""Values of the old record by the names that they have now."""

REWORDED: dict[str, str] = {}
"""Reasons of the old engine by the words that the new one has for them; whole or in part."""


def differences(old: Record, new: Record) -> dict[str, list[str]]:
    """Per case of either record what differs, in words; an empty list where nothing does."""
    found: dict[str, list[str]] = {}
    for case in [*old.values, *(case for case in new.values if case not in old.values)]:
        if case not in old.values or case not in new.values:
            found[case] = [f"only in the {'old' if case in old.values else 'new'} record"]
            continue
        found[case] = [
            *_values(_in_new_words(old.values[case], new.values[case]), new.values[case]),
            *_arrays(old.arrays[case], new.arrays[case]),
        ]
    return found


def _in_new_words(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Old values under the names that ``new`` has for them."""
    renamed = {RENAMED.get(name, name) if name not in new else name: value for name, value in old.items()}
    return {name: _reworded(value) for name, value in renamed.items()}


def _reworded(value: Any) -> Any:
    if isinstance(value, str):
        for before, after in REWORDED.items():
            value = value.replace(before, after)
    return value


def _values(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    told = []
    for name in old:  # further fields may come
        if name not in new:
            told.append(f"{name}: is gone")
        elif not _same(old[name], new[name]):
            told.append(f"{name}: {_short(old[name])} -> {_short(new[name])}")
    return told


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(_same(a, b) for a, b in zip(old, new, strict=True))
    if isinstance(old, float) and isinstance(new, float):
        return bool(np.isclose(old, new, rtol=FLOATS, atol=0))
    return bool(old == new)


def _arrays(old: dict[str, Array], new: dict[str, Array]) -> list[str]:
    told = []
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in old or name not in new:
            told.append(f"{name}: only in the {'old' if name in old else 'new'} engine")
        elif old[name].shape != new[name].shape:
            told.append(f"{name}: {old[name].shape} -> {new[name].shape}")
        elif name == "logits" or name.startswith("cache"):
            apart = float(np.abs(old[name].astype(float) - new[name]).max(initial=0))
            if not apart <= LOGITS:  # not a number is apart, too
                told.append(f"{name}: {apart:.1e} apart")
        elif (old[name] != new[name]).any():
            at = np.flatnonzero(old[name] != new[name])
            first = f"first at {at[0]}: {old[name][at[0]]} -> {new[name][at[0]]}"
            told.append(f"{name}: {len(at)} of {len(old[name])} differ, {first}")
    return told


def _short(value: Any, most: int = 60) -> str:
    told = repr(value)
    return told if len(told) <= most else f"{told[:most]}…"
