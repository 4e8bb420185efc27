"""The front door: generate, prefill, warm and token_ids, and the report of each call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from same_answer import assert_full, assert_greedy, not_low_on_accelerators, short_prefixes_serve
from semshare_core import PoolConfig, ReusePolicy, ReuseReport, SemShareEngine
from semshare_core.model.cache_argument import with_cache
from semshare_core.prompt.encode import Prompt
from tiny_models import DEVICE, DTYPE, HEAD_DIM, KV_HEADS, LAYERS, tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

ROW_BYTES = LAYERS * 2 * KV_HEADS * HEAD_DIM * DTYPE.itemsize
TEXT = "\n\n".join(PARAGRAPHS)
REORDERED = "\n\n".join([PARAGRAPHS[2], PARAGRAPHS[0], PARAGRAPHS[1], "What is it about?"])
CHAT = [
    {"role": "system", "content": PARAGRAPHS[0]},
    {"role": "user", "content": "How so?"},
]


@pytest.fixture
def engine() -> SemShareEngine:
    return SemShareEngine(tiny_model("llama"), tiny_tokenizer())


# --- answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", ["off", "exact", "high", "balanced", "fast", None])
def test_without_references_the_answer_is_the_models(engine: SemShareEngine, reuse: str | None) -> None:
    answer = engine.generate(TEXT, max_new_tokens=12, reuse=reuse)
    assert_greedy(answer.token_ids, engine.model, engine.token_ids(TEXT), 12)
    assert answer.text == engine.tokenizer.decode(answer.token_ids)
    assert answer.finish_reason == "length"


@pytest.mark.parametrize("prompt", [TEXT, CHAT, list(TEXT.encode()), np.frombuffer(TEXT.encode(), np.uint8)])
def test_kinds_of_prompts(engine: SemShareEngine, prompt: Prompt) -> None:
    ids = engine.token_ids(prompt)
    chat = f"<|start|>system\n{PARAGRAPHS[0]}<|end|>\n<|start|>user\nHow so?<|end|>\n<|start|>assistant\n"
    assert engine.tokenizer.decode(ids) == (chat if prompt is CHAT else TEXT)
    assert all(type(token) is int for token in ids)
    assert engine.pool.stats().entries == 0, "asking for ids computes and keeps nothing"
    assert_greedy(engine.generate(prompt, max_new_tokens=5).token_ids, engine.model, engine.token_ids(prompt), 5)


def test_a_single_token_is_a_prompt(engine: SemShareEngine) -> None:
    assert_greedy(engine.generate([65], max_new_tokens=5).token_ids, engine.model, engine.token_ids([65]), 5)
    result = engine.prefill([65])
    assert_full(result.logits, engine.model, np.array([65]))
    assert (result.report.prompt_tokens, result.report.new_tokens, result.report.kv_bytes) == (1, 1, 0)


@not_low_on_accelerators("the third call draws on rows of another number of rows, and a token may be another")
def test_an_end_token_ends_the_answer(engine: SemShareEngine) -> None:
    tokens = engine.generate(TEXT, max_new_tokens=12, store=False).token_ids
    answer = engine.generate(TEXT, max_new_tokens=12, eos_token_id=tokens[4])
    end = tokens.index(tokens[4]) + 1
    assert (answer.token_ids, answer.finish_reason) == (tokens[:end], "stop")
    assert engine.generate(TEXT, max_new_tokens=end, eos_token_id=tokens[4]).finish_reason == "stop"


def test_stop_strings(engine: SemShareEngine) -> None:
    whole = engine.generate(TEXT, max_new_tokens=40, store=False).text
    printable = [at for at in range(6, len(whole) - 2) if "\ufffd" not in whole[at : at + 2]]
    stop = whole[printable[0] : printable[0] + 2]
    answer = engine.generate(TEXT, max_new_tokens=40, stop=["never", stop])
    assert answer.text == whole[: whole.find(stop)]
    assert answer.finish_reason == "stop"
    assert len(answer.token_ids) < 40
    assert stop in engine.tokenizer.decode(answer.token_ids), "the ids are as generated"


def test_a_stop_string_in_the_prompt_ends_nothing(engine: SemShareEngine) -> None:
    whole = engine.generate(TEXT, max_new_tokens=8, store=False)
    answer = engine.generate(TEXT, max_new_tokens=8, stop=[TEXT[-5:], TEXT[-1] + whole.text[:1]])
    assert (answer.token_ids, answer.finish_reason) == (whole.token_ids, "length")


def test_seeds_repeat_and_leave_no_trace(engine: SemShareEngine) -> None:
    def sampled(seed: int | None) -> list[int]:
        return engine.generate(TEXT, max_new_tokens=12, temperature=2.0, seed=seed, store=False).token_ids

    state = torch.random.get_rng_state()
    one, same, other = sampled(1), sampled(1), sampled(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one == same != other
    assert sampled(None) != sampled(None)


@not_low_on_accelerators("a drawn token follows the last bits, which follow the number of rows")
def test_sampling_follows_the_reused_rows(engine: SemShareEngine) -> None:
    cold = engine.generate(TEXT, max_new_tokens=12, temperature=1.0, seed=3, top_k=5)
    warm = engine.generate(TEXT, max_new_tokens=12, temperature=1.0, seed=3, top_k=5)
    assert warm.report.outcome == "prefix"
    assert warm.token_ids == cold.token_ids


def test_the_answer_ends_with_the_context(engine: SemShareEngine) -> None:
    engine._runtime = replace(engine._runtime, context=50)
    answer = engine.generate(list(range(40)), max_new_tokens=100)
    assert (len(answer.token_ids), answer.finish_reason) == (10, "length")


# --- prefill -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", ["exact", "balanced", ReusePolicy(recompute_ratio=0.5)])
def test_a_prefilled_cache_decodes_on(engine: SemShareEngine, reuse: str | ReusePolicy) -> None:
    engine.warm([TEXT])
    result = engine.prefill(REORDERED, reuse=reuse, store=False)
    expected = engine.generate(REORDERED, max_new_tokens=10, reuse=reuse, store=False).token_ids
    assert result.logits.shape == (engine.model.config.vocab_size,)
    assert result.cache.get_seq_length() == result.report.prompt_tokens
    tokens = [int(result.logits.argmax())]
    while len(tokens) < 10:
        step = torch.tensor([[tokens[-1]]], device=DEVICE)
        tokens.append(int(engine.model(step, **with_cache(engine.model, result.cache)).logits[0, -1].argmax()))
    assert tokens == expected


@short_prefixes_serve
def test_a_prefilled_cache_is_the_callers_own(engine: SemShareEngine) -> None:
    result = engine.prefill(TEXT)
    for layer in result.cache.layers:
        layer.keys.fill_(float("nan"))
        layer.values.fill_(float("nan"))
    again = engine.prefill(TEXT + " More.", reuse="exact")
    assert again.report.prefix_tokens == len(TEXT)
    assert torch.isfinite(again.logits).all()


def test_prefill_takes_chat_and_ids(engine: SemShareEngine) -> None:
    for prompt in (CHAT, list(range(40))):
        ids = np.array(engine.token_ids(prompt))
        assert_full(engine.prefill(prompt).logits, engine.model, ids)


# --- the pool ----------------------------------------------------------------------------------------------------


@short_prefixes_serve
def test_warm_keeps_exact_entries(engine: SemShareEngine) -> None:
    reports = engine.warm([TEXT, REORDERED, TEXT])
    assert [report.outcome for report in reports] == ["miss", "miss", "prefix"]
    assert [report.account for report in reports] == [0, 0, 0]
    assert engine.pool.stats().entries == 2
    assert engine.pool.stats().tokens == len(TEXT) + len(REORDERED)
    assert engine.pool.stats().bytes == engine.pool.stats().tokens * ROW_BYTES


@short_prefixes_serve
def test_the_generated_tokens_are_kept_with_the_prompt(engine: SemShareEngine) -> None:
    answer = engine.generate(list(TEXT.encode()), max_new_tokens=20)
    turn = [*TEXT.encode(), *answer.token_ids]
    result = engine.prefill([*turn, *b" And then?"], reuse="exact")
    assert result.report.prefix_tokens == len(turn) - 1, "the last token's row was never needed"
    assert_full(result.logits, engine.model, np.array([*turn, *b" And then?"]))


@pytest.mark.parametrize("call", ["generate", "prefill", "stream"])
def test_store_false_keeps_nothing(engine: SemShareEngine, call: str) -> None:
    made = getattr(engine, call)(TEXT, store=False, **({} if call == "prefill" else {"max_new_tokens": 2}))
    if call == "stream":
        list(made)
    assert engine.pool.stats().entries == 0


def test_what_is_kept_holds_no_empty_rows(engine: SemShareEngine) -> None:
    """Room for an answer that ended early is not kept along."""
    tokens = engine.generate(TEXT, max_new_tokens=3, store=False).token_ids
    engine.generate(TEXT, max_new_tokens=1000, eos_token_id=tokens[1])
    stats = engine.pool.stats()
    assert stats.bytes == stats.tokens * ROW_BYTES


# --- reports -----------------------------------------------------------------------------------------------------


def check_arithmetic(report: ReuseReport) -> None:
    n = report.prompt_tokens
    assert report.prefix_tokens + report.moved_tokens + report.fuzzy_tokens + report.new_tokens == n
    sources = [report.new_tokens, report.fuzzy_tokens, report.moved_tokens, report.prefix_tokens]
    assert np.bincount(report.token_sources, minlength=4).tolist() == sources
    assert len(report.token_sources) == len(report.token_recomputed) == n
    assert report.recomputed_tokens == sum(report.token_recomputed)
    assert report.reused_tokens == n - report.recomputed_tokens
    assert report.recompute_ratio >= report.recomputed_tokens / n - 1e-9
    assert report.kv_bytes == report.kv_bytes_full == (n - 1) * ROW_BYTES
    assert report.lookup_ms + report.match_ms + report.prefill_ms <= report.ttft_ms
    assert ReuseReport.model_validate_json(report.model_dump_json()) == report


def test_miss(engine: SemShareEngine) -> None:
    report = engine.generate(TEXT, max_new_tokens=3).report
    check_arithmetic(report)
    assert (report.outcome, report.level, report.new_tokens) == ("miss", "balanced", len(TEXT))
    assert (report.recompute_ratio, report.account, report.generated_tokens) == (1.0, 0, 3)
    assert report.reference_ids == []
    assert report.similarity is None
    assert report.reason


@short_prefixes_serve
def test_prefix(engine: SemShareEngine) -> None:
    engine.warm([TEXT])
    report = engine.generate(TEXT + " More of it.", max_new_tokens=3, reuse="exact").report
    check_arithmetic(report)
    assert (report.outcome, report.level) == ("prefix", "exact")
    assert (report.prefix_tokens, report.new_tokens) == (len(TEXT), 12)
    assert report.recompute_ratio == pytest.approx(12 / (len(TEXT) + 12))
    assert len(report.reference_ids) == 1
    assert report.account == 0


def test_semantic(engine: SemShareEngine) -> None:
    engine.warm([TEXT])
    report = engine.generate(REORDERED, max_new_tokens=3).report
    check_arithmetic(report)
    assert (report.outcome, report.level) == ("semantic", "balanced")
    assert report.account
    assert report.moved_tokens > 0.8 * len(REORDERED)
    assert 0 < report.recompute_ratio < 0.5
    assert report.similarity is not None
    assert report.similarity > 0.8
    question = len("What is it about?")
    assert report.token_recomputed[-question:] == [1] * question


def test_bypass(engine: SemShareEngine) -> None:
    engine.warm([TEXT])
    report = engine.generate(REORDERED, max_new_tokens=3, reuse="off").report
    check_arithmetic(report)
    assert (report.outcome, report.level, report.new_tokens) == ("bypass", "off", len(REORDERED))
    assert report.reference_ids == []
    short = engine.generate(PARAGRAPHS[1][:60], max_new_tokens=3, reuse="high").report
    check_arithmetic(short)
    assert (short.outcome, short.recompute_ratio) == ("bypass", 1.0)
    assert "saved" in short.reason
    assert short.moved_tokens == 0, "what is not used is not reported as used"


def test_a_custom_ratio_names_itself(engine: SemShareEngine) -> None:
    engine.warm([TEXT])
    report = engine.generate(REORDERED, max_new_tokens=3, reuse=ReusePolicy(recompute_ratio=0.3)).report
    check_arithmetic(report)
    assert (report.level, report.outcome) == ("custom", "semantic")
    assert report.recompute_ratio <= 0.3


@pytest.mark.parametrize("reason", ["", "<b>too</b> different"])
def test_reports_as_html_and_as_a_line(engine: SemShareEngine, reason: str) -> None:
    report = engine.generate(TEXT, max_new_tokens=1).report.model_copy(update={"reason": reason})
    html = report._repr_html_()
    assert html.startswith("<table>")
    assert "<b>" not in html
    assert all(part in html for part in ("miss", "balanced", f"{len(TEXT)} new", "recompute ratio"))
    assert report.summary().startswith(f"miss: {len(TEXT)} tokens")


# --- making one --------------------------------------------------------------------------------------------------


def test_from_pretrained(tmp_path: Path) -> None:
    tiny_model("llama", seed=3).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    policy, pool = ReusePolicy(level="exact"), PoolConfig(max_bytes=0)
    engine = SemShareEngine.from_pretrained(str(tmp_path), device=str(DEVICE), policy=policy, pool=pool)
    assert_greedy(engine.generate(TEXT, max_new_tokens=5).token_ids, engine.model, engine.token_ids(TEXT), 5)
    assert engine.generate(TEXT, max_new_tokens=1).report.level == "exact"
    assert engine.pool.stats().entries == 0


def test_an_embedding_of_ones_own() -> None:
    asked: list[str] = []

    def embedding(text: str) -> list[float]:
        asked.append(text)
        return [3.0, float(len(text) % 2)]

    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), embedding=embedding)
    text, other = TEXT[:150], TEXT[41:150]
    engine.warm([text])
    report = engine.generate(other, max_new_tokens=1, store=False).report
    assert asked == [text, other]
    assert report.similarity == pytest.approx(0.974, abs=1e-3)


def test_the_engines_policy_is_the_default() -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), policy=ReusePolicy(level="fast", max_references=2))
    engine.warm([TEXT])
    assert engine.generate(REORDERED, max_new_tokens=1, store=False).report.level == "fast"
    assert engine.generate(REORDERED, max_new_tokens=1, store=False, reuse="high").report.level == "high"
