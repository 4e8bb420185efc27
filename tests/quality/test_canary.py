"""Calls checked against a full prefill: which of them, and what is measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from semshare_core import Retention, ReusePolicy, SemShareEngine
from semshare_core.budget.levels import MEASURED_TOKENS
from semshare_core.errors import ConfigError
from semshare_core.model.cache_argument import with_cache
from semshare_core.quality.canary import CanaryCounts
from tiny_canary import QUESTIONS, TEXT, engine_of, reordered
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread", "bounds_kept")


@torch.no_grad()
def measured_by_hand(
    engine: SemShareEngine, prompt: str, reuse: ReusePolicy, answer: list[int] | None
) -> tuple[float, float, int]:
    """KL and agreement along ``answer`` (None: the full prefill's own), token by token, by other means."""
    ids = engine.token_ids(prompt)
    reused = engine.prefill(prompt, reuse=reuse, store=False)
    logits, kls, agreed = reused.logits, [], []
    follow = list(answer or [])
    for step in range(len(answer[:MEASURED_TOKENS]) if answer else MEASURED_TOKENS):
        full = engine.model(torch.tensor([[*ids, *follow[:step]]]), use_cache=False).logits[0, -1].double()
        p, q = full.softmax(-1), logits.double().softmax(-1)
        kls.append(float((p * (p / q).log()).sum()))
        agreed.append(int(p.argmax()) == int(q.argmax()))
        if not answer:
            follow.append(int(p.argmax()))
        logits = engine.model(torch.tensor([[follow[step]]]), **with_cache(engine.model, reused.cache)).logits[0, -1]
    return sum(kls) / len(kls), sum(agreed) / len(agreed), len(kls)


@pytest.mark.parametrize("model", ["llama", "gemma3", "mpt"])
@pytest.mark.parametrize("way", ["generate", "stream", "prefill"])
def test_the_divergence_is_that_measured_by_hand(model: str, way: str) -> None:
    engine = engine_of(model, recompute_ratio=0.3)
    prompt, answer = reordered(QUESTIONS[0]), None
    if way == "generate":
        made = engine.generate(prompt, max_new_tokens=40, eos_token_id=[])
        answer, report = made.token_ids, made.report
    elif way == "stream":
        *_, last = engine.stream(prompt, max_new_tokens=5)
        answer, report = last.token_ids, last.report
    else:
        report = engine.prefill(prompt).report
    assert report is not None
    assert report.outcome == "semantic"
    assert engine.canary.wait()
    found = report.canary
    assert found is not None
    engine.pool.clear()
    engine.warm([TEXT])
    kl, agreement, tokens = measured_by_hand(engine, prompt, ReusePolicy(recompute_ratio=0.3), answer)
    assert kl > 1e-3, "the test would see nothing"
    assert (found.status, found.tokens) == ("measured", tokens)
    assert found.kl == pytest.approx(kl, rel=1e-2)
    assert found.agreement == pytest.approx(agreement)
    assert (found.bound, found.broken) == (None, None), "a ratio of one's own promises nothing"


def test_what_retention_drops_is_measured_too() -> None:
    policy = ReusePolicy(recompute_ratio=0.3, compress=Retention(first=0.5, floor=0.3), canary=1.0)
    engine = engine_of(recompute_ratio=0.3)
    prompt = reordered(QUESTIONS[0])
    made = engine.generate(prompt, max_new_tokens=6, reuse=policy, store=False)
    assert engine.canary.wait()
    kl, _, _ = measured_by_hand(engine, prompt, policy, made.token_ids)
    assert made.report.canary is not None
    assert made.report.canary.kl == pytest.approx(kl, rel=1e-2)
    whole = engine.generate(prompt, max_new_tokens=6, store=False)
    assert engine.canary.wait()
    assert whole.report.canary is not None
    assert whole.report.canary.kl != pytest.approx(kl, rel=1e-2)


def test_rows_that_retention_drops_are_missing_in_misses_and_prefixes_too() -> None:
    engine = engine_of(level="high", compress=Retention(first=0.5, floor=0.3))
    engine.pool.clear()
    prompt = reordered(QUESTIONS[0])
    miss, prefix = (engine.generate(prompt, max_new_tokens=6).report for _ in range(2))
    lossless = engine.generate(prompt, max_new_tokens=6, reuse="exact").report
    assert engine.canary.wait()
    assert [(each.outcome, each.account) for each in (miss, prefix, lossless)] == [("miss", 0), *[("prefix", 0)] * 2]
    for report in (miss, prefix):
        assert report.canary is not None
        assert report.canary.kl is not None
        assert report.canary.kl > 1e-3
    assert lossless.canary is None, "exact retains all rows"


def test_what_is_recomputed_in_full_does_not_diverge() -> None:
    engine = engine_of(recompute_ratio=1.0)
    report = engine.generate(reordered(QUESTIONS[0]), max_new_tokens=8).report
    assert engine.canary.wait()
    assert report.canary is not None
    assert report.canary.kl == pytest.approx(0, abs=1e-6)
    assert report.canary.agreement == 1


def test_a_prompt_that_fills_the_context_is_checked_as_far_as_it_goes() -> None:
    engine = engine_of(recompute_ratio=0.3)
    room = len(engine.token_ids(reordered(QUESTIONS[0]))) + 3
    engine._runtime = replace(engine._runtime, context=room)
    report = engine.prefill(reordered(QUESTIONS[0])).report
    assert engine.canary.wait()
    assert report.canary is not None
    assert report.canary.tokens == 3


def test_approximate_rows_in_a_prefix_are_checked() -> None:
    engine = engine_of(recompute_ratio=0.3)
    engine.generate(reordered(QUESTIONS[0]), max_new_tokens=4)
    again = engine.generate(reordered(QUESTIONS[0]), max_new_tokens=4)
    assert again.report.outcome == "prefix"
    assert again.report.account
    assert engine.canary.wait()
    assert again.report.canary is not None
    assert again.report.canary.kl > 1e-3


# Which calls


def test_every_approximate_call_is_checked_and_no_other() -> None:
    engine = engine_of(level="fast")
    reports = [engine.generate(reordered(each), max_new_tokens=4, store=False).report for each in QUESTIONS[:2]]
    reports.append(engine.generate(reordered(QUESTIONS[0]), max_new_tokens=4, reuse="off").report)
    reports.append(engine.generate(TEXT, max_new_tokens=4, reuse="exact").report)
    assert engine.canary.wait()
    assert [each.outcome for each in reports] == ["semantic", "semantic", "bypass", "prefix"]
    assert [each.canary is not None for each in reports] == [True, True, False, False]
    assert engine.canary.results() == [each.canary for each in reports[:2]]
    # the warming call had a share of 1, too
    assert engine.canary.counts() == CanaryCounts(measured=2, unneeded=3)


def test_without_a_canary_nothing_is_checked() -> None:
    engine = engine_of(canary=0.0)
    assert engine.generate(reordered(QUESTIONS[0]), max_new_tokens=4).report.canary is None
    assert engine.canary.counts() == CanaryCounts()
    assert engine.canary._worker._jobs.thread is None


def test_the_seed_chooses_the_share() -> None:
    def chosen(seed: int) -> list[bool]:
        engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), policy=ReusePolicy(canary=0.3, seed=seed))
        return [engine.canary.chooses(0.3) for _ in range(400)]

    assert chosen(1) == chosen(1) != chosen(2)
    assert 80 < sum(chosen(1)) < 160


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_none_and_all(share: float) -> None:
    with pytest.raises(ConfigError, match="canary"):
        ReusePolicy(canary=share)
