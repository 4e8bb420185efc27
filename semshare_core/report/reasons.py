"""Why a call reused what it did: every sentence that ``ReuseReport.reason`` can begin with or consist of.

``docs/why.md`` explains each of them, which a test checks. A new reason is a new member here and a section there.
"""

from __future__ import annotations

from enum import Enum
from typing import NewType

ReasonText = NewType("ReasonText", str)
"""A sentence made by :meth:`Reason.text`, or none: mypy refuses any other string where a decision is made."""

NO_REASON = ReasonText("")
"""Of a call that was served as it was asked for."""


class Reason(Enum):
    """The sentences; what stands in braces is filled in for each call."""

    REUSE_OFF = "reuse is off"
    NOTHING_TO_REUSE = "nothing to reuse"
    ONLY_THE_PREFIX = "no reference shares more than the prefix"
    BEYOND_ROTARY_LIMIT = "the rotary frequencies change beyond {limit} tokens, so rows cannot be moved"
    UNLIKE_CALIBRATION = "too different: share {feature} {share:.0%}, at most {highest:.0%} when calibrated"
    TOO_FUZZY = "too different: {share:.0%} of the tokens have no identical run"
    BEYOND_BOUND = "to recompute {share:.0%} is not expected to keep the KL of {level!r} within {bound}"
    TOO_LITTLE_SAVED = "only {saved} of {tokens} tokens would be saved"
    SLOWER = "to save {saved} of {tokens} tokens would take longer"
    NOT_CALIBRATED = "the model is not calibrated: a fixed share is recomputed"
    OTHER_METHOD = "the calibration is that of another method: a fixed share is recomputed"

    def text(self, **facts: object) -> ReasonText:
        """The sentence with the figures of one call."""
        return ReasonText(self.value.format(**facts))
