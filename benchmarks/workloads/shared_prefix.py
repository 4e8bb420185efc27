"""One long document, many questions: prompts that share a prefix and end differently."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.workloads.passages import CountTokens, cut_to_tokens, gather_tokens

_QUESTION = "Question: how does what is said above bear on the following words? "


@dataclass(frozen=True)
class SharedPrefix:
    """`reference_prompt` and `target_prompt` are `prefix` with two tails that differ from their first words on."""

    id: str
    prefix: str
    reference_prompt: str
    target_prompt: str


def shared_prefixes(
    texts: Sequence[str],
    count_tokens: CountTokens,
    *,
    prefix_tokens: int = 4000,
    tail_tokens: int = 60,
    count: int = 4,
    seed: int = 0,
) -> list[SharedPrefix]:
    """`count` pairs over one prefix; all of them share the reference prompt, so that it is prefilled once."""
    rng = random.Random(f"shared-prefix-{seed}")
    *tail_sources, prefix_source = _split(texts, rng, count + 1)
    prefix = gather_tokens(prefix_source, prefix_tokens - count_tokens("\n\n"), count_tokens, rng) + "\n\n"
    reference, *targets = [
        _tail(number, source, tail_tokens, count_tokens) for number, source in enumerate(tail_sources)
    ]
    return [
        SharedPrefix(f"shared-prefix-{seed}-{number}", prefix, prefix + reference, prefix + target)
        for number, target in enumerate(targets)
    ]


def _split(texts: Sequence[str], rng: random.Random, tails: int) -> list[list[str]]:
    """One text for each tail, all others for the prefix."""
    if len(texts) <= tails:
        raise ValueError(f"{len(texts)} source texts are too few for {tails} tails and a prefix")
    shuffled = rng.sample(texts, len(texts))
    return [[text] for text in shuffled[:tails]] + [shuffled[tails:]]


def _tail(number: int, source: Sequence[str], tokens: int, count_tokens: CountTokens) -> str:
    """Numbered at its front, so that two tails share nothing at all."""
    words = " ".join(source[0].split())
    return cut_to_tokens(f"{number + 1}. {_QUESTION}{words}", tokens, count_tokens)
