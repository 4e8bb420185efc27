"""The setting that a mistyped name probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_MEANT = {
    "model": "model_id",
    "model_name": "model_id",
    "model_path": "model_id",
    "max_completion_tokens": "max_new_tokens",
    "num_predict": "max_new_tokens",
    "stop_sequences": "stop",
    "retention": "compress",
}
"""What other libraries call our settings, and what we called them once."""


def did_you_mean(unknown: Iterable[str], known: Iterable[str]) -> str:
    """`` Did you mean ...?``, or nothing where no ``known`` name is like one of the ``unknown`` ones."""
    names = sorted(set(known))
    meant = []
    for name in sorted(unknown):
        like = get_close_matches(name, names, 1, 0.7)
        if _MEANT.get(name) in names:
            meant.append(_MEANT[name])
        elif like and like[0] != name:
            meant.append(like[0])
    return f" Did you mean {', '.join(dict.fromkeys(meant))}?" if meant else ""
