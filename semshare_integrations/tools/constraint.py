"""Decoding held to a grammar: tokens that would break it get no probability (llguidance computes which).

Nor do tokens that would leave no room to come to an end. Once the room is small, a way to the end is known at every
step, and a token is allowed if from behind it a way still fits. So what is begun is ended in time: strings close, lists
and objects take no more than they must. A small model does not always find the end of a string by itself.
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

_NEAR = 512  # tokens left, beyond some times the shortest answer's, from which on a way to the end is always known
_FAR = 8192  # how long a shortest answer may be to be told in an error
_CHECKED = 8  # of the likeliest tokens it is checked whether they leave room for an end
_REPLACED = 4  # steps of a known way that one token may take the place of
_SCARCE = 16  # tokens to spare; below, no others are allowed than those that were checked
_SPARE = 128  # the same where one of them needs another way to the end, for then others may need a long one


def constraint(
    grammar: Grammar,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    context: int | None = None,
) -> Constraint:
    """A logits processor for one reply of ``model`` in the language of ``grammar``.

    Args:
        grammar: of :func:`reply_grammar` or :func:`json_grammar`.
        model: whose reply it is.
        tokenizer: a fast one.
        max_new_tokens: where the reply will be cut off.
        context: where prompt and reply together will be cut off.

    Raises:
        ConfigError: the grammar, or a JSON schema in it, cannot be compiled; or no reply is as short as
            ``max_new_tokens``; or the tokenizer is not a fast one, or none that llguidance can read.
    """
    held = _held(model, tokenizer)
    matcher = llguidance.LLMatcher(held.tokenizer, grammar.text)
    if matcher.is_error():
        raise ConfigError(f"the schema of a tool or answer cannot be held to: {matcher.get_error().strip()}")
    return Constraint(matcher, held, grammar.tags, max_new_tokens, context)


@dataclass(frozen=True)
class _Held:
    """llguidance's view of a tokenizer, the tokens that end a reply, and how tokens are spelled."""

    tokenizer: Any
    ends: list[int]
    spelling: Spelling


class Constraint(LogitsProcessor):
    """Follows one sequence; what it has generated so far is told by the ids that are new since the last step."""

    def __init__(
        self, matcher: Any, held: _Held, tags: Sequence[int], max_new_tokens: int, context: int | None
    ) -> None:
        self._matcher = matcher
        self._held = held
        self._tags = tags
        self._left = max_new_tokens
        self._context = context
        self._seen = -1
        self._generated = 0
        shortest = shortest_way_to_end(matcher, held.spelling, max_new_tokens, tags)
        if shortest is None:
            raise self._no_room(f"the answer may have {max_new_tokens} tokens")
        self._way: list[int] | None = shortest
        self._ways: dict[int, list[int]] = {}  # to the end, behind tokens that were checked in this step
        self._near = _NEAR + 4 * len(shortest)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        n = input_ids.shape[1]
        if self._seen < 0:
            self._fit(n)
        else:
            self._follow(input_ids[0, self._seen :].tolist())
        self._seen = n
        if self._matcher.is_error():
            raise ConfigError(f"the reply left its grammar: {self._matcher.get_error().strip()}")
        held = scores.masked_fill(~self._allowed(scores.shape[-1]).to(scores.device), -torch.inf)
        if self._left <= self._near:
            held = self._with_room(held)
        if bool((held == -torch.inf).all()):
            raise ConfigError(
                "nothing may follow in the reply: other settings (logits_processor, bad_words_ids, min_new_tokens ...) "
                "forbid every token that its grammar allows. Leave them out where an answer has a form."
            )
        return held

    def completes(self, token_ids: Sequence[int]) -> bool:
        """Whether the reply ``token_ids``, of which all steps but the last were seen, is whole."""
        rest = [token for token in token_ids[self._generated :] if token not in self._held.ends]
        return leads_to_end(self._matcher, rest)

    def _fit(self, prompt_tokens: int) -> None:
        """The room that the prompt leaves in the context is known with the first step."""
        if self._context is None or self._context - prompt_tokens >= self._left:
            return
        self._left = self._context - prompt_tokens
        if self._way is None or len(self._way) > self._left:
            raise self._no_room(
                f"the prompt's {prompt_tokens} tokens leave {self._left} of the model's context of {self._context}"
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
        """The tokens that may come next by the grammar, bool [size]."""
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = torch.zeros(size, dtype=torch.bool, device="cpu")
        known = min(len(bits), size)
        allowed[:known] = torch.from_numpy(bits[:known].astype(bool))
        return allowed

    def _with_room(self, scores: Tensor) -> Tensor:
        """``scores`` [1, vocabulary] without tokens behind which no end fits."""
        if self._way is None:
            self._way = shortest_way_to_end(self._matcher, self._held.spelling, self._left, self._tags)
            if self._way is None:
                raise self._no_room(f"{self._left} tokens are left of it")
        best = scores[0].topk(min(_CHECKED, scores.shape[-1]))
        other_way = False
        refused = []
        for score, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if score == -torch.inf:
                break
            way = self._way_behind(token)
            other_way |= way not in (self._way, self._way[1:])
            if way is None:
                refused.append(token)
            else:
                self._ways[token] = way
        spare = self._left - len(self._way)
        if spare > (_SPARE if other_way else _SCARCE):
            return scores.index_fill(-1, torch.tensor(refused, dtype=torch.long, device=scores.device), -torch.inf)
        kept = list(self._ways) or self._way[:1] or self._held.ends
        fewer = torch.full_like(scores, -torch.inf)
        fewer[:, kept] = scores[:, kept]
        return fewer

    def _way_behind(self, token: int) -> list[int] | None:
        """A way to the end behind ``token`` that fits: if possible the known one, or that without its first steps.

        The known one still leads on behind one letter more of a free string. Where a pattern counts its letters, the
        token takes the place of some.
        """
        way = self._way
        assert way is not None
        if token in self._held.ends:
            return way
        after = self._matcher.deep_copy()
        after.consume_token(token)
        for saved in range(min(_REPLACED, len(way)) + 1):
            if len(way) - saved < self._left and leads_to_end(after, way[saved:]):
                return way[saved:]
        spare = self._left - len(way)
        if not spare:  # other ways are hardly shorter than the known one, and to see that none is takes time
            return None
        return way_to_end(after, self._held.spelling, self._left - 1, self._tags, thorough=spare > _SCARCE)

    def _no_room(self, problem: str) -> ConfigError:
        shortest = shortest_way_to_end(self._matcher, self._held.spelling, _FAR, self._tags)
        takes = f"at least about {len(shortest)}" if shortest is not None else f"more than {_FAR}"
        more = " more" if self._generated else ""
        return ConfigError(
            f"the answer cannot be finished: {problem}, but to keep to its schema takes {takes} tokens{more}. Raise "
            "max_tokens (max_new_tokens), shorten the prompt, or make the schema smaller."
        )


_known: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[Any, ...], _Held]] = WeakKeyDictionary()
_making = free(threading.Lock())


