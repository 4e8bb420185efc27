"""OpenAI's own client asks for chat completions over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from served import MODEL, Served, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

MESSAGES: Any = [{"role": "user", "content": "Where is Vinga, and when may I visit the island? " * 3}]
GREEDY: Any = {"model": MODEL, "messages": MESSAGES, "temperature": 0}
SAMPLED: Any = {"model": MODEL, "messages": MESSAGES, "temperature": 1.0, "extra_body": {"semshare": {"store": False}}}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]},
    },
}
TIME: Any = {"type": "function", "function": {"name": "time", "description": "The time."}}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(tiny_engine()) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return served.openai()


def text_of(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_an_answer_has_text_usage_and_the_report(served: Served, client: openai.OpenAI) -> None:
    served.engine.pool.clear()
    expected = served.engine.generate(MESSAGES, max_new_tokens=5, store=False)
    answer = client.chat.completions.create(**GREEDY, max_completion_tokens=5)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens == expected.report.prompt_tokens
    assert answer.usage.completion_tokens == 5
    assert answer.usage.prompt_tokens_details.cached_tokens == 0, "there, although it is 0"
    assert answer._request_id
    again = client.chat.completions.create(**GREEDY, max_completion_tokens=5)
    assert again.choices == answer.choices
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == expected.report.prompt_tokens - 1
    report = again.model_extra["semshare"]  # type: ignore[index]
    assert report["outcome"] == "prefix"
    assert report["reason"]
    assert "here" not in json.dumps(report["first_difference"])


def test_a_difference_has_a_place_and_a_kind_and_quotes_nothing(client: openai.OpenAI) -> None:
    words: Any = [{"role": "user", "content": "The secret number is 1234, which nobody may know but the two of us."}]
    client.chat.completions.create(model=MODEL, messages=words, max_completion_tokens=1)
    words[0]["content"] = words[0]["content"].replace("1234", "9876")
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=words, max_completion_tokens=1)
    assert json.loads(raw.text)["semshare"]["first_difference"]["kind"] in ("number", "id", "other text")
    assert "1234" not in raw.text
    assert "9876" not in raw.text


def test_a_stream_says_the_same_in_chunks(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY, max_completion_tokens=20)
    with client.chat.completions.create(
        **GREEDY, max_completion_tokens=20, stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = list(stream)
    assert text_of(chunks) == whole.choices[0].message.content
    assert len(chunks) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == [], "usage beside a choice would be counted twice"
    assert last.usage is not None
    assert last.usage.completion_tokens == 20
    assert {chunk.id for chunk in [*chunks, last]} == {last.id}
    assert chunks[-1].model_extra["semshare"]["generated_tokens"] == 20  # type: ignore[index]


def test_a_stream_ends_with_done_and_has_no_usage_that_nobody_asked_for(served: Served) -> None:
    with served.http() as http:
        text = http.post("/v1/chat/completions", json={**GREEDY, "max_tokens": 2, "stream": True}).text
    *events, done, end = text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events)


def test_each_of_several_answers_has_its_own_seed(client: openai.OpenAI) -> None:
    several = client.chat.completions.create(**SAMPLED, max_completion_tokens=8, n=3, seed=7)
    texts = [choice.message.content for choice in several.choices]
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert several.usage is not None
    assert several.usage.completion_tokens == 24
    assert several.usage.prompt_tokens < 200, "the prompt counts once"
    second = client.chat.completions.create(**SAMPLED, max_completion_tokens=8, seed=8)
    assert second.choices[0].message.content == texts[1]
    with client.chat.completions.create(**SAMPLED, max_completion_tokens=8, n=3, seed=7, stream=True) as stream:
        chunks = list(stream)
    for index in range(3):
        own = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert "".join(own) == texts[index]


def test_without_a_temperature_answers_are_sampled_as_openais_are(client: openai.OpenAI) -> None:
    request: Any = {**SAMPLED, "max_completion_tokens": 8, "seed": 3}
    del request["temperature"]
    sampled = client.chat.completions.create(**request).choices[0].message.content
    assert sampled == client.chat.completions.create(**request, temperature=1.0).choices[0].message.content
    assert sampled != client.chat.completions.create(**request, temperature=0).choices[0].message.content


def test_log_probabilities_are_the_models_own(served: Served, client: openai.OpenAI) -> None:
    logits = served.engine.prefill(MESSAGES, store=False).logits.log_softmax(-1)
    request: Any = {**GREEDY, "max_completion_tokens": 6, "logprobs": True, "top_logprobs": 3}
    client.chat.completions.create(**request, frequency_penalty=1.5)  # the others begin with the same rows
    whole = client.chat.completions.create(**request, frequency_penalty=1.5).choices[0].logprobs
    assert whole is not None
    assert whole.content is not None
    assert len(whole.content) == 6
    assert [len(token.top_logprobs) for token in whole.content] == [3] * 6
    best = logits.topk(3)
    first = whole.content[0]
    assert [token.logprob for token in first.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert first.logprob == first.top_logprobs[0].logprob
    with client.chat.completions.create(**request, frequency_penalty=1.5, stream=True) as stream:
        chunks = list(stream)
    streamed = [token for c in chunks for x in c.choices if x.logprobs for token in x.logprobs.content or ()]
    assert streamed == whole.content
    bare = client.chat.completions.create(**{**request, "top_logprobs": None}).choices[0].logprobs
    assert bare is not None
    assert bare.content is not None
    assert bare.content[0].top_logprobs == []


def test_a_stop_string_ends_the_answer_and_is_not_in_it(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY, max_completion_tokens=20).choices[0].message.content
    assert whole
    stop = whole[8:10]
    cut = client.chat.completions.create(**GREEDY, max_completion_tokens=20, stop=stop)
    assert cut.choices[0].message.content == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_vllms_additions_reach_the_engine(served: Served, client: openai.OpenAI) -> None:
    def answered(**extra: Any) -> Any:
        return client.chat.completions.create(**GREEDY, max_completion_tokens=6, extra_body=extra)

    plain = answered()
    first = served.engine.generate(MESSAGES, max_new_tokens=1, store=False).token_ids[0]
    stopped = answered(stop_token_ids=[first])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.usage.completion_tokens == 1
    assert answered(repetition_penalty=5.0).choices != plain.choices
    assert answered(min_tokens=6, ignore_eos=True).usage.completion_tokens == 6
    assert answered(request_id="mine").id == "chatcmpl-mine"
    assert answered(semshare={"reuse": "off"}).model_extra["semshare"]["outcome"] == "bypass"
    assert answered(top_k=-1, min_p=0.1, priority=1).choices == plain.choices, "a greedy answer is the same"
    biased = client.chat.completions.create(**GREEDY, max_completion_tokens=3, logit_bias={"65": 100})
    assert biased.choices[0].message.content == "AAA"


def test_an_answer_that_is_not_stored_serves_nobody(served: Served, client: openai.OpenAI) -> None:
    served.engine.pool.clear()
    client.chat.completions.create(**SAMPLED, max_completion_tokens=1)
    assert served.engine.pool.stats().entries == 0


def test_hints_change_nothing(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(**GREEDY, max_completion_tokens=4)
    parts: Any = [{"type": "text", "text": MESSAGES[0]["content"], "cache_control": {"type": "ephemeral"}}]
    hinted = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": parts}],
        temperature=0,
        max_completion_tokens=4,
        prompt_cache_key="mine",
        user="somebody",
        metadata={"a": "b"},
        service_tier="auto",
        reasoning_effort="low",
    )
    assert hinted.choices == plain.choices


# --- tools and forms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [False, True])
def test_calls_in_a_stream_are_those_of_the_whole_answer(client: openai.OpenAI, parallel: bool) -> None:
    """Each call has an id of its own and a rising index; arguments are JSON in a string."""
    request: Any = {
        **GREEDY,
        "max_completion_tokens": 400,
        "tools": [WEATHER, TIME],
        "tool_choice": "required",
        "parallel_tool_calls": parallel,
    }
    whole = client.chat.completions.create(**request).choices[0]
    calls = whole.message.tool_calls
    assert whole.finish_reason == "tool_calls"
    assert calls
    assert whole.message.content is None
    with client.chat.completions.create(**request, stream=True) as stream:
        chunks = [chunk.choices[0] for chunk in stream]
    deltas = [delta for chunk in chunks for delta in chunk.delta.tool_calls or ()]
    gathered: dict[int, dict[str, str]] = {}
    for delta in deltas:
        call = gathered.setdefault(delta.index, {"id": "", "name": "", "arguments": ""})
        assert delta.function is not None
        call["id"] += delta.id or ""
        call["name"] += delta.function.name or ""
        call["arguments"] += delta.function.arguments or ""
    assert list(gathered) == list(range(len(calls)))
    assert len(calls) > 1 if parallel else len(calls) == 1
    assert [(call["name"], call["arguments"]) for call in gathered.values()] == [
        (call.function.name, call.function.arguments) for call in calls if call.type == "function"
    ]
    assert len({call["id"] for call in gathered.values()}) == len(calls)
    assert all(isinstance(json.loads(call["arguments"]), dict) for call in gathered.values())
    assert chunks[-1].finish_reason == "tool_calls"
    assert not any(chunk.delta.content for chunk in chunks)


def test_a_named_tool_is_called_and_its_result_read(client: openai.OpenAI) -> None:
    choice: Any = {"type": "function", "function": {"name": "weather"}}
    asked: Any = {"model": MODEL, "temperature": 0, "tools": [WEATHER, TIME], "max_completion_tokens": 200}
    message = client.chat.completions.create(**asked, messages=MESSAGES, tool_choice=choice).choices[0].message
    assert message.tool_calls
    assert message.tool_calls[0].type == "function"
    assert message.tool_calls[0].function.name == "weather"
    assert isinstance(json.loads(message.tool_calls[0].function.arguments)["days"], int)
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    history = [*MESSAGES, message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(**{**asked, "messages": history, "tool_choice": "none"})
    assert answer.choices[0].message.tool_calls is None
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens > 0, "the conversation goes on where it ended"


def test_a_limit_of_tokens_does_not_cut_a_call_off(client: openai.OpenAI) -> None:
    asked: Any = {**GREEDY, "tools": [WEATHER], "tool_choice": "required"}
    short = client.chat.completions.create(**asked, max_completion_tokens=90).choices[0]
    assert short.finish_reason == "tool_calls"
    with pytest.raises(openai.BadRequestError, match="Raise max_tokens"):
        client.chat.completions.create(**asked, max_completion_tokens=10)
    with pytest.raises(openai.BadRequestError, match="Raise max_tokens"):
        client.chat.completions.create(**asked, max_completion_tokens=10, stream=True)


def test_a_schema_is_kept(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["island", "town"]}, "year": {"type": "integer"}},
        "required": ["kind", "year"],
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(**GREEDY, max_completion_tokens=80, response_format=form)
    said = json.loads(answer.choices[0].message.content or "")
    assert said["kind"] in ("island", "town")
    assert isinstance(said["year"], int)
    form = {"type": "json_object"}
    answer = client.chat.completions.create(**GREEDY, max_completion_tokens=80, response_format=form)
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_whole_at_the_last_token_was_not_cut_off(client: openai.OpenAI, stream: bool) -> None:
    """OpenAI's client refuses to parse an answer that ended with ``length``."""
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    asked: Any = {
        **GREEDY,
        "max_completion_tokens": 40,
        "response_format": {"type": "json_schema", "json_schema": {"name": "said", "schema": schema}},
    }
    if stream:
        chunks = list(client.chat.completions.create(**asked, stream=True))
        text, reason = text_of(chunks), chunks[-1].choices[0].finish_reason
    else:
        choice = client.chat.completions.create(**asked).choices[0]
        text, reason = choice.message.content or "", choice.finish_reason
    assert isinstance(json.loads(text)["text"], str)
    assert reason == "stop"
    free = client.chat.completions.create(**GREEDY, max_completion_tokens=9, tools=[TIME], tool_choice="auto")
    assert free.choices[0].finish_reason == "length", "free text is never whole by itself"
