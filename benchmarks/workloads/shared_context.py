"""One long context, many questions (the multi-request mode of SCBench, arXiv 2412.10319).

Where the context comes first, a prefix cache does it all. Where the question comes first (and again at the end), only
the first words of the prompts are alike, and the same context stands some tokens further on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.case import Case
from benchmarks.corpora.factbook_facts import FactQuestion
from benchmarks.workloads.ask import INSTRUCTION, ask, question_and_answer
from benchmarks.workloads.editions import without_long_fields
from benchmarks.workloads.passages import CountTokens

CONTEXT_FIRST, QUESTION_FIRST = "context first", "question first"


def shared_context(
    questions: Sequence[FactQuestion],
    count_tokens: CountTokens,
    *,
    count: int = 20,
    tokens: int = 3000,
    countries: int = 4,
    earlier: int = 3,
    seed: int = 0,
) -> list[Case]:
    """``count`` contexts of about ``tokens`` tokens: the newer Factbook's profiles of ``countries`` countries.

    Each is one case: a question after ``earlier`` other ones over the same context. The setting, in turn, is whether
    the context or the question comes first in all prompts of the case.

    Raises:
        ValueError: too few countries or questions.
    """
    by_country: dict[str, list[FactQuestion]] = {}
    for each in questions:
        by_country.setdefault(each.country.code, []).append(each)
    if len(by_country) < countries:
        raise ValueError(f"the questions are about {len(by_country)} countries, {countries} are needed")
    return [
        _case(f"shared-context-{seed}-{number}", number, by_country, count_tokens, tokens, countries, earlier)
        for number in range(count)
    ]


def _case(
    name: str,
    number: int,
    by_country: dict[str, list[FactQuestion]],
    count_tokens: CountTokens,
    tokens: int,
    countries: int,
    earlier: int,
) -> Case:
    rng = random.Random(name)
    chosen = rng.sample(sorted(by_country), countries)
    stock = [each for code in chosen for each in by_country[code]]
    if len(stock) <= earlier:
        raise ValueError(f"{countries} countries have {len(stock)} questions, {earlier + 1} are needed")
    *before, asked = rng.sample(stock, earlier + 1)
    context = "\n\n".join(
        without_long_fields(by_country[code][0].country, tokens // countries, count_tokens)[1] for code in chosen
    )
    setting = QUESTION_FIRST if number % 2 else CONTEXT_FIRST
    return Case(
        id=name,
        workload="shared context",
        references=tuple(_prompt(context, each, setting) for each in before),
        target=_prompt(context, asked, setting),
        gold=(asked.gold,),
        setting=setting,
    )


def _prompt(context: str, asked: FactQuestion, setting: str) -> str:
    if setting == CONTEXT_FIRST:
        return ask(context, asked.question, asked.cue)
    return f"{INSTRUCTION}\nQuestion: {asked.question}\n\n{context}\n\n{question_and_answer(asked.question, asked.cue)}"
