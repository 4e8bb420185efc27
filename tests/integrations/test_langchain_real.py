"""SemShareLLM on the real model."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core import ReuseReport
from semshare_integrations.langchain import SemShareLLM

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_demo_model_by_its_name(demo: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = demo
    prompt = "The capital of France is"
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    by_name = SemShareLLM(model_id="demo", device="cpu", dtype="float32", max_new_tokens=12)
    answer = by_name.invoke(prompt)
    assert answer == tokenizer.decode(expected, skip_special_tokens=True)
    assert "Paris" in answer
    assert by_name.get_num_tokens(prompt) == ids.shape[1]


def test_a_conversation_with_the_demo_model(demo: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = demo
    llm = SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=24, reuse="exact", stop=["\nUser:", "\n\n"])
    prompt = (
        "A conversation about the harbour of Elsinore, its ferries, its castle, and the price of a ticket, which is "
        "four crowns for grown-ups and two for children.\n\nUser: What does a ticket for a child cost?\nAssistant:"
    )
    answer = "".join(llm.stream(prompt))
    assert answer.strip()
    assert "\nUser:" not in answer
    follow_up = f"{prompt}{answer}\nUser: And for a grown-up?\nAssistant:"
    alone = SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=24, reuse="off", stop=llm.stop)
    result = llm.generate([follow_up])
    report = ReuseReport.model_validate((result.generations[0][0].generation_info or {})["semshare"])
    assert report.outcome == "prefix"
    assert report.prefix_tokens >= llm.get_num_tokens(prompt)
    assert result.generations[0][0].text == alone.invoke(follow_up)
