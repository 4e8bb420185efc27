"""One call of a chat model: its prompt, the grammar of its answer, and how the answer is streamed and read."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from semshare_core import Chat, Piece, SemShareEngine
from semshare_core.decode.sampling import end_tokens
from semshare_core.errors import CallCancelledError, ConfigError
from semshare_core.process.forking import free
from semshare_core.process.interrupt import Interrupt
from semshare_core.prompt.chat_template import continues
from semshare_core.prompt.encode import Prompt
from semshare_core.prompt.own_tokenizer import decode_ids
from semshare_integrations.tools import (
    CallFormat,
    Constraint,
    Grammar,
    Reply,
    call_format,
    constraint,
    json_grammar,
    parse_reply,
    reply_grammar,
)
from semshare_integrations.tools.added_tokens import special_tokens, without
from semshare_integrations.tools.reply import settled_text

CHAT_SETTINGS = ("tools", "tool_choice", "parallel_tool_calls", "response_format")
"""Settings that :meth:`ChatCall.of` takes. All other settings are the engine's."""

# several threads that prepare calls at once would block an event loop
_preparing = free(threading.Lock())
_searching = free(threading.Lock())  # a hard schema takes seconds; other chats are prepared meanwhile


@dataclass
class ChatCall:
    """One call of a chat model.

    Attributes:
        prompt: the messages with the tools, or a plain text.
        grammar: the answer's grammar; None: free text.
        form: how the model writes tool calls.
        names: the names of the tools that the model may call.
        text: the part of the answer that may be shown so far. In the end the whole text, without tool calls.
        reply: the parsed answer, complete after the last piece.
    """

    engine: SemShareEngine
    prompt: Prompt
    grammar: Grammar | None
    form: CallFormat
    names: list[str]
    text: str = ""
    reply: Reply = field(default_factory=lambda: Reply(""))
    _arrived: str = ""

    @classmethod
    def of(
        cls,
        engine: SemShareEngine,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: Mapping[str, Any] | str | bool | None = None,
        parallel_tool_calls: bool = False,
        response_format: Mapping[str, Any] | None = None,
    ) -> ChatCall:
        """A call with ``messages``.

        Args:
            messages: mappings with ``role`` and ``content``. An assistant's message may have ``tool_calls`` (with
                arguments as mappings); a tool's result has a ``tool_call_id``. If the last message is the assistant's,
                the answer continues it.
            tools: OpenAI's function schemas of the tools that the model may call.
            tool_choice: see :func:`which_tool`.
            parallel_tool_calls: allow several tool calls in one answer, if the model's template can write them.
            response_format: OpenAI's ``json_schema``, ``json_object`` or ``text``.

        Raises:
            ValueError: there are no messages; a tool's result has no call; a tool or format is unknown; or there are
                both tools and a format.
        """
        _check(messages)
        names = tool_names(tools)
        choice, offered, grammar = which_tool(tool_choice, names), tools, None
        if isinstance(choice, NamedTool):
            choice, offered = "any", [tool for tool in tools if tool["function"]["name"] == choice]
        with _preparing:
            form = call_format(engine.tokenizer)
            prompt = Chat(form.messages(messages, tools), tools if form.native else ())
            if tools and choice != "none":
                if response_format is not None:
                    raise ValueError("response_format and tools exclude each other in one call: leave one of them out.")
                grammar = reply_grammar(form, offered, choice, parallel_tool_calls, engine.tokenizer)
            elif response_format is not None:
                schema = _response_schema(response_format)
                grammar = None if schema is None else json_grammar(schema)
        if grammar is not None and continues(messages) and not (tools and choice == "auto"):
            raise ValueError(
                "the last message is the assistant's, and a grammar cannot continue its answer: end with a user's "
                "message, or leave tool_choice and response_format out."
            )
        return cls(engine, prompt, grammar, form, names if choice != "none" else [])

    @classmethod
    def of_text(cls, engine: SemShareEngine, prompt: Prompt) -> ChatCall:
        """A call with a plain text, or with token ids."""
        return cls(engine, prompt, None, CallFormat(), [])

    def stream(
        self, settings: Mapping[str, Any], cancel: threading.Event | None = None
    ) -> Generator[Piece, None, None]:
        """Stream the answer, held to the grammar. ``settings`` are those of :meth:`SemShareEngine.stream`.

        Raises:
            ConfigError: the shortest answer that the grammar allows does not fit, or a stop string cut the answer off.
        """
        if self.grammar is None:
            yield from self.engine.stream(self.prompt, **settings, cancel=cancel)
            return
        began = time.monotonic()
        try:
            processor = self._constraint(settings["max_new_tokens"], Interrupt(cancel, settings.get("timeout")))
        except CallCancelledError:  # the engine's stream ends so, too
            return
        settings = {**settings, "logits_processor": [*(settings.get("logits_processor") or ()), processor]}
        if settings.get("timeout") is not None:
            settings["timeout"] = max(1e-3, settings["timeout"] - (time.monotonic() - began))
        with closing(self.engine.stream(self.prompt, **settings, cancel=cancel)) as pieces:
            for piece in pieces:
                if piece.finish_reason == "stop" and not processor.completes(piece.token_ids or []):
                    raise ConfigError(
                        "a stop string ended the answer before it was complete: leave "
                        f"stop={settings.get('stop')!r} out of calls with tools or a response format, or use a stop "
                        "string that such answers cannot contain."
                    )
                if piece.finish_reason == "length" and not self.names and processor.completes(piece.token_ids or []):
                    # it is whole; the limit left no room for the end token
                    piece = replace(piece, finish_reason="stop")
                yield piece

    def _constraint(self, limit: int, interrupt: Interrupt) -> Constraint:
        assert self.grammar is not None
        while not _searching.acquire(timeout=-1 if interrupt.patience is None else interrupt.patience):
            interrupt.check()
        try:
            model, tokenizer = self.engine.model, self.engine.tokenizer
            return constraint(self.grammar, model, tokenizer, limit, self.engine.context, interrupt)
        finally:
            _searching.release()

    def take(self, piece: Piece) -> str:
        """Take a piece of the answer. Returns the new part of ``text``, without tool calls."""
        self._arrived += piece.text
        sent = len(self.text)
        if piece.report is None:
            ready = settled_text(self._arrived, self.form) if self.names else len(self._arrived)
            self.text = self._arrived[: max(sent, ready)]
        else:
            self.reply = self._read(piece)
            self.text = self.reply.text
        return self.text[sent:]

    def finish_reason(self, last: Piece) -> str | None:
        """Why the answer ended: ``tool_calls``, or the engine's finish reason."""
        return "tool_calls" if self.reply.calls else last.finish_reason

    def _read(self, last: Piece) -> Reply:
        """Parse the reply from its tokens, because a tool call may open with a special token, which text leaves out."""
        if not self.names:
            return Reply(self._arrived)
        tokenizer = self.engine.tokenizer
        ids = list(last.token_ids or [])
        ends = {tokenizer.eos_token_id, *end_tokens(self.engine.model.generation_config.eos_token_id)}
        while ids and ids[-1] in ends:
            ids.pop()
        text = decode_ids(tokenizer, ids, special=self.form.hidden)
        if self._arrived[:1] == " " != text[:1]:  # decoding the answer alone drops its first space
            text = " " + text
        reply = parse_reply(text, self.form, self.names)
        if not reply.calls and not reply.invalid:
            return Reply(self._arrived)
        if self.form.hidden:
            return replace(reply, text=without(reply.text, special_tokens(tokenizer)).rstrip())
        return reply


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of OpenAI's function schemas. Raises :class:`ValueError` for tools that a provider would run."""
    for tool in tools:
        if "function" not in tool:
            raise ValueError(f"the tool {dict(tool)!r} is no function: a local model runs no tools of a provider.")
    return [tool["function"]["name"] for tool in tools]


