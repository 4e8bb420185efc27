"""The questions of the demo, in the order in which they are asked: each meets the pool in another way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Way = Literal["search", "search backwards", "follow up"]


@dataclass(frozen=True)
class Ask:
    """One question: what is tried with it, and how its passages are found.

    Attributes:
        kind: what the call shows, in a few words.
        text: the question.
        way: ``search``: the nearest passages, best first · ``search backwards``: best last, as some prompts prefer ·
            ``follow up``: no search, the conversation of the call before goes on.
        search: what to search for, if not the question.
    """

    kind: str
    text: str
    way: Way = "search"
    search: str = ""

    @property
    def query(self) -> str:
        """What the retriever is asked."""
        return self.search or self.text


_TEMPORARY = "How do I make a temporary directory that is removed automatically?"
_CSV = "How do I read a CSV file with a header row as dictionaries?"

QUESTIONS = (
    Ask("a first question", _TEMPORARY),
    Ask(
        "the same in other words",
        "What creates a temp folder which cleans itself up afterwards?",
    ),
    Ask("passages in another order", _TEMPORARY, "search backwards"),
    Ask(
        "same passages, new question",
        "What is the difference between mkstemp and mkdtemp?",
        search=_TEMPORARY,
    ),
    Ask("a follow-up turn", "And which of the two returns an open file?", "follow up"),
    Ask("another topic", _CSV),
    Ask("the same in other words", "How can the rows of a CSV file be read into dictionaries keyed by the header?"),
    Ask("passages of both topics", "How do I write the rows of a CSV file into a temporary file?"),
    Ask("another topic", "How do I extract all files of a zip archive?"),
    Ask("a neighbouring question", "How do I unpack a zip archive into a temporary directory?"),
)
