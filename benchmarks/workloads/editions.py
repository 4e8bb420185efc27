"""A document grown old: the Factbook's newer edition is asked, the older one is what the pool has seen."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence

from benchmarks.case import Case
from benchmarks.corpora.factbook import Editions, profile_text
from benchmarks.corpora.factbook_facts import FACTS, FactQuestion
from benchmarks.workloads.ask import ask
from benchmarks.workloads.passages import CountTokens

FACT_FIELDS = tuple(dict.fromkeys(fact.field for fact in FACTS))


def editions(
    questions: Sequence[FactQuestion],
    count_tokens: CountTokens,
    *,
    count: int = 100,
    tokens: tuple[int, int] = (700, 2000),
    changed: bool = True,
    seed: int = 0,
) -> list[Case]:
    """``count`` questions to the newer edition, drawn country by country, in prompts of ``tokens`` (least, most).

    The length is drawn evenly, and the older edition's prompt is cut to it too. The answer begins with the label of the
    line that tells it, without which the small demo model answers "the president is the president".

    ``changed`` keeps to the questions whose old answer the new text does not hold, so that it can be told when given.
    A profile that is too long loses whole fields, both editions the same ones (see :func:`without_long_fields`).

    Raises:
        ValueError: fewer than ``count`` questions fit.
    """
    rng = random.Random(f"editions-{seed}")
    cases: list[Case] = []
    for asked in _in_turn([each for each in questions if each.old or not changed], rng):
        if len(cases) == count:
            break
        room = rng.randint(*tokens) - count_tokens(ask("", asked.question, asked.cue))
        old, new = without_long_fields(asked.country, room, count_tokens)
        target = ask(new, asked.question, asked.cue)
        if tokens[0] <= count_tokens(target) <= tokens[1]:
            cases.append(
                Case(
                    id=f"editions-{seed}-{asked.id}",
                    workload="editions",
                    references=(ask(old, asked.question, asked.cue),),
                    target=target,
                    gold=(asked.gold,),
                    old=(asked.old,) if asked.old else (),
                )
            )
    if len(cases) < count:
        raise ValueError(f"only {len(cases)} questions have prompts of {tokens} tokens, {count} are needed")
    return cases


def without_long_fields(country: Editions, tokens: int, count_tokens: CountTokens) -> tuple[str, str]:
    """The texts of the old and the new edition, both of at most ``tokens`` tokens where that can be.

    The longest fields go first, from both editions by their label, but never those that a fact stands in: what differs
    between the texts is what differs between the editions.
    """
    profiles = (country.old, country.new)
    free = {label for profile in profiles for label in profile.fields if label not in FACT_FIELDS}
    longest_first = sorted(
        free, key=lambda label: (-max(len(profile.fields.get(label, "")) for profile in profiles), label)
    )

    def texts(gone: int) -> tuple[str, str]:
        dropped = set(longest_first[:gone])
        old, new = (profile_text(each.name, _less(each.fields, dropped)) for each in profiles)
        return old, new

    low, high = 0, len(longest_first)
    while low < high:
        middle = (low + high) // 2
        if all(count_tokens(text) <= tokens for text in texts(middle)):
            high = middle
        else:
            low = middle + 1
    return texts(low)


def _less(fields: Mapping[str, str], dropped: Collection[str]) -> dict[str, str]:
    return {label: said for label, said in fields.items() if label not in dropped}


def _in_turn(questions: Sequence[FactQuestion], rng: random.Random) -> list[FactQuestion]:
    """One question a country, then a second of each: no country stands for more than it must."""
    by_country: dict[str, list[FactQuestion]] = {}
    for asked in rng.sample(questions, len(questions)):
        by_country.setdefault(asked.country.code, []).append(asked)
    longest = max(map(len, by_country.values()), default=0)
    return [asked[turn] for turn in range(longest) for asked in by_country.values() if turn < len(asked)]
