"""OpenAI's own client asks for text completions over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from served import MODEL, Served, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "Where is Vinga, and when may I visit the island? " * 3
GREEDY: Any = {"model": MODEL, "temperature": 0, "max_tokens": 6}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(tiny_engine()) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return served.openai()


def test_a_text_goes_on_without_a_chat_template(served: Served, client: openai.OpenAI) -> None:
    expected = served.engine.generate(TEXT, max_new_tokens=6, store=False)
    answer = client.completions.create(**GREEDY, prompt=TEXT)
    assert answer.choices[0].text == expected.text
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == expected.report.prompt_tokens
    ids = served.engine.token_ids(TEXT)
    assert client.completions.create(**GREEDY, prompt=ids).choices[0].text == expected.text, (
        "token ids are a prompt, too"
    )


def test_without_a_limit_there_are_sixteen_tokens(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=TEXT, temperature=0, extra_body={"ignore_eos": True})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_several_prompts_have_their_answers_in_order(client: openai.OpenAI) -> None:
    prompts = [TEXT, TEXT + "And the ferry?"]
    several = client.completions.create(**GREEDY, prompt=prompts, n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    single = [client.completions.create(**GREEDY, prompt=prompt) for prompt in prompts]
    texts = [answer.choices[0].text for answer in single]
    assert [choice.text for choice in several.choices] == [texts[0], texts[0], texts[1], texts[1]]
    assert several.usage is not None
    assert several.usage.prompt_tokens == sum(answer.usage.prompt_tokens for answer in single if answer.usage)
    assert several.usage.completion_tokens == 24


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_comes_back_where_it_is_asked_for(client: openai.OpenAI, stream: bool) -> None:
    bare = client.completions.create(**GREEDY, prompt=TEXT).choices[0].text
    if stream:
        pieces = client.completions.create(**GREEDY, prompt=TEXT, echo=True, stream=True)
        text = "".join(choice.text for piece in pieces for choice in piece.choices)
    else:
        text = client.completions.create(**GREEDY, prompt=TEXT, echo=True).choices[0].text
    assert text == TEXT + bare


def test_log_probabilities_are_in_the_older_form(client: openai.OpenAI) -> None:
    whole = client.completions.create(**GREEDY, prompt=TEXT, logprobs=2).choices[0]
    logprobs = whole.logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.top_logprobs is not None
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 6
    both = zip(logprobs.top_logprobs, logprobs.token_logprobs, strict=True)
    assert all(max(top.values()) == own for top, own in both), "a greedy answer is the likeliest"
    assert (logprobs.text_offset or [None])[0] == 0
    pieces = list(client.completions.create(**GREEDY, prompt=TEXT, logprobs=2, stream=True))
    streamed = [x for p in pieces for c in p.choices if c.logprobs for x in c.logprobs.token_logprobs or ()]
    assert streamed == pytest.approx(logprobs.token_logprobs, abs=1e-4)


def test_a_stream_ends_with_its_usage(client: openai.OpenAI) -> None:
    whole = client.completions.create(**GREEDY, prompt=TEXT)
    *pieces, last = list(
        client.completions.create(**GREEDY, prompt=TEXT, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    assert pieces[-1].choices[0].finish_reason == "length"
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 6


def test_penalties_count_what_the_answer_has(client: openai.OpenAI) -> None:
    """A bias makes one letter by far the likeliest; a penalty for each time must be too much at last."""
    biased: Any = {**GREEDY, "max_tokens": 12, "logit_bias": {"65": 40}}
    assert client.completions.create(**biased, prompt=TEXT).choices[0].text == "A" * 12
    once = client.completions.create(**biased, prompt="A" * 40, presence_penalty=2).choices[0].text
    assert once == "A" * 12, "what the prompt has does not count, and once is not enough"
    often = client.completions.create(**{**biased, "logit_bias": {"65": 10}}, prompt=TEXT, frequency_penalty=2)
    assert often.choices[0].text.startswith("A")
    assert often.choices[0].text != "A" * 12


@pytest.mark.parametrize("change", [{"logit_bias": {"65": 100}}, {"extra_body": {"repetition_penalty": 1.9}}], ids=str)
def test_logprobs_are_the_models_own_before_biases_and_penalties(served: Served, change: Any) -> None:
    client = served.openai()

    def first(**settings: Any) -> Any:
        asked: Any = {**GREEDY, "max_tokens": 1, "logprobs": 5, **settings}
        logprobs = client.completions.create(**asked, prompt=TEXT).choices[0].logprobs
        assert logprobs is not None
        assert logprobs.top_logprobs is not None
        return max(logprobs.top_logprobs[0].values())

    assert first(**change) == pytest.approx(first(), abs=1e-3)


def test_no_character_of_an_answer_ends_a_line_of_its_stream(served: Served) -> None:
    body = {"model": MODEL, "prompt": "a\u2028b\u2029c\u0085d", "max_tokens": 2, "echo": True, "stream": True}
    with served.http() as http, http.stream("POST", "/v1/completions", json=body) as answer:
        *data, done = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert done == "[DONE]"
    assert json.loads(data[0])["choices"][0]["text"].startswith("a\u2028b\u2029c\u0085d")


def test_log_probabilities_are_those_before_a_least_length(served: Served) -> None:
    def first(**settings: Any) -> float:
        body = {"model": MODEL, "prompt": "hello world", "max_tokens": 4, "temperature": 0, "logprobs": 1, **settings}
        with served.http() as http:
            answer = http.post("/v1/completions", json=body).raise_for_status().json()
        return float(answer["choices"][0]["logprobs"]["token_logprobs"][0])

    assert first(min_tokens=3) == first()
