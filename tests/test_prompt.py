"""Prompts become ids and a question: the part that is always computed afresh."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.prompt import MAX_QUESTION_TOKENS, EncodedPrompt, encode
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENIZER = tiny_tokenizer()


def encoded(prompt: object) -> EncodedPrompt:
    return encode(prompt, TOKENIZER, 259, 4096)  # type: ignore[arg-type]


def question(prompt: object) -> str:
    found = encoded(prompt)
    return TOKENIZER.decode(found.ids[found.question :])


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("One.\n\nTwo.\n\nThree?", "Three?"),
        ("One.\n\nThree?\n\n", "Three?\n\n"),
        ("One.\n\n\n\nThree?", "Three?"),
        ("One.\nTwo.", ""),
        ("\n\nOne.", "One."),
        ("\n\n", ""),
    ],
)
def test_the_last_paragraph_is_the_question(text: str, last: str) -> None:
    assert TOKENIZER.decode(encoded(text).ids) == text
    assert question(text) == last


def test_the_last_message_is_the_question() -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    whole = "<|start|>system\nBe brief.<|end|>\n<|start|>user\nWhy?<|end|>\n<|start|>assistant\n"
    assert TOKENIZER.decode(encoded(chat).ids) == whole
    assert question(chat) == "<|start|>user\nWhy?<|end|>\n<|start|>assistant\n"
    assert question(chat[1:]) == "", "a single message is all there is"


@pytest.mark.parametrize("before", [[], [{"role": "system", "content": "Be brief."}]], ids=["alone", "behind another"])
def test_the_question_of_a_long_message_is_its_last_paragraph(before: list[dict[str, str]]) -> None:
    text = "\n\n".join(PARAGRAPHS) + "\n\nWhich of these is about the sea?"
    asked = "Which of these is about the sea?<|end|>\n<|start|>assistant\n"
    assert question([*before, {"role": "user", "content": text}]) == asked
    assert question([*before, {"role": "user", "content": text.replace("\n\n", "\n")}]) == ""
    parts = [{"type": "text", "text": text}]
    assert question([*before, {"role": "user", "content": parts}]) == "", "parts are the template's own affair"


def test_ids_have_no_question() -> None:
    assert encoded([1, 2, 3]).question == 3
    assert encoded(np.array([1, 2, 3], np.int32)).ids.dtype == np.int64


@given(st.integers(1, 600), st.integers(0, 600), st.integers(1, 40))
def test_what_is_computed_afresh(n: int, begin: int, tail: int) -> None:
    begin = min(begin, n)
    fresh = EncodedPrompt(np.zeros(n, np.int64), begin).fresh_from(tail)
    assert 0 <= fresh <= max(0, n - tail)
    if n - begin <= MAX_QUESTION_TOKENS:
        assert fresh == max(0, min(begin, n - tail))
    else:
        assert fresh == max(0, n - tail), "so long a last paragraph is no question"


ALTERNATING = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}[{{ message['content'] }}]{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)
NEEDS_A_USER = (
    "{% if not messages | selectattr('role', 'equalto', 'user') | list %}{{ raise_exception('no user query') }}"
    "{% endif %}{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
)


@pytest.mark.parametrize("template", [ALTERNATING, NEEDS_A_USER], ids=["alternating", "needs a user"])
def test_templates_that_refuse_part_of_a_chat(template: str) -> None:
    """The chat is valid, what stands before its last message need not be."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    chat = [
        {"role": "user", "content": "One."},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "3"},
    ]
    if template is NEEDS_A_USER:
        chat = [{"role": "system", "content": "One."}, {"role": "user", "content": "3"}]
    found = encode(chat, tokenizer, 259, 4096)
    assert tokenizer.decode(found.ids).rstrip(">") == "".join(f"[{message['content']}]" for message in chat)
    assert 0 < found.question <= len(found.ids)


@pytest.mark.parametrize("reuse", ["fast", ReusePolicy(recompute_ratio=0.0)])
@pytest.mark.parametrize("chat", [True, False])
def test_the_question_is_computed_afresh(reuse: str | ReusePolicy, chat: bool) -> None:
    """Also where a reference holds the very same question: elsewhere it was asked of another text."""
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    asked = "Which of these is about the sea?"
    first, second = "\n\n".join(PARAGRAPHS), "\n\n".join(PARAGRAPHS[::-1])
    prompts = [
        [{"role": "system", "content": text}, {"role": "user", "content": asked}] if chat else f"{text}\n\n{asked}"
        for text in (first, second)
    ]
    engine.warm([prompts[0]])
    report = engine.prefill(prompts[1], reuse=reuse).report
    assert report.outcome == "semantic"
    length = len(asked)
    ids = engine.token_ids(prompts[1])
    at = next(at for at in range(len(ids)) if ids[at : at + length] == list(asked.encode()))
    assert report.token_sources[at : at + length] == [2] * length
    assert report.token_recomputed[at:] == [1] * (len(ids) - at)
