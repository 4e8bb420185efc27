"""RAG gone stale: the target holds the reference's passages in another order, with a share of the words replaced."""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from benchmarks.case import Case
from benchmarks.workloads.passages import CountTokens, pack_passages

TAIL = "\n\nIn one paragraph, tell what the passages above are about.\nAnswer:"
_SEPARATOR = "\n\n"
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


@dataclass(frozen=True)
class ShuffledEdits:
    """`target_passages[i]` is `reference_passages[order[i]]` with some words replaced."""

    id: str
    reference_passages: tuple[str, ...]
    target_passages: tuple[str, ...]
    order: tuple[int, ...]
    edited_words: int
    words: int
    tail: str = TAIL

    @property
    def reference_prompt(self) -> str:
        return _SEPARATOR.join(self.reference_passages) + self.tail

    @property
    def target_prompt(self) -> str:
        return _SEPARATOR.join(self.target_passages) + self.tail


def shuffled_edits(
    texts: Sequence[str],
    count_tokens: CountTokens,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    tokens: int = 4600,
    passage_tokens: tuple[int, int] = (110, 140),
    edit_share: float = 0.05,
) -> list[ShuffledEdits]:
    """One pair a seed, of about `tokens` tokens each: with the defaults some 36 passages."""
    return [_one(texts, count_tokens, seed, tokens, passage_tokens, edit_share) for seed in seeds]


def shuffled_edit_cases(
    made: Iterable[ShuffledEdits], workload: str = "shuffled edits", setting: str = ""
) -> list[Case]:
    """The pairs as cases; nothing is looked up."""
    prefix = f"{workload.replace(' ', '-')}-{setting}-" if setting else ""
    return [
        Case(f"{prefix}{each.id}", workload, (each.reference_prompt,), each.target_prompt, setting=setting)
        for each in made
    ]


def _one(
    texts: Sequence[str],
    count_tokens: CountTokens,
    seed: int,
    tokens: int,
    passage_tokens: tuple[int, int],
    edit_share: float,
) -> ShuffledEdits:
    rng = random.Random(f"shuffled-edits-{seed}")
    reference = _passages(texts, count_tokens, tokens, passage_tokens, rng)
    order = in_order = list(range(len(reference)))
    while order == in_order and len(order) > 1:  # a few passages may be drawn as they stood
        order = rng.sample(in_order, len(in_order))
    edited, edits, words = replace_words([reference[i] for i in order], edit_share, rng)
    return ShuffledEdits(f"shuffled-edits-{seed}", tuple(reference), tuple(edited), tuple(order), edits, words)


def _passages(
    texts: Sequence[str], count_tokens: CountTokens, tokens: int, size: tuple[int, int], rng: random.Random
) -> list[str]:
    """Passages from many texts, two of each in turn, until `tokens` is nearest."""
    room = tokens - count_tokens(TAIL)
    chosen: list[str] = []
    sources = deque(pack_passages([text], count_tokens, *size, rng) for text in rng.sample(texts, len(texts)))
    while sources:
        source = sources.popleft()
        taken = list(islice(source, 2))
        for passage in taken:
            cost = count_tokens(passage + _SEPARATOR)
            if room < cost / 2:
                return chosen
            chosen.append(passage)
            room -= cost
        if taken:
            sources.append(source)
    raise ValueError(f"the source texts are {room} tokens short of {tokens}")


def replace_words(passages: Sequence[str], share: float, rng: random.Random) -> tuple[list[str], int, int]:
    """Replace exactly `share` of the words (rounded) by other words of the same passages.

    Returns the passages, the number of replaced words and the number of all words. A replacement takes over a capital
    first letter, so that the edit changes what is said and not how it is written.
    """
    found = [list(_WORD.finditer(passage)) for passage in passages]
    places = [(passage, word) for passage, words in enumerate(found) for word in range(len(words))]
    stock = sorted({word.group().lower() for words in found for word in words})
    chosen = set(rng.sample(places, round(share * len(places)))) if len(stock) > 1 else set()
    edited = []
    for number, passage in enumerate(passages):
        parts, at = [], 0
        for position, word in enumerate(found[number]):
            if (number, position) in chosen:
                parts += [passage[at : word.start()], _other_word(word.group(), stock, rng)]
                at = word.end()
        edited.append("".join(parts) + passage[at:])
    return edited, len(chosen), len(places)


def _other_word(word: str, stock: Sequence[str], rng: random.Random) -> str:
    other = word
    while other.lower() == word.lower():
        other = rng.choice(stock)
    return other.capitalize() if word[0].isupper() else other
