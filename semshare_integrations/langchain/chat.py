"""ChatSemShare: LangChain's chat model, with constrained decoding for tools and structured output."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from operator import itemgetter
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, BaseRunManager, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import Field

from semshare_core import Piece, SemShareEngine
from semshare_core.prompt.own_tokenizer import encode_text
from semshare_integrations.adapter import ChatCall, ToolFields, in_thread, which_tool
from semshare_integrations.adapter.chat_call import CHAT_SETTINGS, tool_names
from semshare_integrations.langchain.answer import chat_call_of, chunk_of, result_of
from semshare_integrations.langchain.callbacks import left_early
from semshare_integrations.langchain.fields import LangChainFields

_OURS = (*CHAT_SETTINGS, "ls_structured_output_format")
_METHODS = ("function_calling", "json_schema", "json_mode")


class ChatSemShare(ToolFields, LangChainFields, BaseChatModel):
    """A local chat model that reuses the keys and values of earlier conversations.

    >>> llm = ChatSemShare(model_id="demo", max_tokens=128)
    >>> llm.invoke("Why is the sea salt?").usage_metadata["input_token_details"]
    >>> llm.bind_tools([search]).invoke("Where is Vinga?").tool_calls
    >>> llm.with_structured_output(Person).invoke("Anna is 30 years old.")

    Messages go through the model's chat template. A call's settings override the fields, as in :class:`SemShareLLM`.
    Constrained decoding makes tool calls and structured output valid, even from small models. If the template knows no
    tools, the system message describes them. ``response_metadata["semshare"]`` has the call's report.
    ``usage_metadata`` counts reused tokens as ``cache_read``, exact and approximate ones alike
    (``response_metadata["semshare"]["outcome"]`` shows which).

    Attributes:
        max_retries: accepted because other chat models have it. A local model does not need retries.
        streaming: ``invoke`` streams internally, for callbacks that listen to tokens.
    """

    model_config = LangChainFields.model_config  # repeated, because the last base's "extra" would win

    max_retries: int = Field(default=0, ge=0)
    streaming: bool = False

    @property
    def _llm_type(self) -> str:
        return "chat-semshare"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return self.identity({})

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self.tracing("chat", stop, kwargs)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._complete_profile()

    @property
    def engine(self) -> SemShareEngine:
        """The engine behind this object. The first use loads the model and completes the profile."""
        engine = super().engine
        self._complete_profile()
        return engine

    def _complete_profile(self) -> None:
        context = self._engine_source.context
        if self.profile is not None and context is not None and "max_input_tokens" not in self.profile:
            self.profile = {**self.profile, "max_input_tokens": context}

    def get_token_ids(self, text: str) -> list[int]:
        """The ids of ``text`` inside a message, by the model's own tokenizer."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return encode_text(self.engine.tokenizer, text)

    def _resolve_model_profile(self) -> ModelProfile | None:
        """The model's abilities. The loaded model adds its context."""
        return ModelProfile(
            text_inputs=True,
            image_inputs=False,
            audio_inputs=False,
            text_outputs=True,
            tool_calling=True,
            tool_choice=True,
            structured_output=False,  # together with tools: agents then use a tool for structure, which works
        )

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: dict[str, Any] | str | bool | None = None,
        parallel_tool_calls: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call ``tools``.

        Args:
            tools: functions, pydantic classes, LangChain tools or OpenAI's function schemas.
            tool_choice: None or ``"auto"``: the model decides · ``"any"``, ``"required"`` or True: at least one call ·
                ``"none"`` or False: no call · a tool's name, or OpenAI's mapping with it: that tool.
            parallel_tool_calls: allow several calls in one answer, if the model's template can write them. Off by
                default, because small models do not stop.
            strict: as for OpenAI. Arguments always match their schema.

        Raises:
            ValueError: ``tool_choice`` names no tool, or a tool is a provider's own.
        """
        formatted = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        choice = which_tool(tool_choice, tool_names(formatted))
        return self.bind(tools=formatted, tool_choice=choice, parallel_tool_calls=parallel_tool_calls, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Literal["function_calling", "json_schema", "json_mode"] = "function_calling",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Answer in the form of ``schema``: a pydantic object for a pydantic class, otherwise a mapping.

        Args:
            schema: a pydantic class, typed dict, JSON schema or OpenAI's function schema.
            include_raw: return ``{"raw", "parsed", "parsing_error"}`` instead of raising parsing errors.
            method: ``function_calling``: the answer is a tool call, and the model sees the schema · ``json_schema`` and
                ``json_mode``: the answer is JSON that matches the schema. The model sees only your prompt.
            strict: as for OpenAI. Answers always match their schema.
        """
        if method not in _METHODS:
            raise ValueError(f"method={method!r} is not known: pass one of {', '.join(_METHODS)}.")
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        if kwargs:
            raise ValueError(f"unknown arguments of with_structured_output: {', '.join(sorted(kwargs))}.")
        json_schema = convert_to_json_schema(schema)
        named = {"name": json_schema.get("title", ""), "schema": json_schema}
        model = self.bind(
            response_format={"type": "json_schema", "json_schema": named},
            ls_structured_output_format={"kwargs": {"method": method}, "schema": json_schema},
        )
        of_pydantic = isinstance(schema, type) and is_basemodel_subclass(schema)
        parser: Runnable[Any, Any] = PydanticOutputParser(pydantic_object=schema) if of_pydantic else JsonOutputParser()  # type: ignore[arg-type]
        if not include_raw:
            return model | parser
        assigned = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=model) | assigned.with_fallbacks([failed], exception_key="parsing_error")

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        chat_call = chat_call_of(self.engine, messages, kwargs)
        with closing(self._pieces(chat_call, stop, kwargs, run_manager)) as pieces:
            return result_of(chat_call, list(pieces), self.model_id)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        async with aclosing(self._apieces(messages, stop, kwargs, run_manager)) as both:
            gathered = [pair async for pair in both]
        return result_of(gathered[0][0], [piece for _, piece in gathered], self.model_id)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        chat_call = chat_call_of(self.engine, messages, kwargs)
        with closing(self._pieces(chat_call, stop, kwargs, run_manager)) as pieces:
            for piece in pieces:
                if (chunk := chunk_of(chat_call, piece, self.model_id)) is not None:
                    if run_manager is not None:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(self._apieces(messages, stop, kwargs, run_manager)) as both:
            async for chat_call, piece in both:
                if (chunk := chunk_of(chat_call, piece, self.model_id)) is not None:
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def _pieces(
        self,
        chat_call: ChatCall,
        stop: list[str] | None,
        overrides: Mapping[str, Any],
        run: BaseRunManager | None,
        cancel: threading.Event | None = None,
    ) -> Generator[Piece, None, None]:
        settings = self.call_settings(stop, {name: value for name, value in overrides.items() if name not in _OURS})
        settings["on_left"] = left_early(run)
        yield from chat_call.stream(settings, cancel)

    def _apieces(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        overrides: Mapping[str, Any],
        run: BaseRunManager | None,
    ) -> AsyncGenerator[tuple[ChatCall, Piece], None]:
        def make(closed: threading.Event) -> Generator[tuple[ChatCall, Piece], None, None]:
            chat_call = chat_call_of(self.engine, messages, overrides)  # in the thread, because it may load the model
            for piece in self._pieces(chat_call, stop, overrides, run, closed):
                yield chat_call, piece

        notify = left_early(run)

        def unread(both: tuple[ChatCall, Piece]) -> None:
            if both[1].report is not None:
                notify(both[1].report)

        return in_thread(make, unread)
