"""ChatSemShare: LangChain's chat model, with tools and structured output held to by constrained decoding."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal
from uuid import uuid4

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import Field

from semshare_core import Piece, ReuseReport, SemShareEngine
from semshare_core.prompt import Chat
from semshare_integrations.langchain.fields import EngineFields
from semshare_integrations.langchain.in_thread import in_thread
from semshare_integrations.langchain.messages import to_template
from semshare_integrations.tools import (
    CallFormat,
    Reply,
    call_format,
    constraint,
    json_grammar,
    parse_reply,
    reply_grammar,
    smallest,
)
from semshare_integrations.tools.reply import settled_text

_OURS = ("tools", "tool_choice", "parallel_tool_calls", "response_format", "ls_structured_output_format")
_METHODS = ("function_calling", "json_schema", "json_mode")
_RESERVE = 16  # tokens, beyond those of the smallest JSON, that bringing a reply to its end may take


class ChatSemShare(EngineFields, BaseChatModel):
    """A local chat model that reuses the keys and values of earlier conversations.

    >>> llm = ChatSemShare(model_id="demo", max_tokens=128)
    >>> llm.invoke("Why is the sea salt?").usage_metadata["input_token_details"]
    >>> llm.bind_tools([search]).invoke("Where is Vinga?").tool_calls
    >>> llm.with_structured_output(Person).invoke("Anna is 30 years old.")

    Messages go through the model's chat template. Settings of a call go before the fields, as in :class:`SemShareLLM`.
    Tool calls and structured output are enforced while decoding, so that a small model, too, makes valid ones; a
    template that knows no tools gets a generic description of them in the system message. What a call reused is in
    ``response_metadata["semshare"]``, and ``usage_metadata`` counts what was not computed again as ``cache_read``,
    approximate reuse included (``response_metadata["semshare"]["outcome"]`` tells).

    Attributes:
        timeout: seconds after which a call is given up with :class:`TimeoutError`; it frees the model within a token.
        max_retries: accepted because other chat models have it; a local model has no failures that pass.
        streaming: ``invoke`` streams behind the scenes, for callbacks that listen to tokens.
    """

    model_config = EngineFields.model_config  # said again: of two bases the last one's "extra" would win

    timeout: float | None = Field(default=None, gt=0)
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

    def _resolve_model_profile(self) -> ModelProfile | None:
        return ModelProfile(
            text_inputs=True,
            image_inputs=False,
            audio_inputs=False,
            text_outputs=True,
            tool_calling=True,
            tool_choice=True,
            structured_output=True,
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
                ``"none"`` or False: no call · a tool's name, or OpenAI's mapping with it: that one.
            parallel_tool_calls: several calls in one answer, if the model's template can write them. Off by default:
                small models do not come to an end.
            strict: as for OpenAI; arguments keep to their schema in any case.

        Raises:
            ValueError: ``tool_choice`` names no tool of ``tools``.
        """
        formatted = [convert_to_openai_tool(each, strict=strict) for each in tools]
        choice = _choice(tool_choice, [each["function"]["name"] for each in formatted])
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
        """Answers in the form of ``schema``: a pydantic object for a pydantic class, a mapping otherwise.

        Args:
            schema: pydantic class, typed dict, JSON schema or OpenAI's function schema.
            include_raw: return ``{"raw", "parsed", "parsing_error"}`` and raise no error of parsing.
            method: ``function_calling``: as the call of a tool, whose schema the model is shown · ``json_schema`` and
                ``json_mode``: the answer is JSON, held to the schema, which only the prompt can tell the model of.
            strict: as for OpenAI; answers keep to their schema in any case.
        """
        if method not in _METHODS:
            raise ValueError(f"method={method!r} is not known: pass one of {', '.join(_METHODS)}.")
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        if kwargs:
            raise ValueError(f"unknown arguments of with_structured_output: {', '.join(sorted(kwargs))}.")
        told = convert_to_json_schema(schema)
        model = self.bind(
            response_format={"type": "json_schema", "json_schema": {"name": told.get("title", ""), "schema": told}},
            ls_structured_output_format={"kwargs": {"method": method}, "schema": told},
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
        turn = _Turn.of(self, messages, kwargs)
        with closing(self._pieces(turn, stop, kwargs)) as pieces:
            return turn.result(list(pieces), self.model_id)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        async with aclosing(self._apieces(messages, stop, kwargs)) as both:
            gathered = [pair async for pair in both]
        return gathered[0][0].result([piece for _, piece in gathered], self.model_id)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        turn = _Turn.of(self, messages, kwargs)
        with closing(self._pieces(turn, stop, kwargs)) as pieces:
            for piece in pieces:
                for chunk in turn.chunks(piece, self.model_id):
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
        async with aclosing(self._apieces(messages, stop, kwargs)) as both:
            async for turn, piece in both:
                for chunk in turn.chunks(piece, self.model_id):
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def _pieces(
        self,
        turn: _Turn,
        stop: list[str] | None,
        overrides: Mapping[str, Any],
        cancel: threading.Event | None = None,
    ) -> Generator[Piece, None, None]:
        settings = self.call_settings(stop, {name: value for name, value in overrides.items() if name not in _OURS})
        timeout = settings.pop("timeout", None) or self.timeout
        cancel = cancel or threading.Event()
        over = threading.Event()

        def give_up() -> None:
            over.set()
            cancel.set()

        timer = threading.Timer(timeout, give_up) if timeout else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            yield from turn.engine.stream(
                turn.prompt, **turn.settings(settings["max_new_tokens"]), **settings, cancel=cancel
            )
        finally:
            if timer is not None:
                timer.cancel()
        if over.is_set():
            raise TimeoutError(f"the call took longer than timeout={timeout:g} seconds and was given up.")

    def _apieces(
        self, messages: list[BaseMessage], stop: list[str] | None, overrides: Mapping[str, Any]
    ) -> AsyncGenerator[tuple[_Turn, Piece], None]:
        def make(closed: threading.Event) -> Generator[tuple[_Turn, Piece], None, None]:
            turn = _Turn.of(self, messages, overrides)  # in the thread: it may load the model
            for piece in self._pieces(turn, stop, overrides, closed):
                yield turn, piece

        return in_thread(make)


@dataclass
class _Turn:
    """One question and its answer: the prompt, what the answer is held to, and how it is read."""

    engine: SemShareEngine
    prompt: Chat
    grammar: str | None
    ending: str
    form: CallFormat
    names: list[str]
    sent: int = 0
    text: str = ""

    @classmethod
    def of(cls, model: ChatSemShare, messages: list[BaseMessage], overrides: Mapping[str, Any]) -> _Turn:
        engine = model.engine
        told = to_template(messages)
        tools, response = overrides.get("tools") or [], overrides.get("response_format")
        tools = [convert_to_openai_tool(each) for each in tools]
        names = [each["function"]["name"] for each in tools]
        form = call_format(engine.tokenizer)
        prompt = Chat(form.messages(told, tools), tools if form.native else ())
        choice = _choice(overrides.get("tool_choice"), names)
        grammar, ending = None, ""
        if tools and choice != "none":
            if response is not None:
                raise ValueError("response_format and tools exclude each other in one call: leave one of them out.")
            parallel = bool(overrides.get("parallel_tool_calls"))
            grammar = reply_grammar(form, tools, choice, parallel, engine.tokenizer)
            longest = [(each["function"]["name"], smallest(each["function"].get("parameters")) or {}) for each in tools]
            ending = max((form.write([call]) for call in longest), key=len)
        elif response is not None:
            schema = _response_schema(response)
            grammar = None if schema is None else json_grammar(schema)
            ending = json.dumps(smallest(schema))
        return cls(engine, prompt, grammar, ending, form, names if choice != "none" else [])

    def settings(self, max_new_tokens: int) -> dict[str, Any]:
        if self.grammar is None:
            return {}
        model, tokenizer = self.engine.model, self.engine.tokenizer
        reserve = _RESERVE + len(tokenizer(self.ending, add_special_tokens=False)["input_ids"])
        return {"logits_processor": [constraint(self.grammar, model, tokenizer, max_new_tokens, reserve)]}

    def result(self, pieces: list[Piece], model_name: str) -> ChatResult:
        text, last = "".join(piece.text for piece in pieces), pieces[-1]
        assert last.report is not None
        reply = self._read(text, last)
        message = AIMessage(
            content=reply.text,
            tool_calls=[
                tool_call(name=call.name, args=call.arguments, id=f"call_{uuid4().hex[:24]}") for call in reply.calls
            ],
            invalid_tool_calls=[
                invalid_tool_call(name=bad.name, args=bad.text, id=f"call_{uuid4().hex[:24]}", error=bad.error)
                for bad in reply.invalid
            ],
            usage_metadata=_usage(last.report),
            response_metadata=_metadata(last, reply, model_name),
        )
        return ChatResult(
            generations=[ChatGeneration(message=message)],
            llm_output={"token_usage": dict(_counts(last.report)), "model_name": model_name},
        )

    def chunks(self, piece: Piece, model_name: str) -> Iterator[ChatGenerationChunk]:
        """What to pass on of ``piece``: text as soon as it is surely none of a call's, calls with the last piece."""
        self.text += piece.text
        if piece.report is None:
            if self.names and not self.form.opening.strip():
                return
            ready = settled_text(self.text, self.form) if self.names else len(self.text)
            if ready > self.sent:
                yield ChatGenerationChunk(message=AIMessageChunk(content=self.text[self.sent : ready]))
                self.sent = ready
            return
        reply = self._read(self.text, piece)
        calls = [(call.name, json.dumps(call.arguments, ensure_ascii=False)) for call in reply.calls]
        calls += [(bad.name or "", bad.text) for bad in reply.invalid]
        rest = reply.text[self.sent :] if reply.calls or reply.invalid else self.text[self.sent :]
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content=rest,
                tool_call_chunks=[
                    tool_call_chunk(name=name, args=arguments, id=f"call_{uuid4().hex[:24]}", index=index)
                    for index, (name, arguments) in enumerate(calls)
                ],
                usage_metadata=_usage(piece.report),
                response_metadata=_metadata(piece, reply, model_name),
                chunk_position="last",
            )
        )

    def _read(self, text: str, last: Piece) -> Reply:
        """The reply; its calls are read from the tokens, because text leaves special tokens out."""
        if not self.names:
            return Reply(text)
        tokenizer = self.engine.tokenizer
        ids = list(last.token_ids or [])
        ends = {tokenizer.eos_token_id, *_ids(self.engine.model.generation_config.eos_token_id)}
        while ids and ids[-1] in ends:
            ids.pop()
        reply = parse_reply(str(tokenizer.decode(ids, skip_special_tokens=False)), self.form, self.names)
        return reply if reply.calls or reply.invalid else Reply(text)


