"""What a kind of work writes: the passages of the earlier prompts and of the target."""

from __future__ import annotations

from typing import NamedTuple

Parts = list[str]
"""A prompt's passages, in order."""


class Draft(NamedTuple):
    """A pair before its prompts are put into a form.

    Attributes:
        references: the passages of each earlier prompt.
        target: the passages of the target.
        question: of the target; empty: any question about a text. ``others``: likewise, of the earlier prompts.
    """

    references: list[Parts]
    target: Parts
    question: str = ""
    others: tuple[str, ...] = ()
