"""Every report says why, in words that are true of its call, and where the prompt first departs from its like."""

from __future__ import annotations

import random
import re

import pytest
import torch

from semshare_core import PoolConfig, ReusePolicy, ReuseReport, SemShareEngine
from semshare_core.config import LEVELS
from semshare_core.report.reasons import Reason
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*is not calibrated")]

TEXT = "\n\n".join(PARAGRAPHS)
QUESTION = "\n\nWhat is it about?"
CLOCK = "It is {}.\n\n" + TEXT + QUESTION


def engine_of(**settings: object) -> SemShareEngine:
    return SemShareEngine(tiny_model("llama"), tiny_tokenizer(), **settings)  # type: ignore[arg-type]


def report_of(engine: SemShareEngine, prompt: str | list[int], level: str = "balanced", **more: object) -> ReuseReport:
    return engine.prefill(prompt, reuse=level, store=False, **more).report  # type: ignore[arg-type]


def fits(reason: Reason, text: str) -> bool:
    parts = re.split(r"\{[^}]*\}", reason.value)
    return re.fullmatch("(.+)".join(map(re.escape, parts)), text) is not None


@pytest.mark.parametrize("level", ["exact", "high", "balanced", "fast"])
def test_a_first_call_says_that_the_pool_is_empty_whatever_others_have_there(level: str) -> None:
    engine = engine_of()
    engine.warm([TEXT], namespace="theirs")
    report = report_of(engine, TEXT, level, namespace="mine")
    assert report.reason == Reason.EMPTY_POOL.text()
    assert report.first_difference is None


@pytest.mark.parametrize("level", ["exact", "balanced"])
def test_a_prompt_that_is_too_short_to_be_stored_says_so(level: str) -> None:
    engine = engine_of()
    for _ in range(2):
        report = engine.prefill("Hello, who?", reuse=level).report
        assert not report.stored
        assert report.reason == Reason.TOO_SHORT.text(tokens=11, least=32)


@pytest.mark.parametrize("level", ["exact", "balanced"])
def test_rows_of_other_weights_are_told_from_an_empty_pool(level: str) -> None:
    engine = engine_of()
    engine.warm([TEXT])
    with torch.no_grad():
        engine.model.get_output_embeddings().weight.add_(0.01)
        engine.model.model.layers[0].self_attn.q_proj.weight.mul_(1.5)
    assert report_of(engine, TEXT, level).reason == Reason.OTHER_WEIGHTS.text()


def test_levels_say_what_a_prefix_serves_and_what_follows() -> None:
    engine = engine_of()
    engine.warm([TEXT + QUESTION])
    n, asked = len(TEXT), len(TEXT + "\n\nWho wrote it?")
    exact = report_of(engine, TEXT + "\n\nWho wrote it?", "exact")
    level = report_of(engine, TEXT + "\n\nWho wrote it?")
    prefix = n + len("\n\nWh")
    assert exact.reason == Reason.LOSSLESS_PREFIX.text(prefix=prefix, tokens=asked)
    assert level.reason == Reason.ALL_BUT_THE_QUESTION.text(prefix=prefix, tokens=asked)
    for report in (exact, level):
        assert report.outcome == "prefix"
        assert report.first_difference is not None
        assert (report.first_difference.index, report.first_difference.kind) == (prefix, "other text")
        assert report.first_difference.here == "o wrote it?"


def test_exact_says_why_it_reuses_nothing() -> None:
    engine = engine_of()
    engine.warm([CLOCK.format("Monday, 9:05")])
    report = report_of(engine, CLOCK.format("Tuesday, 9:10"), "exact")
    assert report.reason == Reason.NO_COMMON_BEGIN.text(least=16)
    assert report.first_difference is not None
    assert (report.first_difference.index, report.first_difference.kind) == (6, "date or time")


def test_exact_says_that_the_rows_are_not_lossless() -> None:
    engine = engine_of()
    engine.warm([TEXT + QUESTION])
    turned = "\n\n".join(PARAGRAPHS[1:] + PARAGRAPHS[:1]) + QUESTION
    assert engine.prefill(turned, reuse=ReusePolicy(recompute_ratio=0.1)).report.outcome == "semantic"
    report = report_of(engine, turned, "exact")
    assert report.prefix_tokens < 100
    assert report.reason == Reason.LOSSLESS_ROWS.text(
        alike=len(turned) - 1, tokens=len(turned), prefix=report.prefix_tokens
    )