def prepare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make now what the first :func:`constraint` for ``tokenizer`` would make.

    That is done once for a tokenizer and takes tenths of a second, in which llguidance lets no other thread run, an
    event loop neither. What cannot be made is no error before a :func:`constraint` is asked for. A tokenizer without a
    chat template has no use for it.
    """
    if tokenizer.chat_template:
        with suppress(ConfigError):
            _held(model, tokenizer)


def _held(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> _Held:
    """Made once for a tokenizer's vocabulary and a model's ends, whichever thread comes first."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, which tool calls and structured output need: "
            "load the model's tokenizer.json."
        )
    ends = [*dict.fromkeys([*end_tokens(model.generation_config.eos_token_id), *end_tokens(tokenizer.eos_token_id)])]
    if not ends:
        raise ConfigError("the tokenizer names no end token, which tool calls and structured output need.")
    size = vocabulary_size(model)
    vocabulary = vocabulary_state(tokenizer)
    key = (vocabulary, size, tuple(ends))
    with _making:
        made = _known.get(tokenizer, {})
        if key not in made:
            kept = {other: held for other, held in made.items() if other[0] == vocabulary}
            made = _known[tokenizer] = {**kept, key: _make(tokenizer, size, ends)}
        return made[key]


def _make(tokenizer: PreTrainedTokenizerFast, size: int, ends: list[int]) -> _Held:
    special = set(special_tokens(tokenizer).values())
    text = [token for token in tokenizer.added_tokens_decoder if token not in special]
    try:
        own: Any = own_tokenizer(tokenizer)  # cuts and pads nothing
        told_whole = own.backend_tokenizer.to_str()
        plain = llguidance.LLTokenizer(told_whole, n_vocab=size, eos_token=ends, slices=[] if text else None)
    except ValueError as error:
        raise ConfigError(
            f"the tokenizer cannot be held to a grammar, which tool calls and structured output need: {error}. Use a "
            "model whose tokenizer spells bytes or letters, as BPE does."
        ) from error
    known = set(tokenizer.get_vocab().values())
    spelled = [plain.decode_bytes([token]) if token in known else b"" for token in range(size)]
    view = plain
    if text:  # llguidance takes every added token in angle brackets for a special one, which no text may hold
        told: Any = _View(plain, spelled, sorted(special), ends)
        view = llguidance.LLTokenizer(told, n_vocab=size, eos_token=ends)
    tried = Spelling.of([b"" if token in special else spelling for token, spelling in enumerate(spelled)])
    return _Held(view, ends, tried)


class _View:
    """A tokenizer as llguidance takes it from Python: what every token spells, and which ones are special."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, plain: Any, spelled: list[bytes], special: list[int], ends: list[int]) -> None:
        self.tokens = spelled
        self.special_token_ids = special
        self.eos_token_id = ends[0]
        self._plain = plain

    def __call__(self, text: str) -> list[int]:
        return list(self._plain.tokenize_str(text))
