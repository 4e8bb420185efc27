"""Where a prompt first departs from an earlier one: :class:`FirstDifference`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

DifferenceKind = Literal[
    "date or time",
    "number",
    "id",
    "blocks in another order",
    "text inserted",
    "text removed",
    "other text",
    "text added at the end",
]

QUOTED = 40
"""So many characters of each side are quoted."""


class FirstDifference(BaseModel):
    """The first token of a prompt that is not the nearest earlier prompt's. JSON-able.

    Attributes:
        index: of the token; so many tokens are common to both prompts from the beginning.
        kind: what stands there. ``text added at the end`` is no fault: the prompt goes on where the earlier one ended.
        here: the prompt from there on, at most 40 characters; ``there``: the earlier prompt, likewise. Only the report
            object has them. Messages, traces, logs and ``repr()`` have index and kind alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: int = Field(ge=0)
    kind: DifferenceKind
    here: str = Field(default="", repr=False, max_length=QUOTED)
    there: str = Field(default="", repr=False, max_length=QUOTED)

    def brief(self) -> dict[str, Any]:
        """Index and kind, which quote nobody's prompt."""
        return self.model_dump(mode="json", exclude={"here", "there"})

    def summary(self) -> str:
        """Index and kind in words."""
        return f"token {self.index} ({self.kind})"
