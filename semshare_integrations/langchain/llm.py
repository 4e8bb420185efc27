"""SemShareLLM: LangChain's text-in, text-out model."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseRunManager,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models import BaseLLM
from langchain_core.language_models.base import LangSmithParams, LanguageModelInput
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import Field
from typing_extensions import Self

from semshare_core import Piece, ReuseReport
from semshare_core.prompt.own_tokenizer import encode_text
from semshare_integrations.adapter import in_thread, token_usage
from semshare_integrations.langchain.callbacks import left_early
from semshare_integrations.langchain.fields import LangChainFields
from semshare_integrations.statistics.recent import brief

_OF_LANGCHAIN = ("tags", "metadata", "run_name", "run_id")

_call_settings: ContextVar[Mapping[str, Any] | None] = ContextVar("semshare_call_settings", default=None)


class SemShareLLM(LangChainFields, BaseLLM):
    """A local model that reuses the keys and values of earlier prompts.

    >>> llm = SemShareLLM(model_id="demo", max_new_tokens=64, stop=["\\n\\n"])
    >>> chain = PromptTemplate.from_template("Q: {question}\\nA:") | llm | StrOutputParser()
    >>> llm.invoke("Once upon a time", temperature=0.7, seed=1, reuse="exact", namespace="alice")

    Prompts do not go through a chat template. A call's settings override the fields: ``max_new_tokens``,
    ``temperature``, ``top_p``, ``seed``, ``stop``, ``reuse``, ``namespace``, ``store``, ``timeout``, and any other
    field of transformers' ``GenerationConfig``. An unknown setting is an error. ``generation_info["semshare"]`` has the
    call's :class:`~semshare_core.ReuseReport` as a dict (of a stream, in the last chunk), and
    :class:`SemShareCallbackHandler` collects it.

    The first call loads the model. Many threads and tasks may use one object; calls run one at a time.

    Attributes:
        batch_size: accepted because other local models have it. Prompts run one after the other, so that each can
            reuse the earlier ones.
    """

    model_config = LangChainFields.model_config  # repeated, because the last base's "extra" would win

    batch_size: int = Field(default=1, ge=1)

    @classmethod
    def from_model_id(cls, model_id: str, **settings: Any) -> Self:
        """The same as ``SemShareLLM(model_id=model_id, ...)``."""
        return cls(model_id=model_id, **settings)

    @property
    def _llm_type(self) -> str:
        return "semshare"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return self.identity(_call_settings.get() or {})

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self.tracing("llm", stop, kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """The ids that ``text`` becomes as a prompt, by the model's own tokenizer."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return encode_text(self.engine.tokenizer, text, special=True)

    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """LangChain's ``generate``, with the call's settings in the key of the response cache."""
        with _cache_key(kwargs):
            return super().generate(prompts, stop, callbacks, **kwargs)

    async def agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Callbacks | list[Callbacks] | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """LangChain's ``agenerate``; see :meth:`generate`."""
        with _cache_key(kwargs):
            return await super().agenerate(prompts, stop, callbacks, **kwargs)

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """LangChain's ``batch``. With ``return_exceptions`` a prompt that fails does not lose the others' answers."""
        if return_exceptions:
            return Runnable.batch(self, inputs, _sequential(config, inputs), return_exceptions=True, **kwargs)
        return super().batch(inputs, config, **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """LangChain's ``abatch``; see :meth:`batch`."""
        if return_exceptions:
            return await Runnable.abatch(self, inputs, _sequential(config, inputs), return_exceptions=True, **kwargs)
        return await super().abatch(inputs, config, **kwargs)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        settings = self.call_settings(stop, kwargs)
        answers = [self.engine.generate(prompt, **settings) for prompt in prompts]
        return self._result([(answer.text, _info(answer.report, answer.finish_reason)) for answer in answers])

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        answers = []
        for prompt in prompts:
            # as a stream, because a cancelled task must free the engine
            async with aclosing(self._apieces(prompt, stop, kwargs, run_manager)) as pieces:
                chunks = [_chunk(piece) async for piece in pieces]
            answers.append(("".join(chunk.text for chunk in chunks), chunks[-1].generation_info or {}))
        return self._result(answers)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        with closing(self._pieces(prompt, stop, kwargs, run_manager)) as pieces:
            for piece in pieces:
                chunk = _chunk(piece)
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        async with aclosing(self._apieces(prompt, stop, kwargs, run_manager)) as pieces:
            async for piece in pieces:
                chunk = _chunk(piece)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _pieces(
        self,
        prompt: str,
        stop: list[str] | None,
        overrides: Mapping[str, Any],
        run: BaseRunManager | None,
        cancel: threading.Event | None = None,
    ) -> Generator[Piece, None, None]:
        settings = self.call_settings(stop, overrides)
        yield from self.engine.stream(prompt, **settings, cancel=cancel, on_left=left_early(run))

    def _apieces(
        self, prompt: str, stop: list[str] | None, overrides: Mapping[str, Any], run: BaseRunManager | None
    ) -> AsyncGenerator[Piece, None]:
        notify = left_early(run)

        def unread(piece: Piece) -> None:
            if piece.report is not None:
                notify(piece.report)

        return in_thread(lambda closed: self._pieces(prompt, stop, overrides, run, closed), unread)

    def _result(self, answers: list[tuple[str, dict[str, Any]]]) -> LLMResult:
        reports = [info["semshare"] for _, info in answers]
        prompt_tokens = sum(report["prompt_tokens"] for report in reports)
        completion_tokens = sum(report["generated_tokens"] for report in reports)
        usage = token_usage(prompt_tokens, completion_tokens)
        return LLMResult(
            generations=[[Generation(text=text, generation_info=info)] for text, info in answers],
            llm_output={"token_usage": usage, "model_name": self.model_id},
        )


def _sequential(
    config: RunnableConfig | list[RunnableConfig] | None, inputs: list[LanguageModelInput]
) -> list[RunnableConfig]:
    """Run one prompt at a time, so that each can reuse the earlier ones."""
    return [{**single, "max_concurrency": 1} for single in get_config_list(config, len(inputs))]


@contextmanager
def _cache_key(kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Add the call's settings to ``_identifying_params``.

    The key of LangChain's response cache has only the object's fields (langchain issue 40403). So one namespace would
    get another's answer, and one temperature another's.
    """
    token = _call_settings.set({name: value for name, value in kwargs.items() if name not in _OF_LANGCHAIN})
    try:
        yield
    finally:
        _call_settings.reset(token)


def _info(report: ReuseReport, finish_reason: str | None) -> dict[str, Any]:
    return {"semshare": brief(report), "finish_reason": finish_reason}


def _chunk(piece: Piece) -> GenerationChunk:
    """Only the last chunk has the report, because LangChain merges the information of all chunks."""
    info = None if piece.report is None else _info(piece.report, piece.finish_reason)
    return GenerationChunk(text=piece.text, generation_info=info)
