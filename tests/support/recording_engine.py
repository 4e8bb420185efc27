"""An engine that remembers what it was asked and what it generated, in tokens."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import pairwise
from typing import Any

from semshare_core import Piece, ReuseReport, SemShareEngine
from semshare_core.prompt.encode import Prompt


class RecordingEngine(SemShareEngine):
    """``calls`` has the tokens of the prompt and of the answer of every call."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.calls: list[tuple[list[int], list[int]]] = []

    def stream(self, prompt: Prompt, **settings: Any) -> Generator[Piece, None, None]:
        asked = self.token_ids(prompt)
        for piece in super().stream(prompt, **settings):
            if piece.token_ids is not None:
                self.calls.append((asked, piece.token_ids))
            yield piece

    def check_that_calls_continue(self, reports: Sequence[ReuseReport]) -> None:
        """The rows of a call, of its answer as well, are the prefix of the next: its text was tokenised again.

        Only the last token of an answer has no row yet.
        """
        assert len(reports) == len(self.calls) > 1
        for ((asked, answer), (then, _)), report in zip(pairwise(self.calls), reports[1:], strict=True):
            served = self.tokenizer.decode(then[: report.prefix_tokens])
            assert report.outcome == "prefix"
            assert served.startswith(self.tokenizer.decode(asked + answer[:-1]))
