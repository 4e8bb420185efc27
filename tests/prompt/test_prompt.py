"""Prompts become ids and a question: the part that is always computed afresh."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.errors import PromptError
from semshare_core.prompt.encode import MAX_QUESTION_TOKENS, EncodedPrompt, encode
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENIZER = tiny_tokenizer()


def encoded(prompt: object) -> EncodedPrompt:
    return encode(prompt, TOKENIZER, 259, 4096)  # type: ignore[arg-type]


def question(prompt: object) -> str:
    found = encoded(prompt)
    return TOKENIZER.decode(found.ids[found.question :])


@pytest.mark.parametrize("as_ids", [False, True], ids=["text", "ids"])
@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("One.\n\nTwo.\n\nThree?", "Three?"),
        ("One.\n\nThree?\n\n", "Three?\n\n"),
        ("One.\n\n\n\nThree?", "Three?"),
        ("One.\r\n\r\nTwo.\r\n \r\nThree?", "Three?"),
        ("One.\n\nQuestion: Three?\n\nAnswer: The", "Question: Three?\n\nAnswer: The"),
        ("One.\n\nTwo.\nQuestion: Three?\nHelpful Answer:", "Two.\nQuestion: Three?\nHelpful Answer:"),
        ("One.\nTwo.\nQuery: Three?\nAnswer: ", "Query: Three?\nAnswer: "),
        ("One.\nTwo?", "Two?"),
        ("Three?\n\nAnswer:", "Three?\n\nAnswer:"),
        ("\n\nOne?", "One?"),
        ("One. Two?", ""),
        ("\n\n", ""),
    ],
)
def test_the_last_paragraph_with_its_cue_is_the_question(text: str, last: str, as_ids: bool) -> None:
    ids = encoded(text).ids
    assert TOKENIZER.decode(ids) == text
    assert question(ids if as_ids else text) == last


def test_of_a_long_question_the_end_is_computed_afresh() -> None:
    text = "One.\n\n" + "Why is the sea salt, " * 40 + "do you know?"
    for prompt in (text, encoded(text).ids, [{"role": "user", "content": text}]):
        found = encoded(prompt)
        assert found.fresh_from(16) == len(found.ids) - MAX_QUESTION_TOKENS
        assert found.fresh_from(300) == len(found.ids) - 300


@pytest.mark.parametrize(
    "content", ["lone \ud800 surrogate", ["not", "joined"]], ids=["surrogate", "of no kind the template joins"]
)
def test_messages_that_cannot_be_rendered(content: object) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ '>' + message['content'] }}{% endfor %}"
    with pytest.raises(PromptError):
        encode([{"role": "user", "content": content}], tokenizer, 259, 4096)  # type: ignore[list-item]


def test_the_last_message_is_the_question() -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    whole = "<|start|>system\nBe brief.<|end|>\n<|start|>user\nWhy?<|end|>\n<|start|>assistant\n"
    assert TOKENIZER.decode(encoded(chat).ids) == whole
    assert question(chat) == "<|start|>user\nWhy?<|end|>\n<|start|>assistant\n"
    assert question(chat[1:]) == whole.removeprefix("<|start|>system\nBe brief.<|end|>\n"), "all there is"


@pytest.mark.parametrize("before", [[], [{"role": "system", "content": "Be brief."}]], ids=["alone", "behind another"])
def test_the_question_of_a_long_message_is_its_last_paragraph(before: list[dict[str, str]]) -> None:
    text = "\n\n".join(PARAGRAPHS) + "\n\nWhich of these is about the sea?"
    asked = "Which of these is about the sea?<|end|>\n<|start|>assistant\n"
    assert question([*before, {"role": "user", "content": text}]) == asked
    unbroken = text.replace("\n\n", " ")
    for content in (unbroken, [{"type": "text", "text": unbroken}]):
        found = encoded([*before, {"role": "user", "content": content}])
        assert found.fresh_from(16) == len(found.ids) - MAX_QUESTION_TOKENS


def test_ids_that_decode_to_no_paragraphs_have_no_question() -> None:
    assert encoded([1, 2, 3]).question == 3
    assert encoded(np.array([1, 2, 3], np.int32)).ids.dtype == np.int64


@given(st.integers(1, 600), st.integers(0, 600), st.integers(1, 40))
def test_what_is_computed_afresh(n: int, begin: int, tail: int) -> None:
    begin = min(begin, n)
    fresh = EncodedPrompt(np.zeros(n, np.int64), begin).fresh_from(tail)
    assert fresh == max(0, min(n - tail, max(begin, n - MAX_QUESTION_TOKENS)))


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
    known = 12 if template is ALTERNATING else 0
    assert found.question == known, "of a chat that cannot be rendered in part all may be the question"


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
