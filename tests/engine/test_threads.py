"""Many threads at one engine: each gets the answer that it would have got alone."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from semshare_core import ReusePolicy, SemShareEngine
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

THREADS = 8


def prompts() -> list[str]:
    rng = random.Random(0)
    return ["\n\n".join(rng.sample(PARAGRAPHS, 3)) + f"\n\nQuestion {number}?" for number in range(2 * THREADS)]


@pytest.mark.parametrize("level", ["off", "exact"])
def test_lossless_answers_are_those_of_one_thread(level: str) -> None:
    """The pool changes under the calls, and no answer with it."""
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    alone = [engine.generate(prompt, max_new_tokens=8, reuse="off", store=False).token_ids for prompt in prompts()]
    with ThreadPoolExecutor(THREADS) as threads:
        together = threads.map(lambda prompt: engine.generate(prompt, max_new_tokens=8, reuse=level), prompts())
        assert [answer.token_ids for answer in together] == alone
    assert engine.pool.stats().entries == len(alone)


@pytest.mark.parametrize("reuse", ["balanced", ReusePolicy(recompute_ratio=0.4, selection="deviation")])
def test_approximate_answers_are_those_of_one_thread(reuse: str | ReusePolicy) -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    engine.warm(["\n\n".join(PARAGRAPHS)])

    def answer(prompt: str) -> tuple[list[int], list[int]]:
        made = engine.generate(prompt, max_new_tokens=8, reuse=reuse, store=False)
        assert made.report.outcome == "semantic"
        return made.token_ids, made.report.token_recomputed

    alone = [answer(prompt) for prompt in prompts()]
    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(answer, prompts())) == alone


def test_seeded_sampling_is_that_of_one_thread() -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())

    def answer(seed: int) -> list[int]:
        return engine.generate(PARAGRAPHS[0], max_new_tokens=8, temperature=1.5, seed=seed, reuse="exact").token_ids

    alone = [answer(seed) for seed in range(2 * THREADS)]
    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(answer, range(2 * THREADS))) == alone


def test_calls_of_all_kinds_at_once() -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    expected = [engine.generate(prompt, max_new_tokens=6, reuse="off", store=False).text for prompt in prompts()]

    def work(number: int) -> str:
        prompt, namespace = prompts()[number], str(number % 3)
        engine.warm([prompt], namespace=namespace)
        engine.prefill(prompt, namespace=namespace)
        if number % 4 == 0:
            engine.pool.clear(namespace)
        if number % 2:
            stream = engine.stream(prompt, max_new_tokens=6, reuse="exact", namespace=namespace)
            return "".join(piece.text for piece in stream)
        return engine.generate(prompt, max_new_tokens=6, reuse="exact", namespace=namespace).text

    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(work, range(2 * THREADS))) == expected
