"""The page on models says what was found, and finds out what is wrong."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, NanoChatConfig, NanoChatForCausalLM

from benchmarks.architectures import Verdict, judge, page
from semshare_core.model.rotary import Rotation

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_is_served_and_what_is_refused() -> None:
    assert judge(LlamaConfig, LlamaForCausalLM) == Verdict("LlamaForCausalLM", "served")
    assert judge(NanoChatConfig, NanoChatForCausalLM) == Verdict("NanoChatForCausalLM", "served")
    refused = judge(GPT2Config, GPT2LMHeadModel)
    assert refused.kind == "refused"
    assert "positions" in refused.reason


def test_keys_that_are_moved_wrongly_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    angles = Rotation.angles
    monkeypatch.setattr(Rotation, "angles", lambda rotation, shift: angles(rotation, torch.where(shift < 0, 0, shift)))
    wrong = judge(LlamaConfig, LlamaForCausalLM)
    assert wrong.kind == "wrong"
    assert "moved keys" in wrong.reason


def test_the_page_counts_and_gives_reasons() -> None:
    text = page([Verdict("A", "served"), Verdict("B", "refused", "x | y."), Verdict("C", "not tried", "no")])
    assert "## Served (1)\n" in text
    assert "| `B` | x \\| y |" in text
    assert "## Wrong" not in text
