"""The name by which a model takes its cache is the model's own, so that no transformers release warns of the other."""

from __future__ import annotations

import ast
import functools
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import DynamicCache

from semshare_core import SemShareEngine
from semshare_core.model.cache_argument import with_cache
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread", "bounds_kept")


def renamed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """As transformers wraps a forward pass whose argument has another name now."""

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        assert "past_key_values" not in kwargs
        return forward(*args, **kwargs)

    return wrapped


class Old(nn.Module):
    def forward(self, input_ids: Any = None, past_key_values: Any = None) -> Any:
        return past_key_values


class New(nn.Module):
    @renamed
    def forward(self, input_ids: Any = None, cache: Any = None) -> Any:
        return cache


@pytest.mark.parametrize("module", [Old(), New()], ids=["before the renaming", "after it"])
def test_a_model_is_given_its_cache_by_the_name_it_knows(module: nn.Module) -> None:
    cache = DynamicCache()
    assert module(input_ids=None, **with_cache(module, cache)) is cache


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "mpt"])
def test_the_first_calls_of_an_engine_are_silent(
    architecture: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "The lighthouse was built in 1890 by the harbour. "
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with warnings.catch_warnings(record=True) as said, caplog.at_level(logging.WARNING, logger="transformers"):
        warnings.simplefilter("always")
        engine = SemShareEngine(tiny_model(architecture), tiny_tokenizer())
        for prompt in (text * 8, "Moved. " + text * 8):
            engine.generate(prompt, max_new_tokens=3)
        engine.prefill(text * 9, reuse="exact")
        list(engine.stream(text * 9 + "And?", max_new_tokens=3))
    assert [str(item.message) for item in said if "is not calibrated" not in str(item.message)] == []
    assert [record.getMessage() for record in caplog.records] == []


def test_no_call_of_ours_names_the_argument_itself() -> None:
    """The newest transformers, which warns of it, is not the one that is installed everywhere."""
    root = Path(__file__).parents[2]
    named = [
        f"{path.relative_to(root)}:{node.lineno}"
        for room in ("semshare_core", "semshare_integrations", "benchmarks")
        for path in sorted((root / room).rglob("*.py"))
        if path.parent.name != "workers"  # they run beside pinned versions
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.keyword) and node.arg == "past_key_values"
    ]
    assert named == []
