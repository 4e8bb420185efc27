"""Whether an answer holds: the same tool call, the lines word by word, a forced choice against what was true before."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from benchmarks.workloads.agent_steps import Ask
from semshare_core.quality.divergence import Continuation

CALL_TOKENS = 40
"""A call has at most so many tokens, of which the cue has given the first."""
_NAME = re.compile(r'^([^"\n]*)"')


def tool_call(text: str) -> tuple[str, Any]:
    """Name and arguments of what follows ``{"name": "``; of arguments that are no JSON, their text up to the line end.

    Spaces and the order of the arguments make no difference.
    """
    line = text.split("\n")[0]
    found = _NAME.match(line)
    if found is None:
        return line.strip(), None
    rest = line[found.end() :]
    try:
        value, _ = json.JSONDecoder().raw_decode('{"name": "' + line)
    except ValueError:
        return found.group(1), rest.strip()
    return found.group(1), value.get("arguments")


def same_call(first: str, second: str) -> bool:
    """Whether two answers behind the same cue call the same tool with the same arguments."""
    return tool_call(first) == tool_call(second)


def expected_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """Int64 [k], of a text that goes on behind a prompt."""
    return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)


def copies(model: PreTrainedModel, cache: Cache, logits: Tensor, tokens: Tensor) -> bool:
    """Whether a greedy answer is ``tokens`` [k] word by word: each is the likeliest one behind those before it.

    Appends to ``cache``.
    """
    said = Continuation(model, cache).follow(logits, tokens)
    return bool((said.argmax(dim=-1) == tokens).all())


def likelihood(model: PreTrainedModel, cache: Cache, logits: Tensor, tokens: Tensor) -> float:
    """Log-probability of ``tokens`` [k] per token, in nats. ``cache`` stays as it is."""
    said = Continuation(model, copy.deepcopy(cache)).follow(logits, tokens)
    return float(said.gather(1, tokens[:, None]).mean())


def prefers_expected(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, cache: Cache, logits: Tensor, ask: Ask
) -> bool:
    """A forced choice: what should follow is likelier, per token, than what followed an earlier prompt."""
    told, stale = (
        likelihood(model, cache, logits, expected_tokens(tokenizer, text)) for text in (ask.expected, ask.stale)
    )
    return told > stale


def answer_holds(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ask: Ask,
    cache: Cache,
    logits: Tensor,
    full_answer: Sequence[int],
) -> bool | None:
    """Whether what comes behind ``cache`` holds; None for an ask of which any answer will do. Appends to ``cache``.

    ``full_answer``: the full prefill's greedy tokens, which a call is compared with.
    """
    if ask.kind == "call":
        said, _ = Continuation(model, cache).greedy(logits, min(CALL_TOKENS, len(full_answer)))
        first, second = (str(tokenizer.decode(list(tokens))) for tokens in (full_answer, said.tolist()))
        return same_call(first, second)
    if ask.kind == "copy":
        return copies(model, cache, logits, expected_tokens(tokenizer, ask.expected))
    if ask.kind in ("gone", "place") and ask.stale:
        return prefers_expected(model, tokenizer, cache, logits, ask)
    return None