def _ids(given: int | list[int] | None) -> list[int]:
    return given if isinstance(given, list) else [] if given is None else [given]


def _choice(choice: dict[str, Any] | str | bool | None, names: Sequence[str]) -> str:
    """``auto``, ``any``, ``none`` or the name of a tool."""
    if isinstance(choice, dict):
        choice = choice.get("function", choice).get("name") or choice.get("type")
    known = {None: "auto", True: "any", False: "none", "required": "any", "auto": "auto", "any": "any", "none": "none"}
    if choice in known:
        return known[choice]
    if choice not in names:
        raise ValueError(f"tool_choice={choice!r} names no tool: pass 'auto', 'any', 'none' or one of {names}.")
    return str(choice)


def _response_schema(response: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The JSON schema of the answer; None: words."""
    kind = response.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema" and isinstance(schema := response.get("json_schema", {}).get("schema"), Mapping):
        return schema
    raise ValueError(
        f"response_format={response!r} is not known: pass {{'type': 'json_schema', 'json_schema': {{'schema': ...}}}}, "
        "{'type': 'json_object'} or {'type': 'text'}."
    )


def _counts(report: ReuseReport) -> dict[str, int]:
    prompt, completion = report.prompt_tokens, report.generated_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _usage(report: ReuseReport) -> UsageMetadata:
    """Tokens that were not computed again count as read, those that were and are kept as created."""
    counts = _counts(report)
    read = report.prompt_tokens - report.recomputed_tokens
    return UsageMetadata(
        input_tokens=counts["prompt_tokens"],
        output_tokens=counts["completion_tokens"],
        total_tokens=counts["total_tokens"],
        input_token_details=InputTokenDetails(
            cache_read=read, cache_creation=report.recomputed_tokens if report.stored else 0
        ),
    )


def _metadata(last: Piece, reply: Reply, model_name: str) -> dict[str, Any]:
    assert last.report is not None
    return {
        "model_name": model_name,
        "finish_reason": "tool_calls" if reply.calls else last.finish_reason,
        "semshare": last.report.model_dump(mode="json"),
    }