class NamedTool(str):
    """The name of the tool that must be called. Tools may be called ``none`` or ``auto``, too."""


def which_tool(choice: Mapping[str, Any] | str | bool | None, names: Sequence[str]) -> str:
    """The meaning of ``tool_choice=``: ``auto``, ``any``, ``none``, or a :class:`NamedTool`."""
    given, named = choice, isinstance(choice, NamedTool)
    if isinstance(choice, Mapping):
        inner = choice.get("function", choice)
        named = isinstance(inner, Mapping) and bool(inner.get("name"))
        choice = inner["name"] if named else choice.get("type") if isinstance(inner, Mapping) else inner
    words = {None: "auto", True: "any", False: "none", "required": "any", "auto": "auto", "any": "any", "none": "none"}
    if not named and isinstance(choice, str | bool | None) and choice in words:
        return words[choice]
    if choice not in names:
        raise ValueError(f"tool_choice={given!r} names no tool: pass 'auto', 'any', 'none' or one of {names}.")
    return NamedTool(choice)


def call_id() -> str:
    """A new id for a tool call."""
    return f"call_{uuid4().hex[:24]}"


def openai_call(name: str, arguments: Mapping[str, Any] | str, call: str) -> dict[str, Any]:
    """A tool call in OpenAI's form. For chat templates ``arguments`` is a mapping, for OpenAI it is JSON."""
    return {"type": "function", "id": call, "function": {"name": name, "arguments": arguments}}


def _check(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise :class:`ValueError` if there are no messages, or a tool's result has no earlier call."""
    if not messages:
        raise ValueError("there are no messages: pass at least one, such as a user's.")
    called: set[str] = set()
    for message in messages:
        called |= {call["id"] for call in message.get("tool_calls", ())}
        if message["role"] == "tool" and message.get("tool_call_id") not in called:
            raise ValueError(
                f"the result of tool call {message.get('tool_call_id')!r} has no call: the assistant's message that "
                "made it must stand before its result."
            )
    continues(messages)


def _response_schema(response: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The answer's JSON schema; None: free text."""
    kind = response.get("type") if isinstance(response, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    named = response.get("json_schema") if kind == "json_schema" else None
    if isinstance(named, Mapping) and isinstance(schema := named.get("schema"), Mapping):
        return schema
    raise ValueError(
        f"response_format={response!r} is not known: pass {{'type': 'json_schema', 'json_schema': {{'schema': ...}}}}, "
        "{'type': 'json_object'} or {'type': 'text'}."
    )
