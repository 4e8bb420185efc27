"""Which references serve a prompt: no more than the policy allows, and the paper's single one."""

from __future__ import annotations

import pytest

from semshare_core import ReusePolicy, SemShareEngine
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

HEAD = "You answer questions about the texts that follow, briefly.\n\n"
ASKED = "\n\nWhich of them is about the sea?"


@pytest.fixture
def engine() -> SemShareEngine:
    """A pool of a prompt with the same head and nothing else in common, and one prompt per paragraph."""
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    engine.warm([HEAD + "0123456789 " * 9, *PARAGRAPHS], namespace=None)
    return engine


def serving(engine: SemShareEngine, prompt: str, policy: ReusePolicy) -> list[str]:
    report = engine.prefill(prompt, reuse=policy, store=False).report
    assert report.outcome in ("semantic", "prefix")
    return report.reference_ids


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("matching", ["ordered", "runs"])
def test_no_more_references_than_allowed(engine: SemShareEngine, count: int, matching: str) -> None:
    prompt = HEAD + "\n\n".join(PARAGRAPHS[::-1]) + ASKED
    policy = ReusePolicy(recompute_ratio=0.3, matching=matching, max_references=count, min_similarity=0)
    assert len(serving(engine, prompt, policy)) == min(count, 5)


def test_the_papers_reference_serves_the_prefix_too(engine: SemShareEngine) -> None:
    """Another prompt has the longer prefix; the most similar one is all that SemShareKV draws on."""
    near = HEAD[:20] + PARAGRAPHS[1] + PARAGRAPHS[2]
    engine.warm([near])
    prompt = HEAD + PARAGRAPHS[1] + PARAGRAPHS[2] + ASKED
    longer = engine.pool.longest_prefix(
        "default", engine._request(prompt, None, None).tokens, 0, weights=engine.weights.identity()
    )
    assert longer is not None
    assert longer[1] == len(HEAD)
    report = engine.prefill(prompt, reuse=ReusePolicy.paper(0.4), store=False).report
    assert report.outcome == "semantic"
    assert report.reference_ids != [longer[0].id]
    assert len(report.reference_ids) == 1
    assert report.prefix_tokens == 20
    assert report.fuzzy_tokens == report.prompt_tokens - 20


def test_without_a_similar_prompt_the_prefix_remains(engine: SemShareEngine) -> None:
    prompt = HEAD + PARAGRAPHS[1] + ASKED
    report = engine.prefill(prompt, reuse=ReusePolicy.paper(0.4, min_similarity=1.0), store=False).report
    assert (report.outcome, report.prefix_tokens) == ("prefix", len(HEAD))


def test_looking_up_alone_finds_what_a_whole_request_finds(engine: SemShareEngine) -> None:
    policy = ReusePolicy(recompute_ratio=0.3)
    prompt = "\n\n".join(PARAGRAPHS[::-1]) + ASKED
    assert engine._request(prompt, policy, None).look_up().plan.drawn_on == serving(engine, prompt, policy)