def test_exact_in_low_precision_says_that_it_takes_whole_blocks() -> None:
    engine = SemShareEngine(tiny_model("llama").to(torch.bfloat16), tiny_tokenizer())
    engine.warm([TEXT])
    report = report_of(engine, TEXT, "exact")
    assert report.reason == Reason.NO_WHOLE_BLOCK.text(block=512, tokens=len(TEXT))


def test_reuse_that_is_off_says_so_and_compares_nothing() -> None:
    engine = engine_of()
    engine.warm([CLOCK.format("Monday")])
    report = report_of(engine, CLOCK.format("Tuesday"), "off")
    assert (report.reason, report.first_difference) == (Reason.REUSE_OFF.text(), None)


def test_a_level_that_the_canary_made_stricter_says_so() -> None:
    engine = engine_of()
    engine.warm([TEXT + QUESTION])
    engine.canary._promises._served[("fast", "")] = "exact"
    report = report_of(engine, TEXT + QUESTION, "fast")
    assert report.reason.startswith("the canary found 'fast' beyond its bound too often, so 'exact' serves: the first ")


def test_every_outcome_of_small_prompts_has_one_of_the_reasons_and_no_negative_figure() -> None:
    """Prompts that share much or little, in order or not, long and short ones, at every level."""
    rng = random.Random(0)
    outcomes = set()
    for _ in range(12):
        engine = engine_of(pool=PoolConfig(min_tokens=rng.choice([1, 32])))
        words = [" ".join(rng.sample(TEXT.split(), rng.randint(1, 9))) for _ in range(12)]
        engine.warm([". ".join(rng.sample(words, rng.randint(1, 12))) for _ in range(rng.randint(0, 3))])
        for level in (*LEVELS, ReusePolicy(recompute_ratio=0.3)):
            prompt = ". ".join(rng.sample(words, rng.randint(1, 12))) + rng.choice(["", QUESTION])
            report = report_of(engine, prompt, level)  # type: ignore[arg-type]
            outcomes.add(report.outcome)
            assert any(fits(reason, report.reason) for reason in Reason), report.reason
            assert not re.search(r"-\d", report.reason), report.reason
    assert outcomes == {"miss", "prefix", "semantic", "bypass"}


# --- the first difference --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["exact", "balanced", "fast"])
def test_the_nearest_prompt_is_of_ones_own_namespace(level: str) -> None:
    """Neither another's prompt is quoted nor a public one, however much nearer it is."""
    engine = engine_of(pool=PoolConfig(public_namespace="public"))
    engine.warm([CLOCK.format("Monday, 9:05")], namespace="public")
    engine.warm([CLOCK.format("Monday, 9:06")], namespace="theirs")
    target = CLOCK.format("Monday, 9:07")
    assert report_of(engine, target, level, namespace="mine").first_difference is None
    engine.warm(["It is a secret. " + TEXT], namespace="mine")
    found = report_of(engine, target, level, namespace="mine").first_difference
    assert found is not None
    assert found.there.startswith("a secret. ")
    assert found.index == len("It is ")


@pytest.mark.parametrize("level", ["exact", "balanced"])
def test_the_index_is_the_common_beginning_with_the_last_turn(level: str) -> None:
    engine = engine_of()
    history = TEXT + "\n\nuser: Hello.\n"
    engine.prefill(history, reuse=level)
    again = engine.generate(history + "\n\nuser: And now?", max_new_tokens=1, reuse=level).report
    assert again.first_difference is not None
    assert again.first_difference.kind == "text added at the end"
    assert again.first_difference.index == len(history)
    changed = CLOCK.format("noon")
    engine.warm([changed])
    report = report_of(engine, changed.replace("noon", "midnight"), level)
    assert report.first_difference is not None
    assert (report.first_difference.index, report.first_difference.there[:5]) == (6, "noon.")


@pytest.mark.real
def test_finding_it_looks_at_few_prompts_only(demo: tuple) -> None:  # type: ignore[type-arg]
    """However many the pool has: what the lookup found, and a few that begin alike."""
    engine = SemShareEngine(*demo)
    ids = engine.token_ids(TEXT)
    engine.warm([[*ids, number] for number in range(30, 60)])
    assert len(engine._request([*ids, 99], "balanced", None).look_up().nearby) <= 20
