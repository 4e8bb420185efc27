"""SemShareLLM: LlamaIndex's model for completions, chats, tools and structured output."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any

from llama_index.core.base.llms.generic_utils import messages_to_prompt as generic_messages_to_prompt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.program.utils import get_program_for_llm
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.tools import BaseTool
from llama_index.core.types import BasePydanticProgram, Model, PydanticProgramMode
from pydantic import AliasChoices, Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core import Piece, SemShareEngine
from semshare_core.errors import PromptError
from semshare_integrations.adapter import ChatCall, ToolFields, in_thread
from semshare_integrations.adapter.chat_call import CHAT_SETTINGS
from semshare_integrations.llama_index.answer import Answer, astreamed, streamed
from semshare_integrations.llama_index.messages import to_openai_tool, to_template


class SemShareLLM(ToolFields, FunctionCallingLLM):
    """A local model that reuses the keys and values of earlier prompts.

    >>> llm = SemShareLLM(model_id="demo", max_new_tokens=64)
    >>> index.as_query_engine(llm=llm, similarity_top_k=2).query("When was the lighthouse built?")
    >>> FunctionAgent(tools=[search], llm=llm)
    >>> llm.structured_predict(Person, PromptTemplate("{text}"), text="Anna is 30 years old.")

    ``complete`` takes a plain text, ``chat`` goes through the model's chat template. A call's settings override the
    fields: ``max_new_tokens``, ``temperature``, ``stop``, ``seed``, ``reuse``, ``namespace``, and any other field of
    transformers' ``GenerationConfig``. An unknown setting is an error. Constrained decoding makes tool calls and
    structured output valid. ``raw["semshare"]`` has the call's :class:`~semshare_core.ReuseReport` as a dict. A
    :class:`SemShareReuseEvent` has it, too, because query engines drop ``raw``. ``raw["usage"]`` counts tokens as
    OpenAI does.

    The first call, or the first reading of ``metadata``, loads the model.

    Attributes:
        model_id: hub id, local folder, ``.gguf`` file or ``"demo"``; ``model_name`` is accepted, too.
        generate_kwargs: fields of transformers' ``GenerationConfig`` for every call.
        context_window: a smaller context than the model's.
        is_function_calling_model: with False, LlamaIndex describes tools and structure in the prompt.
    """

    model_config = ToolFields.model_config  # repeated, because the last base's "extra" would win

    model_id: str = Field(default="", validation_alias=AliasChoices("model_id", "model_name"))
    generate_kwargs: dict[str, Any] = Field(default_factory=dict)
    context_window: int | None = Field(default=None, ge=2)
    is_function_calling_model: bool = True

    def __init__(
        self,
        *,
        engine: SemShareEngine | None = None,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        tokenizer_name: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            engine=engine, model=model, tokenizer=tokenizer_name if tokenizer is None else tokenizer, **settings
        )

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex saves the object."""
        return "SemShareLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """The model's context and abilities. Loads the model."""
        engine = self.engine
        chats = bool(engine.tokenizer.chat_template) or self._writes_prompts
        return LLMMetadata(
            context_window=min(self.context_window or engine.context, engine.context),
            num_output=self.max_new_tokens,
            is_chat_model=chats,
            is_function_calling_model=self.is_function_calling_model and bool(engine.tokenizer.chat_template),
            model_name=self.model_id,
        )

    def to_payload(self) -> dict[str, Any]:
        """The data for events and traces. Does not load the model, because event loops call it."""
        settings = {name: getattr(self, name) for name in ("max_new_tokens", "temperature", "namespace")}
        return {"class_name": self.class_name(), "model_name": self.model_id, **settings}

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Continue a text. If it is ``formatted``, it gets neither ``system_prompt`` nor ``completion_to_prompt``."""
        answer = Answer(self.model_id, "text_completion")
        return answer.completion(*self._whole(self._completion_call(prompt, formatted), kwargs, answer))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """:meth:`complete`, piece by piece. Closing the iterator ends the call within the time of one layer."""
        answer = Answer(self.model_id, "text_completion")
        return streamed(self._pieces(self._completion_call(prompt, formatted), kwargs, answer), answer.completion)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """:meth:`complete` in a thread. Cancelling the task frees the model within the time of one layer."""
        answer = Answer(self.model_id, "text_completion")
        return answer.completion(*await self._awhole(self._completion_call(prompt, formatted), kwargs, answer))

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """:meth:`stream_complete` in a thread."""
        answer = Answer(self.model_id, "text_completion")
        return astreamed(self._apieces(self._completion_call(prompt, formatted), kwargs, answer), answer.completion)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer the last of ``messages``. ``tools``, ``tool_choice`` and ``response_format`` are OpenAI's."""
        answer = Answer(self.model_id, "chat")
        return answer.chat(*self._whole(self._chat_call(messages, kwargs), kwargs, answer))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """:meth:`chat`, piece by piece. Tool calls come with the last piece."""
        answer = Answer(self.model_id, "chat")
        return streamed(self._pieces(self._chat_call(messages, kwargs), kwargs, answer), answer.chat)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """:meth:`chat` in a thread. Cancelling the task frees the model within the time of one layer."""
        answer = Answer(self.model_id, "chat")
        return answer.chat(*await self._awhole(self._chat_call(messages, kwargs), kwargs, answer))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """:meth:`stream_chat` in a thread."""
        answer = Answer(self.model_id, "chat")
        return astreamed(self._apieces(self._chat_call(messages, kwargs), kwargs, answer), answer.chat)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The tool calls in an answer.

        Raises:
            ValueError: the answer has no tool call, and ``error_on_no_tool_call`` is true.
        """
        calls = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        if not calls and error_on_no_tool_call:
            raise ValueError(
                f"the model called no tool but answered {response.message.content!r}: pass tool_required=True, or "
                "error_on_no_tool_call=False."
            )
        return [
            ToolSelection(
                tool_id=call.tool_call_id or "",
                tool_name=call.tool_name,
                tool_kwargs=call.tool_kwargs if isinstance(call.tool_kwargs, dict) else {},
            )
            for call in calls
        ]

    def call_settings(self, stop: list[str] | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of one call of the engine. The call overrides ``generate_kwargs``, which override the fields."""
        return super().call_settings(stop, {**self.one_name(self.generate_kwargs), **self.one_name(overrides)})

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: Mapping[str, Any] | str | bool | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = list(chat_history or [])
        if user_msg is not None:
            messages.append(ChatMessage(user_msg) if isinstance(user_msg, str) else user_msg)
        return {
            "messages": messages,
            "tools": [to_openai_tool(tool) for tool in tools],
            "tool_choice": ("any" if tool_required else "auto") if tool_choice is None else tool_choice,
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def _structured_stream_call(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        return self._program(output_cls, prompt).stream_call(llm_kwargs=llm_kwargs, **prompt_args)

    async def _structured_astream_call(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        return await self._program(output_cls, prompt).astream_call(llm_kwargs=llm_kwargs, **prompt_args)

    def _program(self, output_cls: type[Model], prompt: BasePromptTemplate) -> BasePydanticProgram[Model]:
        """LlamaIndex's program. ``tool_choice`` makes its streams require the tool call that they need."""
        calls = self.pydantic_program_mode in (PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION)
        required = {"tool_choice": "any"} if calls and self.metadata.is_function_calling_model else {}
        return get_program_for_llm(
            output_cls, prompt, self, pydantic_program_mode=self.pydantic_program_mode, **required
        )

    @property
    def _writes_prompts(self) -> bool:
        """Whether the user passed ``messages_to_prompt``. Otherwise LlamaIndex sets its own function."""
        return self.messages_to_prompt not in (None, generic_messages_to_prompt)

    def _completion_call(self, prompt: str, formatted: bool) -> Callable[[], ChatCall]:
        def make() -> ChatCall:
            if formatted:
                return ChatCall.of_text(self.engine, prompt)
            assert self.completion_to_prompt is not None
            return ChatCall.of_text(self.engine, self.completion_to_prompt(self._extend_prompt(prompt)))

        return make

    def _chat_call(self, messages: Sequence[ChatMessage], overrides: Mapping[str, Any]) -> Callable[[], ChatCall]:
        def make() -> ChatCall:
            chat = list(messages)
            if strange := [message for message in chat if not isinstance(message, ChatMessage)]:
                raise PromptError(f"chat takes a list of LlamaIndex's ChatMessage objects; it contains {strange[0]!r}.")
            if chat and chat[0].role not in (MessageRole.SYSTEM, MessageRole.DEVELOPER):
                chat = self._extend_messages(chat)
            settings = {name: overrides[name] for name in CHAT_SETTINGS if overrides.get(name) is not None}
            if not self._writes_prompts:
                return ChatCall.of(self.engine, to_template(chat), **settings)
            if settings.get("tools") or settings.get("response_format"):
                raise ValueError(
                    "tools and response_format need the model's chat template: leave messages_to_prompt out."
                )
            assert self.messages_to_prompt is not None
            return ChatCall.of_text(self.engine, self.messages_to_prompt(chat))

        return make

    def _pieces(
        self,
        make: Callable[[], ChatCall],
        overrides: Mapping[str, Any],
        answer: Answer,
        cancel: threading.Event | None = None,
    ) -> Generator[tuple[ChatCall, Piece], None, None]:
        engine_settings = {name: value for name, value in overrides.items() if name not in CHAT_SETTINGS}
        settings = {**self.call_settings(None, engine_settings), "on_left": answer.left}
        chat_call = make()
        for piece in chat_call.stream(settings, cancel):
            yield chat_call, piece

    def _apieces(
        self, make: Callable[[], ChatCall], overrides: Mapping[str, Any], answer: Answer
    ) -> AsyncGenerator[tuple[ChatCall, Piece], None]:
        def unread(both: tuple[ChatCall, Piece]) -> None:
            if both[1].report is not None:
                answer.left(both[1].report)

        return in_thread(lambda closed: self._pieces(make, overrides, answer, closed), unread)

    def _whole(
        self, make: Callable[[], ChatCall], overrides: Mapping[str, Any], answer: Answer
    ) -> tuple[ChatCall, Piece]:
        with closing(self._pieces(make, overrides, answer)) as pieces:
            for chat_call, piece in pieces:
                chat_call.take(piece)
        return chat_call, piece

    async def _awhole(
        self, make: Callable[[], ChatCall], overrides: Mapping[str, Any], answer: Answer
    ) -> tuple[ChatCall, Piece]:
        # as a stream, because a cancelled task must free the engine
        async with aclosing(self._apieces(make, overrides, answer)) as pieces:
            async for chat_call, piece in pieces:
                chat_call.take(piece)
        return chat_call, piece
