"""The text of an answer is what it adds to the prompt's: prompt + text is the whole, and comes back as the same ids."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from chat_tokenizers import Says, sentencepiece_tokenizer
from semshare_core import SemShareEngine
from semshare_core.decode.text_behind import TextBehind
from semshare_core.prompt.own_tokenizer import encode_text
from semshare_core.prompt.retokenize import retokenized
from semshare_integrations.adapter import ChatCall
from semshare_integrations.langchain import SemShareLLM
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT = "The lighthouse at Vinga was built in 1841. Is that so?"


@pytest.fixture(scope="module", params=["first", "always"])
def engine(request: pytest.FixtureRequest) -> SemShareEngine:
    return SemShareEngine(tiny_model("llama"), sentencepiece_tokenizer(request.param))


def said(engine: SemShareEngine, text: str) -> list[int]:
    """``text`` as the model says it behind the prompt, and the end."""
    whole, before = (encode_text(engine.tokenizer, each) for each in (PROMPT + text, PROMPT))
    assert whole[: len(before)] == before
    return [*whole[len(before) :], engine.tokenizer.eos_token_id]


@pytest.mark.parametrize("text", [" Yes, it is.", "  Two spaces", "No", " été 🦔", "\n Next line"])
def test_a_space_at_the_beginning_of_an_answer_is_kept(engine: SemShareEngine, text: str) -> None:
    ids = said(engine, text)
    out = engine.generate(PROMPT, logits_processor=[Says(ids)], store=False)
    assert out.text == text
    assert engine.tokenizer.decode([*engine.token_ids(PROMPT), *ids[:-1]]) == PROMPT + text
    pieces = list(engine.stream(PROMPT, logits_processor=[Says(ids)], store=False))
    assert "".join(piece.text for piece in pieces) == text
    llm = SemShareLLM(engine=engine)
    settings = {"logits_processor": [Says(ids)], "store": False}
    assert llm.invoke(PROMPT, **settings) == text
    assert asyncio.run(llm.ainvoke(PROMPT, logits_processor=[Says(ids)], store=False)) == text


def test_the_answer_comes_back_as_the_ids_that_were_generated(engine: SemShareEngine) -> None:
    engine.pool.clear()
    text = " Yes, it is."
    out = engine.generate(PROMPT, logits_processor=[Says(said(engine, text))])
    again = PROMPT + out.text + " Thanks."
    ids = engine.token_ids(PROMPT) + out.token_ids[:-1]
    assert engine.token_ids(again)[: len(ids)] == ids
    assert engine.generate(again, max_new_tokens=1, reuse="exact", store=False).report.prefix_tokens == len(ids)


def test_an_answer_in_single_letters_is_spelled_as_its_text(engine: SemShareEngine) -> None:
    """Rows are kept for the ids that the text becomes."""
    engine.pool.clear()
    tokenizer = engine.tokenizer
    letters = [tokenizer.convert_tokens_to_ids(token) for token in ["▁", "i", "t", "▁", "i", "s"]]
    out = engine.generate(PROMPT, logits_processor=[Says([*letters, tokenizer.eos_token_id])])
    assert out.text == " it is"
    told = engine.token_ids(PROMPT + out.text + ".")
    assert told[-5:] == [tokenizer.convert_tokens_to_ids(token) for token in ["▁i", "t", "▁i", "s", "."]]
    report = engine.generate(PROMPT + out.text + ".", max_new_tokens=1, reuse="exact", store=False).report
    assert report.prefix_tokens == len(told) - 1


def test_a_stop_string_that_begins_with_the_answers_space(engine: SemShareEngine) -> None:
    ids = said(engine, " Yes, it is.")
    for stop, left in ((" Yes", ""), (" it", " Yes,"), ("so? Yes", " Yes, it is.")):
        assert engine.generate(PROMPT, stop=[stop], logits_processor=[Says(ids)], store=False).text == left
        pieces = engine.stream(PROMPT, stop=[stop], logits_processor=[Says(ids)], store=False)
        assert "".join(piece.text for piece in pieces) == left, "streamed"


def test_an_answer_in_a_chat_keeps_its_space(engine: SemShareEngine) -> None:
    asked = [{"role": "user", "content": PROMPT}]
    ids = said(engine, " Yes, it is.")
    out = engine.generate(asked, logits_processor=[Says(ids)], store=False)
    assert out.text == " Yes, it is."


def test_a_character_that_the_prompt_began_is_the_answers() -> None:
    tokenizer = tiny_tokenizer()
    hedgehog = list("🦔!".encode())
    for known in range(1, 4):
        text_of = TextBehind(tokenizer, [97, *hedgehog[:known]])
        told = [text_of(hedgehog[known:size]) for size in range(known, 6)]
        assert [text.rstrip("\ufffd") for text in told] == [""] * (4 - known) + ["🦔", "🦔!"]
    assert TextBehind(tokenizer, [97, 0xF0])([98]) == "b", "never finished"
    assert TextBehind(tokenizer, list("real \ufffd".encode()))([98]) == "b"


def test_a_prompt_of_special_tokens_only() -> None:
    tokenizer = tiny_tokenizer()
    assert TextBehind(tokenizer, [257] * 40)([104, 105, 256]) == "hi"
    assert TextBehind(tokenizer, [257] * 40)([104, 105, 256], special=True) == "hi<|end|>"
    assert TextBehind(tokenizer, [104, *[257] * 40])([105]) == "i"


@pytest.mark.parametrize("prepend", ["first", "always"])
def test_no_word_is_cut_where_the_prompts_last_tokens_begin_within_one(prepend: str) -> None:
    """The last tokens of a prompt, decoded and spelled again, get a space that the prompt has not."""
    tokenizer = sentencepiece_tokenizer(prepend)
    for prompt in (PROMPT + "X" * size for size in range(20)):
        ids = np.asarray(encode_text(tokenizer, prompt))
        letters = [tokenizer.convert_tokens_to_ids(token) for token in ["▁", "i", "t"]]
        assert retokenized(ids, letters, tokenizer).tolist() == encode_text(tokenizer, prompt + " it")


def test_text_before_a_tool_call_keeps_its_space(engine: SemShareEngine) -> None:
    """Streamed and whole; the calls are read from the tokens, the text before them is the answer's."""
    call = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
    tokenizer = engine.tokenizer
    for text, told in ((" Let me look.", " Let me look."), (f" I look.\n{call}", " I look.")):
        ids = said(engine, text)
        reply = ChatCall.of(engine, [{"role": "user", "content": "?"}], tools=[TOOL], tool_choice="none")
        reply.names = ["look"]  # read as though calls were free
        pieces = [reply.take(piece) for piece in engine.stream(PROMPT, logits_processor=[Says(ids)], store=False)]
        assert "".join(pieces) == reply.text == told
        assert [each.name for each in reply.reply.calls] == ["look"] * (call in text)
    assert tokenizer.decode(said(engine, " x")[:-1]) == "x", "decoded alone it is lost"


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("kind", ["bytes", "first", "always"])
def test_the_text_of_a_growing_answer_is_that_of_the_whole(kind: str, special: bool) -> None:
    """Half characters, spaces and special tokens wherever they fall."""
    tokenizer = tiny_tokenizer() if kind == "bytes" else sentencepiece_tokenizer(kind)
    prompt = encode_text(tokenizer, PROMPT)
    said = encode_text(tokenizer, "Été, a hedgehog 🦔🦔 and 漢字.  Two spaces\n" * 6)
    rng = np.random.default_rng(0)
    noise = [int(token) for token in rng.integers(0, len(tokenizer), 120)]
    ids = [*said, *noise, *said]
    growing = TextBehind(tokenizer, prompt)
    for size in range(len(ids) + 1):
        assert growing(ids[:size], special=special) == TextBehind(tokenizer, prompt)(ids[:size], special=special)
    assert growing(ids[:40], special=special) == TextBehind(tokenizer, prompt)(ids[:40], special=special), "shorter"


def test_a_long_answer_is_not_read_from_its_beginning_at_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer()
    text = TextBehind(tokenizer, encode_text(tokenizer, PROMPT))
    read: list[int] = []
    decode = TextBehind._decode

    def noted(self: TextBehind, ids: list[int], *, special: bool) -> str:
        read.append(len(ids))
        return decode(self, ids, special=special)

    monkeypatch.setattr(TextBehind, "_decode", noted)
    ids = encode_text(tokenizer, "No end of it. " * 40)
    for size in range(1, len(ids) + 1):
        assert text(ids[:size]) == tokenizer.decode(ids[:size])
    assert max(read) <= 64
