"""What kind of value two texts differ in: a date or time, an id, a number.

Dates are found in digits (2026-11-27, 27.11.26, 9:05) and in English (Friday, 27 November). An id is a word that mixes
letters and digits, or a long number.
"""

from __future__ import annotations

import re
from typing import Literal

ValueKind = Literal["date or time", "id", "number"]

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)"
)
_DAY = r"(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d+)?(?:\s?[ap]\.?m\b\.?)?(?:\s?(?:Z|UTC|GMT|[+-]\d{2}:?\d{2}))?"
_EPOCH = r"1[5-9]\d{8}(?:\d{3})?(?:\.\d+)?"

_PATTERNS: dict[ValueKind, re.Pattern[str]] = {
    "date or time": re.compile(
        rf"""(?<![\w.])(?:
            \d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}(?:[T ]{_CLOCK})?
          | \d{{1,2}}[-/.]\d{{1,2}}[-/.](?:\d{{4}}|\d{{2}})(?:[,\s]\s?{_CLOCK})?
          | (?:{_DAY},?\s)?(?:\d{{1,2}}(?:st|nd|rd|th)?\.?\s{_MONTH}\.?|{_MONTH}\.?\s\d{{1,2}}(?:st|nd|rd|th)?)
                (?:,?\s\d{{4}})?(?:[,\s]\s?(?:at\s)?{_CLOCK})?
          | {_MONTH}\s\d{{4}}
          | {_DAY}
          | {_CLOCK}
          | {_EPOCH}
        )(?!\w)""",
        re.VERBOSE,
    ),
    "id": re.compile(r"(?<!\w)(?:(?=[\w-]*\d)(?=[\w-]*[^\W\d_])\w[\w-]{4,}\w|\d{9,})(?!\w)"),
    "number": re.compile(r"[-+]?\d+(?:[.,]\d+)*%?"),
}


def value_kind(one: str, other: str) -> ValueKind | None:
    """The kind of the values in which two texts first differ; None if either text has something else there.

    Args:
        one, other: texts that begin alike, with enough before and behind the difference to hold the whole values.
    """
    pairs = enumerate(zip(one, other, strict=False))
    at = next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
    for kind, pattern in _PATTERNS.items():
        ends = [_end_of_value(pattern, text, at) for text in (one, other)]
        if None not in ends and max(ends) > at:  # type: ignore[type-var, operator]
            return kind
    return None


def _end_of_value(pattern: re.Pattern[str], text: str, at: int) -> int | None:
    """Where the value ends that stands at ``at`` or ends there; None: there is none."""
    for found in pattern.finditer(text):
        if found.start() <= at <= found.end():
            return found.end()
    return None
