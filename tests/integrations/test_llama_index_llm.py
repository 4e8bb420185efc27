"""SemShareLLM as LlamaIndex's users call it: eight methods, settings, prompts, mistakes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from llama_index.core import MockEmbedding
from llama_index.core.base.llms.types import CachePoint, ImageBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from pydantic import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model_gates import answered_beside_a_free_loop, gate_in
from semshare_core import SemShareEngine
from semshare_core.errors import ConfigError, PromptError
from semshare_integrations.llama_index import SemShareLLM
from tiny_models import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

NO_LETTERS = [token for token in range(259) if not ord("a") <= token <= ord("z")]
PROMPT = "The river ran past the old mill and under the bridge, where two boys were fishing. What did they catch?"
ASKED = [ChatMessage("Be brief.", role="system"), ChatMessage(PROMPT)]
TOLD = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]


@pytest.fixture
def llm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> SemShareLLM:
    llm = SemShareLLM(
        model=model,
        tokenizer=tokenizer,
        max_new_tokens=20,
        reuse="exact",
        generate_kwargs={"suppress_tokens": NO_LETTERS},
    )
    assert llm.engine is not None, "built here, so that gates count the passes of calls alone"
    return llm


def expected(llm: SemShareLLM, prompt: Any) -> str:
    return llm.engine.generate(prompt, max_new_tokens=20, reuse="off", store=False, suppress_tokens=NO_LETTERS).text


def test_llama_indexs_embeddings_reach_the_engine(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    asked: list[str] = []

    class Toy(MockEmbedding):
        def _get_text_embedding(self, text: str) -> list[float]:
            asked.append(text)
            return [1.0, float(text == PROMPT)]

    embedding = Toy(embed_dim=2)
    llm = SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=1, model_kwargs={"embedding": embedding})
    llm.engine.warm([PROMPT])
    report = llm.complete(PROMPT[:-1]).raw["semshare"]
    assert report["similarity"] == pytest.approx((1 + 0.5**0.5) / 2)
    assert asked[:2] == [PROMPT, PROMPT[:-1]]


def test_all_completions_agree(llm: SemShareLLM) -> None:
    async def streamed() -> list[Any]:
        return [part async for part in await llm.astream_complete(PROMPT)]

    text = expected(llm, PROMPT)
    assert len(text) == 20
    whole = [llm.complete(PROMPT), asyncio.run(llm.acomplete(PROMPT))]
    assert [response.text for response in whole] == [text] * 2
    for parts in (list(llm.stream_complete(PROMPT)), asyncio.run(streamed())):
        assert "".join(part.delta for part in parts) == text
        assert parts[-1].text == text
        assert all(text.startswith(part.text) for part in parts)
        assert [part.raw is None for part in parts] == [True] * (len(parts) - 1) + [False]


def test_all_chats_agree(llm: SemShareLLM) -> None:
    async def streamed() -> list[Any]:
        return [part async for part in await llm.astream_chat(ASKED)]

    text = expected(llm, TOLD)
    for response in (llm.chat(ASKED), asyncio.run(llm.achat(ASKED))):
        assert response.message.content == text
        assert response.message.role.value == "assistant"
    for parts in (list(llm.stream_chat(ASKED)), asyncio.run(streamed())):
        assert "".join(part.delta for part in parts) == text
        assert parts[-1].message.content == text
        assert all(text.startswith(part.message.content) for part in parts)
        assert [part.raw is None for part in parts] == [True] * (len(parts) - 1) + [False]


def test_raw_has_usage_and_the_report_and_is_json(llm: SemShareLLM) -> None:
    llm.complete(PROMPT)
    raw = llm.complete(PROMPT + " And then?").raw
    assert raw == json.loads(json.dumps(raw))
    report = raw["semshare"]
    assert report["outcome"] == "prefix"
    assert raw["usage"] == {
        "prompt_tokens": len(PROMPT) + 10,
        "completion_tokens": 20,
        "total_tokens": len(PROMPT) + 30,
        "prompt_tokens_details": {"cached_tokens": report["prefix_tokens"]},
    }
    assert raw["usage"]["prompt_tokens_details"]["cached_tokens"] >= len(PROMPT)
    assert raw["finish_reason"] == "length"


@pytest.mark.parametrize("streamed", [False, True])
def test_the_token_counting_handler_counts_the_models_tokens(llm: SemShareLLM, streamed: bool) -> None:
    counter = TokenCountingHandler()
    llm = llm.model_copy(update={"callback_manager": CallbackManager([counter])})
    prompt_tokens = len(llm.engine.token_ids(TOLD))
    if streamed:
        list(llm.stream_complete(PROMPT))
        list(llm.stream_chat(ASKED))
    else:
        llm.complete(PROMPT)
        llm.chat(ASKED)
    assert [event.prompt_token_count for event in counter.llm_token_counts] == [len(PROMPT), prompt_tokens]
    assert counter.completion_llm_token_count == 40


def test_stop_strings_in_every_path(llm: SemShareLLM) -> None:
    text = expected(llm, PROMPT)
    stop = text[6:9]
    cut = text[: text.index(stop)]
    told = llm.model_copy(update={"stop": [stop]})
    for answer in (
        llm.complete(PROMPT, stop=[stop]),
        told.complete(PROMPT),
        asyncio.run(told.acomplete(PROMPT)),
        list(told.stream_complete(PROMPT))[-1],
        list(llm.stream_complete(PROMPT, stop=[stop]))[-1],
    ):
        assert answer.text == cut
        assert answer.raw["finish_reason"] == "stop"


def test_settings_of_a_call_reach_the_engine(llm: SemShareLLM) -> None:
    assert llm.complete(PROMPT, max_tokens=3).raw["usage"]["completion_tokens"] == 3
    assert llm.complete(PROMPT, reuse="off").raw["semshare"]["level"] == "off"
    assert llm.complete(PROMPT, namespace="other").raw["semshare"]["outcome"] == "miss"
    warm = [llm.complete(PROMPT, temperature=1.5, seed=seed).text for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]
    other = llm.complete(PROMPT, suppress_tokens=[token for token in range(259) if token != ord("k")]).text
    assert other == "k" * 20, "the call goes before generate_kwargs"
    longer = SemShareLLM(engine=llm.engine, generate_kwargs={"max_new_tokens": 5})
    assert longer.complete(PROMPT).raw["usage"]["completion_tokens"] == 5
    assert longer.complete(PROMPT, max_tokens=3).raw["usage"]["completion_tokens"] == 3, "by either name"


def test_names_by_habit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    llm = SemShareLLM(model_name="demo", tokenizer_name="folder", device_map="auto", context_window=512, max_tokens=7)
    assert llm.to_payload() == {
        "class_name": "SemShareLLM",
        "model_name": "demo",
        "max_new_tokens": 7,
        "temperature": 0.0,
        "namespace": "default",
    }, "told without loading the model, which does not exist here"
    llm = SemShareLLM(model=model, tokenizer=tokenizer, context_window=512, max_tokens=7)
    assert llm.metadata.context_window == 512
    assert llm.metadata.num_output == 7
    assert llm.metadata.is_chat_model
    assert llm.metadata.is_function_calling_model
    wide = SemShareLLM(engine=llm.engine, context_window=10**6)
    assert wide.metadata.context_window == llm.engine.context
    assert not SemShareLLM(engine=llm.engine, is_function_calling_model=False).metadata.is_function_calling_model


def test_prompts_are_written_as_the_user_says(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    llm = SemShareLLM(
        model=model,
        tokenizer=tokenizer,
        max_tokens=4,
        system_prompt="Be kind.",
        messages_to_prompt=lambda messages: "|".join(f"{each.role.value}:{each.content}" for each in messages),
        completion_to_prompt=lambda text: f"<{text}>",
    )
    assert llm.complete("x").raw["usage"]["prompt_tokens"] == len("<Be kind.\n\nx>")
    assert llm.complete("x", formatted=True).raw["usage"]["prompt_tokens"] == 1
    assert llm.chat([ChatMessage("x")]).raw["usage"]["prompt_tokens"] == len("system:Be kind.|user:x")
    assert llm.chat(ASKED).raw["usage"]["prompt_tokens"] == len(f"system:Be brief.|user:{PROMPT}")
    with pytest.raises(ValueError, match="leave messages_to_prompt out"):
        llm.chat([ChatMessage("x")], response_format={"type": "json_object"})
    through_template = SemShareLLM(engine=llm.engine, system_prompt="Be kind.", max_tokens=4)
    counted = through_template.predict(PromptTemplate("{x}"), x="y"), through_template.chat([ChatMessage("y")])
    assert counted[0] == counted[1].message.content


def test_a_model_without_a_chat_template(model: PreTrainedModel) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    llm = SemShareLLM(model=model, tokenizer=tokenizer, max_tokens=4)
    assert not llm.metadata.is_chat_model
    assert not llm.metadata.is_function_calling_model
    assert llm.predict(PromptTemplate("{x}"), x="y") == llm.complete("y").text
    with pytest.raises(PromptError, match="no chat template"):
        llm.chat(ASKED)


def test_mistakes_are_named(llm: SemShareLLM) -> None:
    call = ToolCallBlock(tool_call_id="a", tool_name="add", tool_kwargs={})
    result = ChatMessage("5", role="tool", additional_kwargs={"tool_call_id": "b"})
    wrong = call.model_copy(update={"tool_kwargs": "{"})
    for messages, told in (
        ([], "no messages"),
        ([ChatMessage("?"), result], "'b' has no call"),
        ([ChatMessage("?"), ChatMessage(role="assistant", blocks=[call]), result], "'b' has no call"),
        ([ChatMessage("?"), ChatMessage(role="assistant", blocks=[wrong])], "of 'add' are not JSON"),
        ([ChatMessage(blocks=[ImageBlock(image=b"")])], "ImageBlock.*only text"),
    ):
        with pytest.raises(ValueError, match=told):
            llm.chat(messages)
        with pytest.raises(ValueError, match=told):
            asyncio.run(llm.achat(messages))
        with pytest.raises(ValueError, match=told):
            list(llm.stream_chat(messages))
    with pytest.raises(ConfigError, match="top_q"):
        llm.complete("?", top_q=1)
    with pytest.raises(ConfigError, match=r"stop=\["):
        llm.chat(ASKED, stop="x")
    with pytest.raises(ValidationError, match="tempature"):
        SemShareLLM(model_id="demo", tempature=1)
    with pytest.raises(ConfigError, match="Which model"):
        SemShareLLM()


def test_a_template_that_refuses_a_role_order(model: PreTrainedModel) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    llm = SemShareLLM(model=model, tokenizer=tokenizer)
    with pytest.raises(PromptError, match="roles must alternate"):
        llm.chat([ChatMessage("?"), ChatMessage("?")])


def test_blocks_that_say_nothing_to_the_model_are_left_out(llm: SemShareLLM) -> None:
    thought = ChatMessage(
        role="user",
        blocks=[ThinkingBlock(content="hm"), *ChatMessage(PROMPT).blocks, CachePoint(cache_control={"type": "x"})],
    )
    assert llm.chat([thought]).message.content == expected(llm, TOLD[1:])


def test_objects_share_an_engine_and_copies_the_model(llm: SemShareLLM) -> None:
    other = SemShareLLM(engine=llm.engine, max_tokens=3)
    assert isinstance(other.engine, SemShareEngine)
    assert other.engine is llm.engine is llm.model_copy(deep=True).engine


# In an event loop


@pytest.mark.parametrize("streamed", [False, True])
def test_the_loop_runs_while_the_model_does(llm: SemShareLLM, model: PreTrainedModel, streamed: bool) -> None:
    """The model waits for the loop. Were the loop waiting for the model, the gate would give up."""

    async def answer() -> str:
        if streamed:
            return "".join([part.delta or "" async for part in await llm.astream_chat(ASKED)])
        return (await llm.achat(ASKED)).message.content or ""

    for stop_at in (1, 5):  # while prefilling, while decoding
        assert answered_beside_a_free_loop(model, answer, stop_at) == expected(llm, TOLD)


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_leaving_early_frees_the_engine_within_a_token(llm: SemShareLLM, model: PreTrainedModel, how: str) -> None:
    async def main() -> int:
        with gate_in(model, stop_at=10) as gate:
            if how == "close":
                parts = await llm.astream_complete(PROMPT, max_new_tokens=3000)
                await anext(parts)
                await gate.until_reached()
                await parts.aclose()
            else:
                task = asyncio.create_task(llm.acomplete(PROMPT, max_new_tokens=3000))
                await gate.until_reached()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await asyncio.sleep(0.01)  # the loop closes what the stream left behind
            assert gate.passes == 10, "nobody waited for the model to come to an end"
            gate.opened.set()
            await llm.acomplete("Another question", max_new_tokens=1, reuse="off")
            assert not gate.gave_up
            return gate.passes

    passes = asyncio.run(main())
    assert passes <= 10 + 1 + 1  # at most one more token, and the other question


def test_closing_a_stream_frees_the_engine_within_a_token(llm: SemShareLLM, model: PreTrainedModel) -> None:
    with gate_in(model, stop_at=10**9) as gate:
        parts = llm.stream_chat(ASKED, max_new_tokens=3000)
        next(parts)
        parts.close()
        llm.chat(ASKED[1:], max_new_tokens=1, reuse="off")
        passes = gate.passes
        assert passes < 100, "of 3000, had it gone on"


def test_concurrent_calls_answer_as_if_alone(llm: SemShareLLM) -> None:
    prompts = [f"{PROMPT[: 60 + 5 * number]} {number}" for number in range(8)]
    alone = [expected(llm, prompt) for prompt in prompts]

    async def one(number: int) -> str:
        if number % 2:
            return (await llm.acomplete(prompts[number])).text
        return "".join([part.delta or "" async for part in await llm.astream_complete(prompts[number])])

    async def together() -> list[str]:
        return await asyncio.gather(*map(one, range(8)))

    assert len(set(alone)) == 8
    assert asyncio.run(together()) == alone
