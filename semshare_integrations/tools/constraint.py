"""Constrained decoding: tokens that would break a grammar get no probability (llguidance computes which).

Tokens that would leave no room for the end of the reply get none either. When little room is left, we know a way to the
end at every step. A token is allowed if a way to the end still fits after it. So every reply is complete: strings
close, and lists and objects take only what they must. A small model does not always end a string by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from semshare_core.decode.sampling import end_tokens
from semshare_core.errors import ConfigError, MissingDependencyError
from semshare_core.model.support import vocabulary_size
from semshare_core.process.forking import free
from semshare_core.process.interrupt import NEVER, Interrupt
from semshare_core.prompt.own_tokenizer import own_tokenizer
from semshare_integrations.tools.added_tokens import special_tokens, vocabulary_state
from semshare_integrations.tools.grammar import Grammar
from semshare_integrations.tools.way_to_end import Spelling, leads_to_end, shortest_way_to_end, way_to_end

try:
    import llguidance
except ModuleNotFoundError as error:
    if error.name != "llguidance":
        raise
    raise MissingDependencyError(
        "llguidance is not installed, which tool calls and structured output need. Install it in SemShare's "
        "clone: pip install '.[langchain]' or '.[llamaindex]' (or anywhere: pip install llguidance)."
    ) from error

_NEAR = 512  # with fewer tokens left (and some times the shortest answer's), we always know a way to the end
_FAR = 8192  # an error names the length of the shortest answer up to this length; longer ones take very many tokens
_CHECKED = 8  # so many of the likeliest tokens are checked for a way to the end
_REPLACED = 4  # one token may replace so many steps of the known way
_SCARCE = 16  # with fewer spare tokens, only checked tokens are allowed
_SPARE = 128  # the same if a checked token needs a new way, because others may then need a long way


def constraint(
    grammar: Grammar,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    context: int | None = None,
    interrupt: Interrupt = NEVER,
) -> Constraint:
    """A logits processor that holds one reply of ``model`` to ``grammar``.

    Args:
        grammar: from :func:`reply_grammar` or :func:`json_grammar`.
        tokenizer: a fast tokenizer.
        max_new_tokens: the longest reply.
        context: the longest prompt and reply together.
        interrupt: ends the search for a way to the end of the reply, here and while the reply is generated.

    Raises:
        ConfigError: the grammar or a JSON schema in it cannot be compiled; every reply is longer than
            ``max_new_tokens``; or llguidance cannot read the tokenizer.
    """
    vocabulary = _vocabulary_of(model, tokenizer)
    matcher = llguidance.LLMatcher(vocabulary.tokenizer, grammar.text)
    if matcher.is_error():
        raise ConfigError(f"the schema of a tool or answer cannot be compiled: {matcher.get_error().strip()}")
    return Constraint(matcher, vocabulary, grammar.tags, max_new_tokens, context, interrupt)


@dataclass(frozen=True)
class _Vocabulary:
    """llguidance's tokenizer, the tokens that end a reply, and the tokens' spelling."""

    tokenizer: Any
    ends: list[int]
    spelling: Spelling


class Constraint(LogitsProcessor):
    """Follows one sequence. The new ids of each step are the generated tokens."""

    def __init__(
        self,
        matcher: Any,
        vocabulary: _Vocabulary,
        tags: Sequence[int],
        max_new_tokens: int,
        context: int | None,
        interrupt: Interrupt,
    ) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._tags = tags
        self._left = max_new_tokens
        self._context = context
        self._interrupt = interrupt
        self._seen = -1
        self._generated = 0
        shortest = self._shortest()
        if shortest is None or len(shortest) > max_new_tokens:
            raise self._no_room(f"the answer may have {max_new_tokens} tokens", shortest)
        self._way: list[int] | None = shortest
        self._ways: dict[int, list[int]] = {}  # to the end after each token that was checked in this step
        self._near = _NEAR + 4 * len(shortest)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        n = input_ids.shape[1]
        if self._seen < 0:
            self._fit(n)
        else:
            self._follow(input_ids[0, self._seen :].tolist())
        self._seen = n
        if self._matcher.is_error():
            problem = self._matcher.get_error().strip().partition("\n")[0]  # more lines would quote the answer
            raise ConfigError(f"the reply left its grammar: {problem}")
        allowed = scores.masked_fill(~self._allowed(scores.shape[-1]).to(scores.device), -torch.inf)
        if self._left <= self._near:
            allowed = self._with_room(allowed)
        if bool((allowed == -torch.inf).all()):
            raise ConfigError(
                "no token may follow in the reply: settings (logits_processor, bad_words_ids, min_new_tokens ...) "
                "forbid all tokens that its grammar allows. Leave them out of calls with tools or a response format."
            )
        return allowed

    def completes(self, token_ids: Sequence[int]) -> bool:
        """Whether the reply ``token_ids`` is complete. The processor has seen all steps but the last."""
        rest = [token for token in token_ids[self._generated :] if token not in self._vocabulary.ends]
        return leads_to_end(self._matcher, rest)

    def _fit(self, prompt_tokens: int) -> None:
        """Take the prompt's length into account, which the first step shows."""
        if self._context is None or self._context - prompt_tokens >= self._left:
            return
        self._left = self._context - prompt_tokens
        if self._way is None or len(self._way) > self._left:
            raise self._no_room(
                f"the prompt's {prompt_tokens} tokens leave {self._left} of the model's context of {self._context}",
                self._way,
            )

    def _follow(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if self._way and self._way[0] == token:
                self._way = self._way[1:]
            else:
                self._way = self._ways.get(token)
            self._ways = {}
        self._matcher.consume_tokens(tokens)
        self._left -= len(tokens)
        self._generated += len(tokens)

    def _allowed(self, size: int) -> Tensor:
        """The tokens that the grammar allows next, bool [size]."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = torch.zeros(size, dtype=torch.bool, device="cpu")
        count = min(len(bits), size)
        allowed[:count] = torch.from_numpy(bits[:count].astype(bool))
        return allowed

    def _with_room(self, scores: Tensor) -> Tensor:
        """``scores`` [1, vocabulary] without the tokens that leave no room for an end."""
        if self._way is None:
            self._way = self._shortest()
            if self._way is None or len(self._way) > self._left:
                raise self._no_room(f"{self._left} tokens are left of it", self._way)
        best = scores[0].topk(min(_CHECKED, scores.shape[-1]))
        other_way = False
        refused = []
        for score, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if score == -torch.inf:
                break
            way = self._way_after(token)
            other_way |= way not in (self._way, self._way[1:])
            if way is None:
                refused.append(token)
            else:
                self._ways[token] = way
        spare = self._left - len(self._way)
        if spare > (_SPARE if other_way else _SCARCE):
            return scores.index_fill(-1, torch.tensor(refused, dtype=torch.long, device=scores.device), -torch.inf)
        checked = list(self._ways) or self._way[:1] or self._vocabulary.ends
        fewer = torch.full_like(scores, -torch.inf)
        fewer[:, checked] = scores[:, checked]
        return fewer

    def _way_after(self, token: int) -> list[int] | None:
        """A way to the end after ``token`` that fits: if possible the known way, with or without its first steps.

        After one more letter of a free string the known way still works. If a pattern counts letters, the token
        replaces some steps.
        """
        way = self._way
        assert way is not None
        if token in self._vocabulary.ends:
            return way
        after = self._matcher.deep_copy()
        after.consume_token(token)
        for saved in range(min(_REPLACED, len(way)) + 1):
            if len(way) - saved < self._left and leads_to_end(after, way[saved:]):
                return way[saved:]
        spare = self._left - len(way)
        if not spare:  # another way is seldom shorter than the known one, and the search takes time
            return None
        spelling, thorough = self._vocabulary.spelling, spare > _SCARCE
        return way_to_end(after, spelling, self._left - 1, self._tags, thorough=thorough, interrupt=self._interrupt)

    def _shortest(self) -> list[int] | None:
        limit = max(self._left, _FAR)
        return shortest_way_to_end(self._matcher, self._vocabulary.spelling, limit, self._tags, self._interrupt)

    def _no_room(self, problem: str, shortest: list[int] | None) -> ConfigError:
        takes = f"at least about {len(shortest)}" if shortest is not None else "very many"
        more = " more" if self._generated else ""
        return ConfigError(
            f"the answer cannot be finished: {problem}, but its schema takes {takes} tokens{more}. Raise max_tokens "
            "(max_new_tokens), shorten the prompt, or make the schema smaller."
        )


_vocabularies: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[Any, ...], _Vocabulary]] = WeakKeyDictionary()
_making = free(threading.Lock())


def prepare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Prepare ``tokenizer`` for :func:`constraint`, if it has a chat template.

    That happens once for a tokenizer. It takes some tenths of a second, and llguidance lets no other thread run
    meanwhile, not even an event loop. Only :func:`constraint` raises errors.
    """
    if tokenizer.chat_template:
        with suppress(ConfigError):
            _vocabulary_of(model, tokenizer)


def _vocabulary_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> _Vocabulary:
    """The vocabulary of ``tokenizer`` and ``model``, made once for all threads."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, which tool calls and structured output need: "
            "load the model's tokenizer.json."
        )
    ends = [*dict.fromkeys([*end_tokens(model.generation_config.eos_token_id), *end_tokens(tokenizer.eos_token_id)])]
    if not ends:
        raise ConfigError("the tokenizer names no end token, which tool calls and structured output need.")
    size = vocabulary_size(model)
    state = vocabulary_state(tokenizer)
    key = (state, size, tuple(ends))
    with _making:
        by_key = _vocabularies.get(tokenizer, {})
        if key not in by_key:
            current = {other: vocabulary for other, vocabulary in by_key.items() if other[0] == state}
            by_key = _vocabularies[tokenizer] = {**current, key: _make(tokenizer, size, ends)}
        return by_key[key]


def _make(tokenizer: PreTrainedTokenizerFast, size: int, ends: list[int]) -> _Vocabulary:
    special = set(special_tokens(tokenizer).values())
    text = [token for token in tokenizer.added_tokens_decoder if token not in special]
    try:
        own: Any = own_tokenizer(tokenizer)  # cuts and pads nothing
        serialized = own.backend_tokenizer.to_str()
        plain = llguidance.LLTokenizer(serialized, n_vocab=size, eos_token=ends, slices=[] if text else None)
    except ValueError as error:
        raise ConfigError(
            f"llguidance cannot read the tokenizer, which tool calls and structured output need: {error}. Use a model "
            "whose tokenizer spells bytes or letters, as BPE does."
        ) from error
    ids = set(tokenizer.get_vocab().values())
    spelled = [plain.decode_bytes([token]) if token in ids else b"" for token in range(size)]
    view = plain
    if text:  # llguidance takes every added token in angle brackets for a special one, which text must not contain
        adapter: Any = _TokenizerView(plain, spelled, sorted(special), ends)
        view = llguidance.LLTokenizer(adapter, n_vocab=size, eos_token=ends)
    spelling = Spelling.of([b"" if token in special else bytes_ for token, bytes_ in enumerate(spelled)])
    return _Vocabulary(view, ends, spelling)


class _TokenizerView:
    """A tokenizer for llguidance's Python interface: the bytes of each token, and the special tokens."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, plain: Any, spelled: list[bytes], special: list[int], ends: list[int]) -> None:
        self.tokens = spelled
        self.special_token_ids = special
        self.eos_token_id = ends[0]
        self._plain = plain

    def __call__(self, text: str) -> list[int]:
        return list(self._plain.tokenize_str(text))
