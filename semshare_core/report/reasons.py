"""Why a call reused what it did: every sentence that ``ReuseReport.reason`` can begin with or consist of.

``docs/why.md`` explains each of them, which a test checks. A new reason is a new member here and a section there.
"""

from __future__ import annotations

from enum import Enum
from typing import NewType

ReasonText = NewType("ReasonText", str)
"""A sentence made by :meth:`Reason.text`, or none: mypy refuses any other string where a decision is made."""

NO_REASON = ReasonText("")
"""Of a decision that nobody has put into words yet. Every report has a reason."""


class Reason(Enum):
    """The sentences; what stands in braces is filled in for each call. No figure is ever negative."""

    # nothing was looked up
    REUSE_OFF = "reuse is off"
    BEYOND_ROTARY_LIMIT = "the rotary frequencies change beyond {limit} tokens, so rows cannot be moved"
    # nothing was found
    EMPTY_POOL = "the pool holds no prompt of this namespace"
    OTHER_WEIGHTS = "the pool holds only prompts that other weights, adapters or numerics computed"
    TOO_SHORT = "a prompt of {tokens} tokens is too short: the pool keeps prompts of {least} tokens or more"
    NO_COMMON_BEGIN = "no earlier prompt has the same first {least} tokens, and 'exact' reuses nothing else"
    NO_WHOLE_BLOCK = "in this precision 'exact' reuses whole blocks of {block} tokens, and the prompt has {tokens}"
    NOTHING_TO_REUSE = "nothing to reuse: no earlier prompt of this namespace shares a passage with this one"
    ONLY_THE_QUESTION = "only words of the question were read before, and the question is computed in any case"
    # a prefix was found
    LOSSLESS_PREFIX = "the first {prefix} of {tokens} tokens are an earlier prompt's, which is all that 'exact' reuses"
    LOSSLESS_ROWS = (
        "the first {alike} of {tokens} tokens are an earlier prompt's; 'exact' reuses only those whose rows are a full "
        "prefill's: {prefix}"
    )
    ONLY_THE_PREFIX = (
        "the first {prefix} of {tokens} tokens are an earlier prompt's; nothing behind them was read before"
    )
    ALL_BUT_THE_QUESTION = (
        "the first {prefix} of {tokens} tokens are an earlier prompt's; what follows is part of the question"
    )
    BEHIND_PREFIX = "the first {prefix} of {tokens} tokens are an earlier prompt's; the rest: {rest}"
    # more was found, and is not worth it
    UNLIKE_CALIBRATION = "too different: share {feature} {share:.0%}, at most {highest:.0%} when calibrated"
    TOO_FUZZY = "too different: {share:.0%} of the tokens have no identical run"
    TOO_MUCH_CHANGED = "too much has changed: {must} of {tokens} tokens must be computed in any case"
    NO_MARGIN = "by the model's calibration nothing but a prefix keeps the KL of {level!r} within {bound}"
    BEYOND_BOUND = (
        "to compute {computed} of {tokens} tokens is not expected to keep the KL of {level!r} within {bound}, and to "
        "compute more saves too little"
    )
    BEYOND_BOUND_WITH_APPROXIMATE_ROWS = (
        "to compute {computed} of {tokens} tokens is not expected to keep the KL of {level!r} within {bound}: the "
        "earlier prompt's own rows are approximate"
    )
    APPROXIMATE_ROWS = (
        "the earlier prompt's own rows are approximate, and a fixed share is not expected to keep the KL of {level!r} "
        "within {bound}"
    )
    TOO_LITTLE_SAVED = "only {saved} of {tokens} tokens would be saved"
    SLOWER = "to save {saved} of {tokens} tokens would take longer"
    # it was served
    WITHIN_BOUND = (
        "{computed} of {tokens} tokens are computed, which is expected to keep the KL of {level!r} within {bound}"
    )
    FIXED_RATIO = "the policy fixes the recompute ratio at {ratio:.2f}, which promises no bound"
    NOT_CALIBRATED = "the model is not calibrated: a fixed share is recomputed"
    OTHER_METHOD = "the calibration is that of another method: a fixed share is recomputed"
    # the canary stepped in
    STRICTER_LEVEL = "the canary found {level!r} beyond its bound too often, so {served!r} serves: {rest}"

    def text(self, **facts: object) -> ReasonText:
        """The sentence with the figures of one call."""
        return ReasonText(self.value.format(**facts))
