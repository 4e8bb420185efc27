"""What LangChain's users may expect of any text model: the suite that langchain-tests has for chat models only.

Subclass :class:`TextLLMTests`, say which class and how to build it, and every test below runs. They need nothing of
SemShare. The model must answer at least ``12`` characters to ``prompt`` greedily.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import BaseLLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import LLMResult
from langchain_core.prompts import PromptTemplate


class Heard(BaseCallbackHandler):
    """Tokens and results that a callback is told of."""

    run_inline = True

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.results: list[LLMResult] = []
        self.errors: list[BaseException] = []
        self.metadata: list[dict[str, Any]] = []

    def on_llm_start(self, serialized: Any, prompts: Any, *, metadata: Any = None, **kwargs: Any) -> None:
        self.metadata.append(dict(metadata or {}))

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.tokens.append(token)

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        self.results.append(response)

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.errors.append(error)


class HeardLater(AsyncCallbackHandler):
    """The same for an asynchronous callback."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    async def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.tokens.append(token)


class TextLLMTests(ABC):
    """Standard tests of a LangChain text model."""

    prompt = "The river ran past the old mill and under the bridge, where two boys were fishing."

    @property
    @abstractmethod
    def llm_class(self) -> type[BaseLLM]:
        """The class under test."""

    @property
    @abstractmethod
    def llm_params(self) -> dict[str, Any]:
        """What a greedy model with short answers is built with, cheaply, again and again."""

    @property
    def length_name(self) -> str:
        """The setting that limits an answer's tokens."""
        return "max_tokens"

    @pytest.fixture
    def llm(self) -> BaseLLM:
        return self.llm_class(**self.llm_params)

    @pytest.fixture
    def answer(self, llm: BaseLLM) -> str:
        text = llm.invoke(self.prompt)
        assert len(text) >= 12, "too short an answer to test with"
        return text

    def all_ways(self, llm: Any, prompt: str, **settings: Any) -> dict[str, str]:
        """The answer by every method that a user may call."""

        async def astream() -> str:
            return "".join([piece async for piece in llm.astream(prompt, **settings)])

        async def events() -> str:
            told = [event async for event in llm.astream_events(prompt, version="v2", **settings)]
            chunks = [event["data"]["chunk"] for event in told if event["event"] == "on_llm_stream"]
            return "".join(chunk if isinstance(chunk, str) else chunk.text for chunk in chunks)

        return {
            "invoke": llm.invoke(prompt, **settings),
            "generate": llm.generate([prompt], **settings).generations[0][0].text if isinstance(llm, BaseLLM) else "",
            "batch": llm.batch([prompt], **settings)[0],
            "stream": "".join(llm.stream(prompt, **settings)),
            "ainvoke": asyncio.run(llm.ainvoke(prompt, **settings)),
            "abatch": asyncio.run(llm.abatch([prompt], **settings))[0],
            "astream": asyncio.run(astream()),
            "astream_events": asyncio.run(events()),
        }

    # answers

    def test_all_ways_agree(self, llm: BaseLLM, answer: str) -> None:
        """Otherwise moving from ``invoke`` to ``astream`` changes what users read."""
        assert self.all_ways(llm, self.prompt) == dict.fromkeys(self.all_ways(llm, self.prompt), answer)

    def test_the_prompt_is_not_in_the_answer(self, answer: str) -> None:
        """Otherwise every parser behind the model reads the question, too (langchain issue 25916)."""
        assert self.prompt[:20] not in answer

    def test_answers_end_at_their_length(self, llm: BaseLLM) -> None:
        """Otherwise an answer goes on for as long as the context lasts (19933), or calls cannot shorten it (7192)."""
        short, long = (llm.invoke(self.prompt, **{self.length_name: length}) for length in (2, 6))
        assert len(short) < len(long)
        assert long.startswith(short.rstrip("\ufffd"))

    def test_a_batch_keeps_order(self, llm: BaseLLM) -> None:
        """Otherwise answers go to the wrong questions."""
        prompts = [f"{self.prompt} {number}" for number in range(4)]
        alone = [llm.invoke(prompt) for prompt in prompts]
        assert llm.batch(prompts) == alone
        assert llm.batch(prompts, config={"max_concurrency": 2}) == alone
        assert [each[0].text for each in llm.generate(prompts).generations] == alone

    def test_a_batch_of_nothing(self, llm: BaseLLM) -> None:
        """Otherwise a retriever that finds nothing breaks a chain."""
        assert llm.batch([]) == []

    def test_in_a_chain(self, llm: BaseLLM) -> None:
        """What nearly everyone does with it."""
        chain = PromptTemplate.from_template("{text} Why?") | llm | StrOutputParser()
        assert chain.invoke({"text": self.prompt}) == llm.invoke(f"{self.prompt} Why?")

    # stop strings

    @pytest.mark.parametrize("how", ["call", "bind"])
    def test_stop_strings_in_all_ways(self, llm: BaseLLM, answer: str, how: str) -> None:
        """Otherwise agents read on into what the model invents behind the stop string (13188, 27915)."""
        stop = answer[5:8]
        cut = answer[: answer.index(stop)]
        bound: Any = llm.bind(stop=[stop]) if how == "bind" else llm
        ways = self.all_ways(bound, self.prompt, **({} if how == "bind" else {"stop": [stop]}))
        if how == "bind":
            del ways["generate"]
        assert ways == dict.fromkeys(ways, cut)

    def test_the_first_of_several_stop_strings(self, llm: BaseLLM, answer: str) -> None:
        """Otherwise text behind the earlier one comes through."""
        stops = [answer[8:10], answer[4:7], "never said"]
        first = min(answer.index(stop) for stop in stops[:2])
        assert llm.invoke(self.prompt, stop=stops) == answer[:first]
        assert "".join(llm.stream(self.prompt, stop=stops)) == answer[:first]

    def test_a_stop_string_that_begins_the_answer(self, llm: BaseLLM, answer: str) -> None:
        """An empty answer is an answer: core raises if a stream has no chunk."""
        assert llm.invoke(self.prompt, stop=[answer[:2]]) == ""
        assert "".join(llm.stream(self.prompt, stop=[answer[:2]])) == ""

    # settings

    def test_unknown_settings_are_refused(self, llm: BaseLLM) -> None:
        """Otherwise a misspelt one does nothing, silently."""
        with pytest.raises(Exception, match="tempature"):
            self.llm_class(**self.llm_params, tempature=1)
        with pytest.raises(Exception, match="tempature"):
            llm.invoke(self.prompt, tempature=1)

    def test_a_seed_makes_sampling_repeatable(self, llm: BaseLLM) -> None:
        """Otherwise nothing that is sampled can be tested."""
        once, again, other = (llm.invoke(self.prompt, temperature=2.0, seed=seed) for seed in (1, 1, 2))
        assert once == again != other

    # callbacks and statistics

    def test_callbacks_hear_every_token_and_the_end(self, llm: BaseLLM, answer: str) -> None:
        """Otherwise streaming interfaces show nothing, and tracers no result."""
        heard, later = Heard(), HeardLater()
        pieces = list(llm.stream(self.prompt, config={"callbacks": [heard]}))
        assert heard.tokens == pieces
        assert heard.results[0].generations[0][0].text == answer

        async def astream() -> None:
            async for _ in llm.astream(self.prompt, config={"callbacks": [later]}):
                pass

        asyncio.run(astream())
        assert "".join(later.tokens) == answer

    def test_chunks_add_up(self, llm: BaseLLM, answer: str) -> None:
        """Otherwise ``astream_events`` and tracers, which add chunks, raise or tell nonsense."""
        whole = reduce(add, llm._stream(self.prompt))
        assert whole.text == answer
        [[told]] = llm.generate([self.prompt]).generations
        assert set(whole.generation_info or {}) == set(told.generation_info or {})

    def test_errors_are_told_and_raised(self, llm: BaseLLM) -> None:
        """Otherwise traces show calls that never end."""
        heard = Heard()
        with pytest.raises(Exception, match="tempature"):
            llm.invoke(self.prompt, tempature=1, config={"callbacks": [heard]})
        assert len(heard.errors) == 1

    def test_token_usage_is_told(self, llm: BaseLLM) -> None:
        """Otherwise costs cannot be counted (4815)."""
        usage = (llm.generate([self.prompt]).llm_output or {})["token_usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert usage["prompt_tokens"] == llm.get_num_tokens(self.prompt)

    # identity

    def test_the_response_cache_tells_calls_apart(self, answer: str) -> None:
        """Otherwise one user's setting is answered with another's text (40403)."""
        llm = self.llm_class(**self.llm_params, cache=InMemoryCache())
        assert llm.invoke(self.prompt) == answer
        assert llm.invoke(self.prompt) == answer
        assert len(llm.invoke(self.prompt, **{self.length_name: 2})) < len(answer)
        assert llm.invoke(self.prompt, stop=[answer[5:8]]) != answer

    def test_traces_name_provider_and_model(self, llm: BaseLLM) -> None:
        """Otherwise a trace does not say who answered."""
        heard = Heard()
        llm.invoke(self.prompt, config={"callbacks": [heard]})
        [told] = heard.metadata
        assert told["ls_provider"]
        assert told["ls_model_name"]
        assert told["ls_model_type"] == "llm"

    def test_copies_answer_alike(self, llm: BaseLLM, answer: str) -> None:
        """LangChain copies models when they are configured."""
        assert copy.deepcopy(llm).invoke(self.prompt) == answer
        assert llm.model_copy().invoke(self.prompt) == answer

    # concurrency

    def test_calls_at_once_answer_as_if_alone(self, llm: BaseLLM) -> None:
        """Otherwise users of one server read each other's answers."""
        prompts = [f"{self.prompt} {number}" for number in range(8)]
        alone = [llm.invoke(prompt) for prompt in prompts]

        async def one(number: int) -> str:
            if number % 2:
                return await llm.ainvoke(prompts[number])
            return "".join([piece async for piece in llm.astream(prompts[number])])

        async def together() -> list[str]:
            return await asyncio.gather(*map(one, range(8)))

        assert asyncio.run(together()) == alone

    def test_the_event_loop_is_free(self, llm: BaseLLM) -> None:
        """ "Fake async" stops a server for as long as a model answers (llama_index 11842)."""
        in_loop: list[int] = []
        loop_thread = threading.get_ident()
        self.watch_computation(lambda: in_loop.append(threading.get_ident()))
        asyncio.run(llm.ainvoke(self.prompt))
        assert in_loop
        assert loop_thread not in in_loop

    @abstractmethod
    def watch_computation(self, note: Callable[[], None]) -> None:
        """Have ``note`` called from wherever the model computes."""
