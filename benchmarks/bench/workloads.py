"""The workloads by name: which corpus, which builder, how long the prompts are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain

from benchmarks.case import Case
from benchmarks.corpora import bible, factbook, hotpotqa, pydoc_text
from benchmarks.corpora.factbook_facts import FactQuestion, fact_questions
from benchmarks.workloads.agent_replay import agent_replay
from benchmarks.workloads.codes import code_cases, code_lookups
from benchmarks.workloads.editions import editions
from benchmarks.workloads.hotpot_orders import hotpot_orders
from benchmarks.workloads.length_sweep import length_sweep
from benchmarks.workloads.paraphrase import paraphrase_cases, paraphrases
from benchmarks.workloads.passages import CountTokens
from benchmarks.workloads.rag_chunks import rag_chunk_cases, rag_chunks
from benchmarks.workloads.rewrites import rewrites
from benchmarks.workloads.shared_context import shared_context
from benchmarks.workloads.similarity_sweep import EDITS, SHARES, similarity_sweep
from benchmarks.workloads.unrelated import unrelated, unrelated_cases

DRIFT_TURNS = 20
FIRST_TURN = "1"
REORDERED_CASES = 24
SETTINGS = len(SHARES) * len(EDITS)
Builder = Callable[[CountTokens, int], list[Case]]
"""Token counter and number of cases → at least so many cases, the same ones whatever the number where that can be."""


def _paraphrase(count_tokens: CountTokens, count: int) -> list[Case]:
    return paraphrase_cases(paraphrases(bible.rows()))


def _short_paraphrase(count_tokens: CountTokens, count: int) -> list[Case]:
    return paraphrase_cases(paraphrases(bible.rows(bible.chapter_pairs(count, min_words=250, max_words=500))))


def _reordered(count_tokens: CountTokens, count: int) -> list[Case]:
    return hotpot_orders(hotpotqa.questions(), count_tokens, count=count, tokens=(1000, 1500), pairing="other question")


def _answered(count_tokens: CountTokens, count: int) -> list[Case]:
    """Behind those of ``reordered``, of which there are fewer than this."""
    return _reordered(count_tokens, REORDERED_CASES + count)[REORDERED_CASES:]


def _overlapping(count_tokens: CountTokens, count: int) -> list[Case]:
    return hotpot_orders(
        hotpotqa.questions(), count_tokens, count=count, tokens=(1000, 1500), pairing="shared paragraphs", min_shared=5
    )


def _questions() -> list[FactQuestion]:
    return fact_questions(factbook.editions())


def _editions(count_tokens: CountTokens, count: int) -> list[Case]:
    return editions(_questions(), count_tokens, count=count, tokens=(700, 1500))


def _many_sources(count_tokens: CountTokens, count: int) -> list[Case]:
    made = rag_chunks(bible.chapter_texts(), count_tokens, seeds=range(20, 20 + count), chunk_tokens=(175, 205))
    return rag_chunk_cases(made)


def _agent(count_tokens: CountTokens, count: int) -> list[Case]:
    texts, each = pydoc_text.texts(), -(-count // 2)
    growing = agent_replay(texts, count_tokens, history="growing", count=each)
    window = agent_replay(texts, count_tokens, history="window", count=each)
    return [case for pair in zip(growing, window, strict=True) for case in pair]


def _codes(count_tokens: CountTokens, count: int) -> list[Case]:
    return code_cases(code_lookups(bible.chapter_texts(), count_tokens, count=count))


def _similarity(count_tokens: CountTokens, count: int) -> list[Case]:
    return similarity_sweep(bible.chapter_texts(), count_tokens, count=-(-count // SETTINGS), tokens=1000)


def _lengths(count_tokens: CountTokens, count: int) -> list[Case]:
    made = length_sweep(bible.chapter_texts(), count_tokens, count=2)
    return list(chain(made[::2], made[1::2]))  # all lengths once, then once more


def _drift(count_tokens: CountTokens, count: int) -> list[Case]:
    """A case a turn; the pool has seen the first turn, and each turn leaves there what it was served from."""
    pairs = bible.chapter_pairs(-(-count // DRIFT_TURNS), min_words=350, max_words=500)
    return [
        Case(f"{made.id}-{turn}", "drift", (made.prompts[turn - 1],), made.prompts[turn], setting=str(turn))
        for made in rewrites(pairs, turns=DRIFT_TURNS)
        for turn in range(1, DRIFT_TURNS + 1)
    ]


def _shared_context(count_tokens: CountTokens, count: int) -> list[Case]:
    return shared_context(_questions(), count_tokens, count=count, tokens=2000)


def _misses(count_tokens: CountTokens, count: int) -> list[Case]:
    pool, strange = bible.chapter_texts(), pydoc_text.texts()
    return unrelated_cases(unrelated(pool, strange, count_tokens, tokens=1500, seed=seed) for seed in range(count))


WORKLOADS: dict[str, Builder] = {
    "paraphrase": _paraphrase,
    "short paraphrase": _short_paraphrase,
    "reordered": _reordered,
    "answered": _answered,
    "overlapping": _overlapping,
    "many sources": _many_sources,
    "editions": _editions,
    "codes": _codes,
    "agent replay": _agent,
    "shared context": _shared_context,
    "similarity sweep": _similarity,
    "length sweep": _lengths,
    "retention sweep": _paraphrase,
    "drift": _drift,
    "misses": _misses,
}

ABOUT = {
    "paraphrase": "the same chapter in two Bible translations, then a summary",
    "short paraphrase": "the same, chapters a third as long",
    "reordered": "HotpotQA's ten paragraphs in another order, another question asked before",
    "answered": "HotpotQA in another order, questions that the full prefill answers",
    "overlapping": "HotpotQA questions that share five to ten of their paragraphs",
    "many sources": "eight chunks, each last seen in another earlier prompt",
    "editions": "a newer World Factbook edition is asked, the older one is in the pool",
    "codes": "one of eight codes is asked for; the reference has other codes in the same places",
    "agent replay": "an agent's seventh turn; history grows, or the oldest turn drops out",
    "shared context": "another question over the same context; context or question first",
    "similarity sweep": "10 to 90 % of the sentences removed or replaced",
    "length sweep": "passages in another order with 5 % of the words changed, 500 to 8,000 tokens",
    "retention sweep": "paraphrases, with ever fewer KV rows kept for decoding",
    "drift": "twenty turns, each rewriting a tenth of the last, served from what the last one left",
    "misses": "nothing in common with the pool",
}


def build_cases(workload: str, count_tokens: CountTokens, first: int, count: int) -> list[Case]:
    """``count`` cases of a workload behind the first ``first``, under its name here.

    Raises:
        CorpusUnavailable: its texts cannot be had.
    """
    made = WORKLOADS[workload](count_tokens, first + count)[first : first + count]
    return [replace(case, workload=workload) for case in made]
