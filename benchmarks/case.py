"""One item of a workload: what the pool has seen, what comes next, and what is asked about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semshare_core.prompt.encode import Prompt


@dataclass(frozen=True)
class Case:
    """A target prompt and the prompts that came before it.

    Attributes:
        id: unique within the workload.
        workload: its name, as in tables.
        references: earlier prompts, in the order in which they came; empty: a miss.
        target: the prompt to answer.
        gold: accepted answers by the target; empty where nothing is looked up.
        old: answers by the references that the target does not hold: to give one proves that a reference leaked.
        setting: where in a sweep the case stands, as "0.3" of the sentences or "2000" tokens; empty outside sweeps.
    """

    id: str
    workload: str
    references: tuple[Prompt, ...]
    target: Prompt
    gold: tuple[str, ...] = ()
    old: tuple[str, ...] = ()
    setting: str = ""


def answers(text: str, accepted: Sequence[str]) -> bool:
    """Whether ``text`` gives one of the accepted answers: as whole words, whatever the case and the punctuation."""
    told = f" {_plain(text)} "
    return any(f" {_plain(answer)} " in told for answer in accepted if _plain(answer))


def _plain(text: str) -> str:
    """Words and numbers alone; a thousands separator is none of its number's parts."""
    folded = text.casefold()  # may be longer than the text
    kept = "".join(
        character if character.isalnum() else "" if _within_number(folded, place) else " "
        for place, character in enumerate(folded)
    )
    return " ".join(kept.split())


def _within_number(text: str, place: int) -> bool:
    return text[place] == "," and text[place - 1 : place].isdigit() and text[place + 1 : place + 2].isdigit()
