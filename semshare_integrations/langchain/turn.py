"""One question to a chat model and its answer: what the answer is held to, and how it is read and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool

from semshare_core import Chat, Piece, ReuseReport, SemShareEngine
from semshare_core.decode import end_tokens
from semshare_integrations.langchain.fields import token_usage
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

_RESERVE = 16  # tokens, beyond those of the smallest JSON, that bringing a reply to its end may take


@dataclass
class Turn:
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
    def of(cls, engine: SemShareEngine, messages: list[BaseMessage], overrides: Mapping[str, Any]) -> Turn:
        told = to_template(messages)
        tools, response = overrides.get("tools") or [], overrides.get("response_format")
        tools = [convert_to_openai_tool(each) for each in tools]
        names = [each["function"]["name"] for each in tools]
        form = call_format(engine.tokenizer)
        prompt = Chat(form.messages(told, tools), tools if form.native else ())
        choice = which_tool(overrides.get("tool_choice"), names)
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
            llm_output={
                "token_usage": token_usage(last.report.prompt_tokens, last.report.generated_tokens),
                "model_name": model_name,
            },
        )

    def chunks(self, piece: Piece, model_name: str) -> Iterator[ChatGenerationChunk]:
        """What to pass on of ``piece``: text as soon as it is surely none of a call's, calls with the last piece."""
        self.text += piece.text
        if piece.report is None:
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
        ends = {tokenizer.eos_token_id, *end_tokens(self.engine.model.generation_config.eos_token_id)}
        while ids and ids[-1] in ends:
            ids.pop()
        reply = parse_reply(str(tokenizer.decode(ids, skip_special_tokens=False)), self.form, self.names)
        return reply if reply.calls or reply.invalid else Reply(text)


def which_tool(choice: dict[str, Any] | str | bool | None, names: Sequence[str]) -> str:
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


def _usage(report: ReuseReport) -> UsageMetadata:
    """Tokens that were not computed again count as read, those that were and are kept as created."""
    read = report.prompt_tokens - report.recomputed_tokens
    return UsageMetadata(
        input_tokens=report.prompt_tokens,
        output_tokens=report.generated_tokens,
        total_tokens=report.prompt_tokens + report.generated_tokens,
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
