"""The sweep of the SemShareKV paper (arXiv 2509.24832): sentence by sentence, less of the reference is left."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Literal

from benchmarks.case import Case
from benchmarks.workloads.paraphrase import TAIL
from benchmarks.workloads.passages import CountTokens

Edit = Literal["removed", "replaced"]
EDITS: tuple[Edit, ...] = ("removed", "replaced")
SHARES = (0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6)
"""In an order of which every beginning is spread over the whole: a sweep that ends early has seen some of each."""
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|(?<=[.!?;][\"'\u2019\u201d)])\s+|\n+")


def similarity_sweep(
    texts: Sequence[str],
    count_tokens: CountTokens,
    *,
    count: int = 10,
    tokens: int = 1500,
    shares: Sequence[float] = SHARES,
    edits: Sequence[Edit] = EDITS,
    tail: str = TAIL,
    seed: int = 0,
) -> list[Case]:
    """``count`` reference texts of about ``tokens`` tokens, each with a target for every share, the edits in turn.

    A share's sentences, rounded to whole ones, are those of the smaller shares and more: along a sweep, only the share
    changes. Replaced means by sentences of another text. The setting reads "0.3 removed".

    Raises:
        ValueError: fewer than two texts more than ``count`` are long enough.
    """
    rng = random.Random(f"similarity-sweep-{seed}")
    long = [cut for text in texts if (cut := _sentences(text, tokens, count_tokens))]
    if len(long) < 2 * count:
        raise ValueError(f"{len(long)} texts have {tokens} tokens, {2 * count} are needed")
    chosen = rng.sample(long, 2 * count)
    return [
        Case(
            id=f"similarity-sweep-{seed}-{number}-{share}-{edit}",
            workload="similarity sweep",
            references=(" ".join(sentences) + tail,),
            target=" ".join(_edited(sentences, other, order, share, edit)) + tail,
            setting=f"{share} {edit}",
        )
        for number, (sentences, other) in enumerate(zip(chosen[:count], chosen[count:], strict=True))
        for order in [rng.sample(range(len(sentences)), len(sentences))]
        for share in shares
        for edit in edits
    ]


def sentences_of(text: str) -> list[str]:
    """The sentences, and what semicolons and line ends separate: Bible verses and code have few full stops."""
    return [sentence.strip() for sentence in _SENTENCE_END.split(text) if sentence.strip()]


def _sentences(text: str, tokens: int, count_tokens: CountTokens) -> list[str]:
    """The first sentences, until they have ``tokens`` tokens; none where the text is shorter."""
    found = sentences_of(text)
    low, high = 0, len(found)
    while low < high:
        middle = (low + high) // 2
        if count_tokens(" ".join(found[:middle])) >= tokens:
            high = middle
        else:
            low = middle + 1
    return found[:low] if count_tokens(" ".join(found[:low])) >= tokens else []


def _edited(
    sentences: Sequence[str], other: Sequence[str], order: Sequence[int], share: float, edit: Edit
) -> list[str]:
    gone = set(order[: round(share * len(sentences))])
    told = []
    for place, sentence in enumerate(sentences):
        if place not in gone:
            told.append(sentence)
        elif edit == "replaced":
            told.append(other[place % len(other)])
    return told
