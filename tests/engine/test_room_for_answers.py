"""Answers that have a form and little room: valid, or an error that says how many tokens they take.

The models are random: they would never come to an end by themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum
from threading import Event
from typing import Annotated, Any, Literal

import pytest
from langchain_core.tools import tool
from llama_index.core.prompts import PromptTemplate
from pydantic import AfterValidator, BaseModel, Field, StringConstraints, WithJsonSchema, create_model
from transformers import PreTrainedTokenizerBase

from semshare_core import SemShareEngine
from semshare_core.errors import CallCancelledError, CallTimeoutError, ConfigError
from semshare_core.process.interrupt import Interrupt
from semshare_integrations.adapter import ChatCall
from semshare_integrations.langchain import ChatSemShare
from semshare_integrations.llama_index import SemShareLLM
from semshare_integrations.tools.way_to_end import Spelling, shortest_way_to_end
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

CONTEXT = 1400
# as the schema says it: pydantic knows no year 0 and no leap seconds
DateTime = Annotated[
    str,
    WithJsonSchema({"type": "string", "format": "date-time"}),
    AfterValidator(lambda text: re.fullmatch(r"\d{4}-\d\d-\d\dT.*", text, re.IGNORECASE) and text),
]
Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class File(BaseModel):
    """A file."""

    note: str
    digest: Digest


class Maybe(BaseModel):
    """A file that need not have a digest."""

    note: str
    digest: Digest | None


class Kind(Enum):
    """Of very different lengths."""

    SHORT = "a"
    LONG = "long " * 20


class Node(BaseModel):
    """Holds itself."""

    text: Annotated[str, Field(min_length=12)]
    children: list[Node] = Field(max_length=2)
    next: Node | None


FORMS = {
    "a pattern": File,
    "a pattern or nothing": Maybe,
    "recursion": Node,
    "a date": create_model("form", note=(str, ...), at=(DateTime, ...)),
    "least lengths": create_model(
        "form", word=(Annotated[str, Field(min_length=30)], ...), many=(Annotated[list[bool], Field(min_length=7)], ...)
    ),
    "choices": create_model("form", kinds=(list[Kind], ...), kind=(Kind, ...), other=(Literal["x", "y" * 60], ...)),
    "numbers": create_model(
        "form", n=(Annotated[int, Field(ge=1000, multiple_of=7)], ...), x=(Annotated[float, Field(gt=0, lt=1)], ...)
    ),
    "optional": create_model("form", a=(Digest | None, None), b=(str, "x"), c=(list[Digest], [])),
}


@pytest.fixture(scope="module")
def engine() -> SemShareEngine:
    model = tiny_model("llama")
    model.config.max_position_embeddings = CONTEXT
    return SemShareEngine(model, tiny_tokenizer())


def answer(engine: SemShareEngine, schema: Mapping[str, Any], tokens: int, seed: int | None, asked: str = "?") -> str:
    turn = ChatCall.of(
        engine,
        [{"role": "user", "content": asked}],
        response_format={"type": "json_schema", "json_schema": {"schema": schema}},
    )
    for piece in turn.stream(
        {
            "max_new_tokens": tokens,
            "reuse": "off",
            "store": False,
            "seed": seed,
            "temperature": 0.0 if seed is None else 1.5,
        }
    ):
        turn.take(piece)
    return turn.text


def tokens_told(error: BaseException) -> int:
    found = re.search(r"takes at least about (\d+) tokens", str(error))
    assert found, str(error)
    return int(found.group(1))


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("name", FORMS)
def test_an_answer_is_valid_or_the_error_says_what_it_takes(
    engine: SemShareEngine, name: str, seed: int | None
) -> None:
    form = FORMS[name]
    schema = form.model_json_schema()
    with pytest.raises(ConfigError, match="cannot be finished") as error:
        answer(engine, schema, 1, seed)
    needed = tokens_told(error.value)
    with pytest.raises(ConfigError, match="cannot be finished"):
        answer(engine, schema, needed - 1, seed)
    for spare in (0, 50):
        assert form.model_validate_json(answer(engine, schema, needed + spare, seed))


def test_the_shortest_answer_is_found(engine: SemShareEngine) -> None:
    """A token is a byte here."""
    shortest = {
        "a pattern": '{"note": "", "digest": "' + 64 * "0" + '"}',
        "a pattern or nothing": '{"note": "", "digest": null}',
        "choices": '{"kinds": [], "kind": "a", "other": "x"}',
        "optional": "{}",
    }
    for name, text in shortest.items():
        with pytest.raises(ConfigError) as error:
            answer(engine, FORMS[name].model_json_schema(), 1, None)
        assert tokens_told(error.value) == len(text), name


@pytest.mark.parametrize("room", [30, 40, 90])
def test_an_answer_is_closed_where_the_context_is_the_limit(engine: SemShareEngine, room: int) -> None:
    schema = create_model("form", note=(str, ...), n=(int, ...)).model_json_schema()
    empty = len(engine.token_ids([{"role": "user", "content": ""}]))
    value = json.loads(answer(engine, schema, 256, None, "x" * (CONTEXT - room - empty)))
    assert set(value) == {"note", "n"}


def test_a_context_without_room_for_the_answer_says_what_it_takes(engine: SemShareEngine) -> None:
    empty = len(engine.token_ids([{"role": "user", "content": ""}]))
    with pytest.raises(ConfigError, match=rf"leave 40 of the model's context of {CONTEXT}, but .* 90 tokens"):
        answer(engine, File.model_json_schema(), 256, None, "x" * (CONTEXT - 40 - empty))


def test_structured_output_is_valid_or_an_error_and_never_none(engine: SemShareEngine) -> None:
    chat = ChatSemShare(engine=engine)
    for method in ("function_calling", "json_schema"):
        found = chat.with_structured_output(File, method=method).invoke("A file.", max_tokens=160)
        assert isinstance(found, File)
        with pytest.raises(ConfigError, match="cannot be finished"):
            chat.with_structured_output(File, method=method).invoke("A file.", max_tokens=60)
    llm = SemShareLLM(engine=engine)
    assert isinstance(llm.structured_predict(File, PromptTemplate("A file."), {"max_new_tokens": 160}), File)
    with pytest.raises(ConfigError, match="cannot be finished"):
        llm.structured_predict(File, PromptTemplate("A file."), {"max_new_tokens": 60})


@tool
def keep(note: str, digest: Digest) -> str:
    """Keep a file."""
    return f"{note}: {digest}"


def test_arguments_of_a_call_are_valid_or_an_error(engine: SemShareEngine) -> None:
    bound = ChatSemShare(engine=engine).bind_tools([keep], tool_choice="any")
    [call] = bound.invoke("Keep it.", max_tokens=200).tool_calls
    assert re.fullmatch("[0-9a-f]{64}", call["args"]["digest"])
    with pytest.raises(ConfigError, match="cannot be finished") as error:
        bound.invoke("Keep it.", max_tokens=60)
    [call] = bound.invoke("Keep it.", max_tokens=tokens_told(error.value)).tool_calls
    assert call["args"]["note"] == ""


def test_no_call_is_begun_that_could_not_end(engine: SemShareEngine) -> None:
    """In free text it is the model that decides; it may not decide for what there is no room for."""
    from real_tokenizers import Force

    tokenizer = engine.tokenizer
    bound = ChatSemShare(engine=engine).bind_tools([keep])
    ids = tokenizer("<tool_call>\n", add_special_tokens=False)["input_ids"]
    with pytest.raises(ConfigError, match="forbid all tokens"):
        bound.invoke("Keep it.", max_tokens=60, logits_processor=[Force(ids)])


def test_a_stop_string_that_cuts_a_form_is_told(engine: SemShareEngine) -> None:
    chat = ChatSemShare(engine=engine, max_tokens=160)
    with pytest.raises(ConfigError, match=r"leave stop=\['\"'\] out"):
        chat.with_structured_output(File, method="json_schema").invoke("A file.", stop=['"'])


def test_other_settings_that_forbid_what_must_come_are_told(
    engine: SemShareEngine, tokenizer: PreTrainedTokenizerBase
) -> None:
    chat = ChatSemShare(engine=engine, max_tokens=160)
    brace = tokenizer("{", add_special_tokens=False)["input_ids"]
    with pytest.raises(ConfigError, match="forbid all tokens that its grammar allows"):
        chat.with_structured_output(File, method="json_schema").invoke("A file.", bad_words_ids=[brace])


def test_a_form_whose_shortest_answer_is_far_away_does_not_keep_the_call() -> None:
    """Ways that end nowhere are given up after a number of steps, not after all that the room has place for."""
    matcher = Endless()
    assert shortest_way_to_end(matcher, Spelling.of([b"a", b"b", b"c"]), 10**6) is None
    assert matcher.copies[0] < 100_000


@pytest.mark.parametrize("error", [CallCancelledError, CallTimeoutError])
def test_a_search_ends_when_nobody_waits_for_it(error: type[Exception]) -> None:
    cancel = Event()
    interrupt = Interrupt(cancel, 1e-6 if error is CallTimeoutError else None)
    if error is CallCancelledError:
        cancel.set()
    with pytest.raises(error):
        shortest_way_to_end(Endless(), Spelling.of([b"a", b"b", b"c"]), 10**6, interrupt=interrupt)


class Endless:
    """A grammar whose every step looks new, and that never comes to its end."""

    def __init__(self, copies: list[int] | None = None) -> None:
        self.copies = copies if copies is not None else [0]
        self._place = self.copies[0]

    def deep_copy(self) -> Endless:
        self.copies[0] += 1
        return Endless(self.copies)

    def compute_bitmask(self) -> bytes:
        return bytes([0b111]) + self._place.to_bytes(8, "little")  # three tokens, and what tells it from others

    def compute_ff_tokens(self) -> list[int]:
        return []

    def try_consume_tokens(self, tokens: list[int]) -> int:
        return len(tokens)

    def is_error(self) -> bool:
        return False

    is_accepting = is_stopped = is_error
