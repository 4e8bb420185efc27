"""What SemShareLLM answers, whole and streamed, up to its stop strings; beyond what the standard suite asks."""

from __future__ import annotations

import asyncio
from functools import reduce
from operator import add
from typing import Any

import pytest
import torch
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableConfig

from langchain_prompts import NO_LETTERS, OTHER, PROMPT
from semshare_core import ReuseReport
from semshare_core.errors import ConfigError, PromptError
from semshare_integrations.langchain import SemShareCallbackHandler, SemShareLLM

pytestmark = pytest.mark.usefixtures("one_thread")


def test_invoke_is_what_transformers_generates(llm: SemShareLLM, model: Any, tokenizer: Any) -> None:
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    expected = model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    for _ in range(2):  # computed, and reused
        assert llm.invoke(PROMPT, reuse="exact") == tokenizer.decode(expected, skip_special_tokens=True)


def test_in_a_chain(llm: SemShareLLM) -> None:
    chain = PromptTemplate.from_template("{who} asked: " + PROMPT) | llm | StrOutputParser()
    asked = [{"who": "Ann"}, {"who": "Bob"}]
    direct = [llm.invoke(f"{each['who']} asked: {PROMPT}", reuse="off") for each in asked]
    assert [chain.invoke(each) for each in asked] == direct
    assert chain.batch(asked) == direct
    assert "".join(chain.stream(asked[0])) == direct[0]


@pytest.mark.parametrize("limit", [None, 2])
def test_one_bad_prompt_of_a_batch_takes_no_answer_with_it(llm: SemShareLLM, limit: int | None) -> None:
    prompts, config = ["a good one", "", "another good one"], RunnableConfig(max_concurrency=limit)
    good = [llm.invoke(prompt, reuse="exact") for prompt in (prompts[0], prompts[2])]
    answers = llm.batch(prompts, config, return_exceptions=True, reuse="exact")
    waited = asyncio.run(llm.abatch(prompts, config, return_exceptions=True, reuse="exact"))
    for first, bad, last in (answers, waited):
        assert isinstance(bad, PromptError)
        assert [first, last] == good
    with pytest.raises(PromptError):
        llm.batch(prompts, config)


def test_batch_has_statistics_per_prompt(llm: SemShareLLM) -> None:
    prompts = [PROMPT, OTHER, PROMPT + " And then?"]
    result = llm.generate(prompts, max_new_tokens=5, reuse="exact")
    infos = [generation[0].generation_info or {} for generation in result.generations]
    reports = [ReuseReport.model_validate(info["semshare"]) for info in infos]
    assert [report.prompt_tokens for report in reports] == [len(prompt) for prompt in prompts]
    assert [report.outcome for report in reports] == ["miss", "miss", "prefix"]
    assert reports[2].prefix_tokens == len(PROMPT)
    assert [info["finish_reason"] for info in infos] == ["length"] * 3
    assert [generation[0].text for generation in result.generations] == llm.batch(
        prompts, max_new_tokens=5, reuse="off"
    )
    total = sum(map(len, prompts))
    usage = {"prompt_tokens": total, "completion_tokens": 15, "total_tokens": total + 15}
    assert result.llm_output == {"token_usage": usage, "model_name": llm.model_id}


def test_stream_is_invoke_in_pieces(llm: SemShareLLM) -> None:
    whole = llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)
    pieces = list(llm.stream(PROMPT, suppress_tokens=NO_LETTERS))
    assert "".join(pieces) == whole
    assert sum(map(bool, pieces)) == len(whole) == 20


def test_streamed_chunks_merge(llm: SemShareLLM) -> None:
    chunks = list(llm._stream(PROMPT, suppress_tokens=NO_LETTERS))
    assert [chunk.generation_info for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    merged = reduce(add, chunks)
    assert merged.text == llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)
    assert merged.generation_info == chunks[-1].generation_info
    report = ReuseReport.model_validate((merged.generation_info or {})["semshare"])
    assert (report.prompt_tokens, report.generated_tokens) == (len(PROMPT), 20)
    assert (merged.generation_info or {})["finish_reason"] == "length"


def test_an_empty_answer_is_streamed_as_one_chunk(llm: SemShareLLM) -> None:
    first = llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)[0]
    assert list(llm.stream(PROMPT, suppress_tokens=NO_LETTERS, stop=[first])) == [""]


def test_tokens_are_told_as_they_come(llm: SemShareLLM) -> None:
    class Told(SemShareCallbackHandler):
        def __init__(self) -> None:
            super().__init__()
            self.tokens: list[tuple[str, str]] = []

        def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
            self.tokens.append((token, chunk.text))

    told = Told()
    pieces = list(llm.stream(PROMPT, config={"callbacks": [told]}, suppress_tokens=NO_LETTERS))
    assert told.tokens == [(piece, piece) for piece in pieces]
    assert len(pieces) > 10


def test_closing_a_stream_ends_generation(llm: SemShareLLM, model: Any) -> None:
    passes: list[int] = []
    handle = model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        pieces = llm.stream(PROMPT, max_new_tokens=3000, suppress_tokens=NO_LETTERS)
        next(pieces)
        pieces.close()
        before = len(passes)
        llm.invoke(OTHER, max_new_tokens=1, reuse="off")
    finally:
        handle.remove()
    assert before < 1000  # of 3000: close() came back with the generation ended ...
    assert len(passes) - before <= 2  # ... and nothing of it goes on


# Stop strings


@pytest.mark.parametrize("how", ["field", "call", "bind"])
@pytest.mark.parametrize("streamed", [False, True])
def test_stop_strings_end_the_answer(llm: SemShareLLM, how: str, streamed: bool) -> None:
    whole = llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)
    stop = ["not in it", whole[6:9], whole[12:]]
    runnable: Any = llm.bind(suppress_tokens=NO_LETTERS)
    call: dict[str, Any] = {}
    if how == "field":
        runnable = SemShareLLM(engine=llm.engine, max_new_tokens=20, stop=stop).bind(suppress_tokens=NO_LETTERS)
    elif how == "bind":
        runnable = runnable.bind(stop=stop)
    else:
        call = {"stop": stop}
    text = "".join(runnable.stream(PROMPT, **call)) if streamed else runnable.invoke(PROMPT, **call)
    assert text == whole[: whole.index(whole[6:9])]


def test_a_stop_of_the_call_goes_before_the_field(llm: SemShareLLM) -> None:
    whole = llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)
    stopping = SemShareLLM(engine=llm.engine, max_new_tokens=20, stop=[whole[4]])
    assert stopping.invoke(PROMPT, suppress_tokens=NO_LETTERS) == whole[: whole.index(whole[4])]
    assert stopping.invoke(PROMPT, suppress_tokens=NO_LETTERS, stop=[]) == whole
    assert stopping.invoke(PROMPT, suppress_tokens=NO_LETTERS, stop=["?"]) == whole


def test_the_finish_reason_tells_of_a_stop(llm: SemShareLLM) -> None:
    whole = llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)
    result = llm.generate([PROMPT], stop=[whole[5]], suppress_tokens=NO_LETTERS)
    assert (result.generations[0][0].generation_info or {})["finish_reason"] == "stop"


def test_a_string_is_no_list_of_stop_strings(llm: SemShareLLM) -> None:
    for call in (llm.invoke, lambda prompt, **more: list(llm.stream(prompt, **more))):
        with pytest.raises(ConfigError, match=r"stop=\['END'\]"):
            call(PROMPT, stop="END")  # type: ignore[arg-type]
