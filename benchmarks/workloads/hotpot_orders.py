"""HotpotQA's paragraphs in other order: what retrieval makes of two questions that read the same pages."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from benchmarks.case import Case
from benchmarks.corpora.hotpotqa import Asked, AskedPair, reordered_pairs, shared_pairs
from benchmarks.workloads.ask import ask
from benchmarks.workloads.passages import CountTokens

Pairing = Literal["shared paragraphs", "same question", "other question"]


def hotpot_orders(
    questions: Sequence[Asked],
    count_tokens: CountTokens,
    *,
    count: int = 100,
    tokens: tuple[int, int] = (1000, 1700),
    pairing: Pairing = "shared paragraphs",
    min_shared: int = 2,
    seed: int = 0,
) -> list[Case]:
    """``count`` cases whose target has ``tokens`` tokens (least, most); the pairing is their setting.

    The reference asks another question over ``min_shared`` to 10 of the target's paragraphs and some of its own
    (``shared paragraphs``), or the same question (``same question``) or one of another item (``other question``)
    over all ten of them, in another order each time. Old is the reference's answer where the target does not tell it.

    Raises:
        ValueError: fewer than ``count`` pairs are of that length.
    """
    rng = random.Random(f"hotpot-orders-{seed}")
    cases: list[Case] = []
    for pair in rng.sample(pairs := _pairs(questions, pairing, min_shared, seed), len(pairs)):
        if len(cases) == count:
            break
        target = ask(pair.asked.text, pair.asked.question)
        if tokens[0] <= count_tokens(target) <= tokens[1]:
            cases.append(_case(pair, target, pairing))
    if len(cases) < count:
        raise ValueError(f"only {len(cases)} pairs of {pairing} have {tokens} tokens, {count} are needed")
    return cases


def _pairs(questions: Sequence[Asked], pairing: Pairing, min_shared: int, seed: int) -> list[AskedPair]:
    if pairing == "shared paragraphs":
        return shared_pairs(questions, min_shared=min_shared, seed=seed)
    return reordered_pairs(questions, same_question=pairing == "same question", seed=seed)


def _case(pair: AskedPair, target: str, pairing: Pairing) -> Case:
    return Case(
        id=f"hotpot-orders-{pair.id}",
        workload="hotpot orders",
        references=(ask(pair.earlier.text, pair.earlier.question),),
        target=target,
        gold=(pair.asked.answer,),
        old=(pair.old,) if pair.old else (),
        setting=pairing,
    )
