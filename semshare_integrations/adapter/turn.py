"""One question to a chat model and its answer: what the answer is held to, and how it is read and streamed."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from semshare_core import Chat, Piece, SemShareEngine
from semshare_core.decode.sampling import end_tokens
from semshare_core.errors import ConfigError
from semshare_core.process.forking import free
from semshare_core.prompt.chat_template import continues
from semshare_core.prompt.encode import Prompt
from semshare_core.prompt.own_tokenizer import decode_ids
from semshare_integrations.tools import (
    CallFormat,
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

TURN_SETTINGS = ("tools", "tool_choice", "parallel_tool_calls", "response_format")
"""Settings of a call that :meth:`Turn.of` takes; all others are the engine's."""

_preparing = free(threading.Lock())  # several threads that prepare calls at once leave an event loop no turn for long


@dataclass
class Turn:
    """One question and its answer.

    Attributes:
        engine: who is asked.
        prompt: the question, tools included; or a text as it is.
        grammar: what the answer is held to; None: words.
        form: how the model writes calls of tools.
        names: of the tools that it may call.
        text: what may be passed on of the answer so far; in the end its text without calls.
        reply: the answer, read when its last piece was taken.
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
    ) -> Turn:
        """The turn that ``messages`` ask for.

        Args:
            engine: who is asked.
            messages: with ``role``, ``content`` and, where there are some, ``tool_calls`` (arguments as mappings) or
                the ``tool_call_id`` that a tool's result belongs to. If the last is the assistant's, it goes on.
            tools: what the model may call.
            tool_choice: see :func:`which_tool`.
            parallel_tool_calls: several calls in one answer, if the model's template can write them.
            response_format: OpenAI's: ``json_schema``, ``json_object`` or ``text``.

        Raises:
            ValueError: no messages, a tool's result without its call, an unknown tool or format, both tools and format.
        """
        _check(messages)
        names = tool_names(tools)
        choice = which_tool(tool_choice, names)
        grammar = None
        with _preparing:
            form = call_format(engine.tokenizer)
            prompt = Chat(form.messages(messages, tools), tools if form.native else ())
            if tools and choice != "none":
                if response_format is not None:
                    raise ValueError("response_format and tools exclude each other in one call: leave one of them out.")
                grammar = reply_grammar(form, tools, choice, parallel_tool_calls, engine.tokenizer)
            elif response_format is not None:
                schema = _response_schema(response_format)
                grammar = None if schema is None else json_grammar(schema)
        if grammar is not None and continues(messages) and not (tools and choice == "auto"):
            raise ValueError(
                "the last message is the assistant's, and what it began cannot be held to a form: end with a user's "
                "message, or leave tool_choice and response_format out."
            )
        return cls(engine, prompt, grammar, form, names if choice != "none" else [])

    @classmethod
    def of_text(cls, engine: SemShareEngine, prompt: str) -> Turn:
        """The turn of a text without roles, as it is."""
        return cls(engine, prompt, None, CallFormat(), [])

    def stream(
        self, settings: Mapping[str, Any], cancel: threading.Event | None = None
    ) -> Generator[Piece, None, None]:
        """The answer piece by piece, with settings of :meth:`SemShareEngine.stream` and held to the grammar.

        Raises:
            ConfigError: there is no room for an answer that the grammar allows, or a stop string cut it off.
        """
        if self.grammar is None:
            yield from self.engine.stream(self.prompt, **settings, cancel=cancel)
            return
        engine, limit = self.engine, settings["max_new_tokens"]
        with _preparing:
            holding = constraint(self.grammar, engine.model, engine.tokenizer, limit, engine.context)
        processors = [*(settings.get("logits_processor") or ()), holding]
        held = {**settings, "logits_processor": processors}
        with closing(engine.stream(self.prompt, **held, cancel=cancel)) as pieces:
            for piece in pieces:
                if piece.finish_reason == "stop" and not holding.completes(piece.token_ids or []):
                    raise ConfigError(
                        f"a stop string ended the answer before it was whole: leave stop={settings.get('stop')!r} out "
                        "where an answer has a form, or use one that it cannot hold."
                    )
                yield piece

    def take(self, piece: Piece) -> str:
        """What is new in ``text`` now that ``piece`` is there: nothing that belongs to a call of a tool."""
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
        """Why the answer ended: ``tool_calls``, or what the engine says of its last piece."""
        return "tool_calls" if self.reply.calls else last.finish_reason

    def _read(self, last: Piece) -> Reply:
        """The reply; its calls are read from the tokens: text leaves out special ones, which a call may open with."""
        if not self.names:
            return Reply(self._arrived)
        tokenizer = self.engine.tokenizer
        ids = list(last.token_ids or [])
        ends = {tokenizer.eos_token_id, *end_tokens(self.engine.model.generation_config.eos_token_id)}
        while ids and ids[-1] in ends:
            ids.pop()
        said = decode_ids(tokenizer, ids, special=self.form.hidden)
        if self._arrived[:1] == " " != said[:1]:  # decoded alone, it loses the space that it begins with
            said = " " + said
        reply = parse_reply(said, self.form, self.names)
        if not reply.calls and not reply.invalid:
            return Reply(self._arrived)
        return (
            replace(reply, text=without(reply.text, special_tokens(tokenizer)).rstrip()) if self.form.hidden else reply
        )


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of OpenAI's function schemas; raises :class:`ValueError` for tools that a provider would run."""
    for each in tools:
        if "function" not in each:
            raise ValueError(f"the tool {dict(each)!r} is no function: a local model runs no tools of a provider.")
    return [each["function"]["name"] for each in tools]


def which_tool(choice: Mapping[str, Any] | str | bool | None, names: Sequence[str]) -> str:
    """``auto``, ``any``, ``none`` or the name of a tool."""
    if isinstance(choice, Mapping):
        named = choice.get("function", choice)
        choice = named.get("name") or choice.get("type") if isinstance(named, Mapping) else named
    known = {None: "auto", True: "any", False: "none", "required": "any", "auto": "auto", "any": "any", "none": "none"}
    if isinstance(choice, str | bool | None) and choice in known:
        return known[choice]
    if choice not in names:
        raise ValueError(f"tool_choice={choice!r} names no tool: pass 'auto', 'any', 'none' or one of {names}.")
    return str(choice)


def call_id() -> str:
    """A name for a call, which its result refers to."""
    return f"call_{uuid4().hex[:24]}"


def told_call(name: str, arguments: Mapping[str, Any] | str, call: str) -> dict[str, Any]:
    """A call named ``call`` as OpenAI and chat templates write it: templates take mappings, OpenAI JSON."""
    return {"type": "function", "id": call, "function": {"name": name, "arguments": arguments}}


def _check(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raises :class:`ValueError` if there are no messages, or a tool's result stands before its call or is missing."""
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
    """The JSON schema of the answer; None: words."""
    kind = response.get("type") if isinstance(response, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    told = response.get("json_schema") if kind == "json_schema" else None
    if isinstance(told, Mapping) and isinstance(schema := told.get("schema"), Mapping):
        return schema
    raise ValueError(
        f"response_format={response!r} is not known: pass {{'type': 'json_schema', 'json_schema': {{'schema': ...}}}}, "
        "{'type': 'json_object'} or {'type': 'text'}."
    )
