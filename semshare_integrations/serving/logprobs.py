"""Log probabilities of an answer's tokens, as the model computed them: before temperature, penalties and grammars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from semshare_core.decode.sampling import end_tokens


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its log probability, and the likeliest tokens at its place."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]

    def openai(self) -> dict[str, Any]:
        """As chat completions have it."""
        top = [{"token": text, "logprob": value, "bytes": _bytes(text)} for text, value in self.top]
        return {"token": self.token, "logprob": self.logprob, "bytes": _bytes(self.token), "top_logprobs": top}


class LogprobRecorder(LogitsProcessor):
    """Records the tokens of one answer. It must be the first of an answer's logits processors.

    A step shows which token the step before chose, so a token is known when the next one is computed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, top: int) -> None:
        self._tokenizer = tokenizer
        self._top = top
        self._pending: tuple[Tensor, list[float], list[int]] | None = None
        self._settled = 0
        self._new: list[TokenLogprob] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._pending is not None:
            self._settle(int(input_ids[0, -1]))
        logprobs = scores[0].float().log_softmax(-1)
        best = logprobs.topk(self._top)
        self._pending = (logprobs, best.values.tolist(), best.indices.tolist())
        return scores

    def take(self) -> list[TokenLogprob]:
        """The tokens that became known since the last call."""
        new, self._new = self._new, []
        return new

    def finish(self, token_ids: Sequence[int], ends: int | list[int] | None) -> None:
        """The answer is ``token_ids``. The token that ended it, one of ``ends``, is left out."""
        last = token_ids[self._settled :]
        if self._pending is not None and last and last[0] not in end_tokens(ends):
            self._settle(last[0])
        self._pending = None

    def _settle(self, token: int) -> None:
        assert self._pending is not None
        logprobs, values, indices = self._pending
        top = tuple((self._text(index), _finite(value)) for value, index in zip(values, indices, strict=True))
        self._new.append(TokenLogprob(self._text(token), _finite(float(logprobs[token])), top))
        self._settled += 1

    def _text(self, token: int) -> str:
        text = str(self._tokenizer.decode([token]))
        spelled = str(self._tokenizer.convert_ids_to_tokens(token))
        return " " + text if spelled.startswith("▁") and not text.startswith(" ") else text


def completion_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """As text completions have it. ``offset``: where the first token's text begins in the whole text."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        # the chosen token stands there, too; of tokens with one text, such as parts of characters, the likeliest
        "top_logprobs": [dict([(token.token, token.logprob), *reversed(token.top)]) for token in tokens],
        "text_offset": offsets,
    }


def _bytes(text: str) -> list[int] | None:
    """None of a token that is a part of a character."""
    return None if "\ufffd" in text else list(text.encode())


def _finite(value: float) -> float:
    """JSON has no infinity; OpenAI writes -9999 for what is all but impossible."""
    return value if math.isfinite(value) else -9999.0
