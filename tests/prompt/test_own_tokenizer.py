"""What other threads do with the tokenizer changes nothing of a prompt; what its owner adds to it counts."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast

from chat_tokenizers import chat_tokenizer, sentencepiece_tokenizer
from semshare_core import SemShareEngine
from semshare_core.prompt.encode import encode
from semshare_core.prompt.own_tokenizer import encode_text, own_tokenizer
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "The lighthouse at Vinga was built in 1841. " * 10
MESSAGES = [{"role": "user", "content": TEXT}]
CUT: dict[str, Any] = {"truncation": True, "max_length": 16}
PADDED: dict[str, Any] = {"padding": "max_length", "max_length": 3000}


@pytest.mark.parametrize("leaves", [CUT, PADDED, CUT | PADDED, {"split_special_tokens": True}], ids=str)
def test_a_call_of_the_tokenizer_leaves_nothing_in_our_prompts(leaves: dict[str, Any]) -> None:
    """Also where it was left before the engine was made."""
    for before in (False, True):
        tokenizer = tiny_tokenizer()
        if before:
            tokenizer(TEXT, **leaves)
        engine = SemShareEngine(tiny_model("llama"), tokenizer)
        expected = [engine.token_ids(prompt) for prompt in (TEXT, MESSAGES)]
        assert [len(ids) > 400 for ids in expected] == [True, True]
        tokenizer(TEXT, **leaves)
        tokenizer.backend_tokenizer.enable_truncation(8)
        assert [engine.token_ids(prompt) for prompt in (TEXT, MESSAGES)] == expected
        assert engine.generate(TEXT, max_new_tokens=2).report.prompt_tokens == len(TEXT)


def test_a_thread_that_truncates_all_the_time() -> None:
    tokenizer = tiny_tokenizer()
    engine = SemShareEngine(tiny_model("llama"), tokenizer)
    expected = engine.token_ids(MESSAGES)
    over, failed = threading.Event(), []

    def truncate() -> None:
        try:
            while not over.is_set():
                tokenizer(TEXT, **CUT)
                tokenizer(TEXT, **PADDED)
        except RuntimeError as error:  # "Already borrowed": somebody else uses this backend
            failed.append(error)

    thread = threading.Thread(target=truncate)
    thread.start()
    try:
        assert all(engine.token_ids(MESSAGES) == expected for _ in range(200))
    finally:
        over.set()
        thread.join()
    assert not failed, "nor do we get into the way of the other thread"


def test_tokens_that_are_added_later_are_known() -> None:
    tokenizer = tiny_tokenizer()
    before = encode_text(tokenizer, "a<one>b")
    assert len(before) == 7
    tokenizer.add_tokens(["<one>"])
    assert encode_text(tokenizer, "a<one>b") == [97, 259, 98]
    mine = own_tokenizer(tokenizer)
    assert mine is own_tokenizer(tokenizer), "made anew only when something changed"
    tokenizer.add_special_tokens({"extra_special_tokens": ["<one>"]})
    assert own_tokenizer(tokenizer).decode([97, 259], skip_special_tokens=True) == "a"
    ids = encode([{"role": "user", "content": "<one>"}], tokenizer, 260, 4096).ids.tolist()
    assert 259 not in ids, "a control token now"


def test_a_bos_that_the_owner_puts_before_texts_later() -> None:
    tokenizer = tiny_tokenizer()
    assert encode_text(tokenizer, "a", special=True) == [97]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", 257)]
    )
    assert encode_text(tokenizer, "a", special=True) == [257, 97]
    assert encode_text(tokenizer, "a") == [97]


def test_a_template_that_is_set_later_is_used() -> None:
    tokenizer = tiny_tokenizer()
    engine = SemShareEngine(tiny_model("llama"), tokenizer)
    engine.token_ids(MESSAGES)
    tokenizer.chat_template = "{% for message in messages %}>{{ message.content }}{% endfor %}"
    assert tokenizer.decode(engine.token_ids(MESSAGES)) == ">" + TEXT


@pytest.mark.parametrize(
    "make", [tiny_tokenizer, sentencepiece_tokenizer, *(lambda s=s: chat_tokenizer(s) for s in ("chatml", "gemma"))]
)
def test_the_copy_spells_as_the_original(make: Any) -> None:
    tokenizer: PreTrainedTokenizerFast = make()
    tokenizer.add_tokens([AddedToken("<tool>", lstrip=True, normalized=True)])
    text = "Hi <tool>\n\n<|end|> <think> été 🦔  x"
    for special in (True, False):
        assert encode_text(tokenizer, text, special=special) == tokenizer(text, add_special_tokens=special)["input_ids"]
    mine, core = own_tokenizer(tokenizer).backend_tokenizer, tokenizer.backend_tokenizer
    assert mine is not core
    assert mine.to_str() == core.to_str()
