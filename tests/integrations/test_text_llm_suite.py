"""SemShareLLM through the standard suite for text models; and models with known faults, which the suite must find."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import LLM, BaseLLM
from langchain_core.outputs import GenerationChunk

from semshare_core import SemShareEngine
from semshare_integrations.langchain import SemShareLLM
from text_llm_suite import TextLLMTests
from tiny_models import tiny_model, tiny_tokenizer

NO_LETTERS = [token for token in range(259) if not ord("a") <= token <= ord("z")]


class Small(SemShareLLM):
    """Answers in small letters, so that a token is a character."""

    def call_settings(self, stop: Any, overrides: Any) -> dict[str, Any]:
        return super().call_settings(stop, {"suppress_tokens": NO_LETTERS, **overrides})


class _OnEngine(TextLLMTests):
    engine: ClassVar[SemShareEngine]
    length: ClassVar[int]

    @property
    def llm_params(self) -> dict[str, Any]:
        return {"engine": self.engine, "max_tokens": self.length, "reuse": "exact"}

    def watch_computation(self, note: Callable[[], None]) -> None:
        self.engine.model.register_forward_pre_hook(lambda *_: note())


@pytest.mark.usefixtures("one_thread")
class TestTiny(_OnEngine):
    """On a random model."""

    length = 20
    llm_class = Small

    @pytest.fixture(autouse=True, scope="class")
    def made(self) -> None:
        type(self).engine = SemShareEngine(tiny_model("llama", seed=3), tiny_tokenizer())


@pytest.mark.real
@pytest.mark.slow
class TestDemo(_OnEngine):
    """On the real model."""

    length = 8
    llm_class = SemShareLLM

    @pytest.fixture(autouse=True, scope="class")
    def made(self, demo: Any) -> None:
        type(self).engine = SemShareEngine(*demo)


# Does the suite find faults?


class Toy(LLM):
    """Says letters of the alphabet, beginning where the prompt's length says; with faults on demand."""

    fault: str = ""
    max_tokens: int = 20

    @property
    def _llm_type(self) -> str:
        return "toy"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"fault": self.fault}

    def _text(self, prompt: str, stop: list[str] | None, kwargs: dict[str, Any], streamed: bool) -> str:
        if unknown := set(kwargs) - {"max_tokens", "temperature", "seed"}:
            raise ValueError(f"unknown: {unknown}")
        begin = len(prompt) + 7 * kwargs.get("seed", 0)
        length = self.max_tokens if self.fault == "ignores length" else kwargs.get("max_tokens", self.max_tokens)
        text = "".join(chr(97 + (begin + at) % 26) for at in range(length))
        if not (self.fault == "ignores stop when streaming" and streamed):
            text = text[: min((text.index(each) for each in stop or () if each in text), default=len(text))]
        return prompt + text if self.fault == "echoes the prompt" else text

    def _call(
        self, prompt: str, stop: Any = None, run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any
    ) -> str:
        return self._text(prompt, stop, kwargs, streamed=False)

    def _stream(
        self, prompt: str, stop: Any = None, run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any
    ) -> Iterator[GenerationChunk]:
        for letter in self._text(prompt, stop, kwargs, streamed=True) or [""]:
            if run_manager is not None and self.fault != "tells no tokens":
                run_manager.on_llm_new_token(letter)
            yield GenerationChunk(text=letter)


class ToySuite(TextLLMTests):
    """The suite, called test by test."""

    __test__ = False
    fault = ""
    llm_class = Toy

    @property
    def llm_params(self) -> dict[str, Any]:
        return {"fault": self.fault}

    def watch_computation(self, note: Callable[[], None]) -> None: ...


def run(suite: ToySuite, test: str, known: dict[str, Any]) -> None:
    """One test of the suite, with the fixtures in ``known``; the only parameter that a test has is ``how``."""
    method = getattr(suite, f"test_{test}")
    method(**{name: known.get(name, "call") for name in inspect.signature(method).parameters})


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("ignores stop when streaming", "stop_strings_in_all_ways"),
        ("ignores stop when streaming", "the_first_of_several_stop_strings"),
        ("echoes the prompt", "the_prompt_is_not_in_the_answer"),
        ("ignores length", "answers_end_at_their_length"),
        ("tells no tokens", "callbacks_hear_every_token_and_the_end"),
        ("shares cache entries", "the_response_cache_tells_calls_apart"),
        ("tells no usage", "token_usage_is_told"),
    ],
)
def test_the_suite_finds_faults(fault: str, test: str) -> None:
    """The last two are faults of LangChain's own base class."""
    suite = ToySuite()
    suite.fault = fault
    llm: BaseLLM = Toy(fault=fault)
    said = llm if fault == "echoes the prompt" else Toy()
    known = {"llm": llm, "answer": said.invoke(suite.prompt)}
    with pytest.raises((AssertionError, KeyError, TypeError)):
        run(suite, test, known)


@pytest.mark.parametrize("test", ["all_ways_agree", "stop_strings_in_all_ways", "a_batch_keeps_order", "in_a_chain"])
def test_the_suite_passes_what_has_no_fault(test: str) -> None:
    suite = ToySuite()
    known = {"llm": Toy(), "answer": Toy().invoke(suite.prompt)}
    run(suite, test, known)
