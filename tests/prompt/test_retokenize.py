"""Answers that come back as text: rows are kept for the tokens that the text becomes again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

from semshare_core import SemShareEngine
from semshare_core.prompt.retokenize import retokenized

ASKED = [{"role": "user", "content": "Write a short story about a lighthouse."}]
TEXT = "There was a lighthouse at Vinga, and a keeper who lit its lamp. He was never seen by day."


class Spelled(LogitsProcessor):
    """The model says ``TEXT``, its third word in single letters, and ends."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        words = ["There was a", *" lighthouse", TEXT.partition("lighthouse")[2]]
        self.left = [token for word in words for token in tokenizer(word)["input_ids"]] + [tokenizer.eos_token_id]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.left.pop(0)] = 0
        return forced


@pytest.fixture(scope="module")
def engine(demo: Any) -> SemShareEngine:
    return SemShareEngine(*demo)


def test_an_answer_is_spelled_as_its_text(demo: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    _, tokenizer = demo
    prompt = tokenizer("A lighthouse stood at Vinga, and every night", return_tensors="np")["input_ids"][0]
    letters = [tokenizer(letter)["input_ids"][0] for letter in " lighthouse"]
    assert len(letters) == 11
    again = retokenized(prompt, letters, tokenizer)
    assert tokenizer.decode(again) == tokenizer.decode(prompt) + " lighthouse"
    assert len(again) == len(prompt) + 1
    half = tokenizer("🦔")["input_ids"][:1]
    assert "\ufffd" in tokenizer.decode(half), "half a character"
    assert retokenized(prompt, half, tokenizer).tolist() == [*prompt.tolist(), *half]
    border = tokenizer("A light")["input_ids"]
    joined = retokenized(
        tokenizer("A light", return_tensors="np")["input_ids"][0], tokenizer("house")["input_ids"], tokenizer
    )
    assert joined[: len(border)].tolist() == border, "the prompt's own tokens stay"


@pytest.mark.parametrize("answered_by", ["generate", "stream"])
def test_an_answer_comes_back_as_prefix(engine: SemShareEngine, answered_by: str) -> None:
    engine.pool.clear()
    if answered_by == "generate":
        out = engine.generate(ASKED, logits_processor=[Spelled(engine.tokenizer)])
        text, ids = out.text, out.token_ids
    else:
        *_, last = pieces = list(engine.stream(ASKED, logits_processor=[Spelled(engine.tokenizer)]))
        text, ids = "".join(piece.text for piece in pieces), last.token_ids or []
    assert text == TEXT
    next_turn = [*ASKED, {"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}]
    before, told = engine.token_ids(ASKED), engine.token_ids(next_turn)
    assert told[: len(before) + len(ids)] != before + ids, "it is spelled otherwise, or this test shows nothing"
    out = engine.generate(next_turn, max_new_tokens=8, reuse="exact")
    served = engine.tokenizer.decode(told[: out.report.prefix_tokens])
    assert served.startswith(engine.tokenizer.decode(before + ids[:-1]))
    assert out.token_ids == engine.generate(next_turn, max_new_tokens=8, reuse="off", store=False).token_ids


def test_rows_of_another_spelling_are_a_full_prefills(engine: SemShareEngine) -> None:
    engine.pool.clear()
    text = engine.generate(ASKED, logits_processor=[Spelled(engine.tokenizer)]).text
    next_turn = [*ASKED, {"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}]
    reused = engine.prefill(next_turn, reuse="exact", store=False)
    assert reused.report.prefix_tokens > 40
    full = engine.prefill(next_turn, reuse="off", store=False)
    for mine, other in zip(reused.cache.layers, full.cache.layers, strict=True):
        torch.testing.assert_close(mine.keys, other.keys, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(mine.values, other.values, atol=1e-3, rtol=1e-3)


def test_tokens_given_as_ids_come_back_as_ids(engine: SemShareEngine) -> None:
    engine.pool.clear()
    ids = engine.token_ids(ASKED)
    out = engine.generate(ids, logits_processor=[Spelled(engine.tokenizer)])
    report = engine.generate([*ids, *out.token_ids, 198], max_new_tokens=1, reuse="exact", store=False).report
    assert report.prefix_tokens == len(ids) + len(out.token_ids) - 1
