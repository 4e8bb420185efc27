"""The demo's LangChain chains, and one call of them beside a full prefill of the very same prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import itemgetter
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.vectorstores import VectorStoreRetriever

from cookbook.demo_documents import as_context
from cookbook.demo_questions import Ask
from semshare_core import ReuseReport
from semshare_integrations.langchain import SemShareLLM, get_semshare_callback

ANSWER_TOKENS = 32

# The question stands in a paragraph of its own at the end: SemShare always computes that one afresh.
_ASKED = PromptTemplate.from_template(
    "<|im_start|>system\nYou answer questions about Python's standard library from its documentation, in one sentence."
    "<|im_end|>\n<|im_start|>user\n{context}\n\nQuestion: {question}<|im_end|>\n<|im_start|>assistant\n"
)
_FOLLOWED_UP = PromptTemplate.from_template(
    "{so_far}<|im_end|>\n<|im_start|>user\n\nQuestion: {question}<|im_end|>\n<|im_start|>assistant\n"
)


@dataclass(frozen=True)
class Answered:
    """What came of one question: with reuse, and without.

    ``agree`` of the ``compared`` first tokens of the two greedy answers are the same up to their first difference.
    """

    ask: Ask
    prompt: str
    answer: str
    full_answer: str
    report: ReuseReport
    full_report: ReuseReport
    agree: int
    compared: int

    @property
    def speed_up(self) -> float:
        """How many times sooner the first token came than with a full prefill."""
        return self.full_report.ttft_ms / self.report.ttft_ms


class Conversation:
    """Asks questions through chains of one model and one retriever, and remembers the last exchange."""

    def __init__(self, llm: SemShareLLM, retriever: VectorStoreRetriever) -> None:
        self.llm = llm
        self._search = _chain(llm, retriever | RunnableLambda(as_context))
        self._backwards = _chain(llm, retriever | RunnableLambda(_reversed) | RunnableLambda(as_context))
        self._follow_up: Runnable[dict[str, str], str] = _FOLLOWED_UP | llm
        self._so_far = ""

    def warm_up(self) -> None:
        """One call that leaves nothing in the pool, so that the first question does not pay for loading."""
        self.llm.invoke("The standard library of Python has many modules. " * 40, reuse="off", store=False)

    def ask(self, ask: Ask, say: Callable[[str], None]) -> Answered:
        """Answer with reuse, then once more with a full prefill, which neither reads the pool nor adds to it."""
        say("with reuse")
        heard = _Prompts()
        with get_semshare_callback() as reused:
            answer = self._run(ask, {"callbacks": [heard]})
        prompt = heard.prompts[-1]
        self._so_far = prompt + answer
        say("measuring the KL")
        self.llm.engine.canary.wait()  # so that the check does not slow the full prefill down
        say("full prefill, for comparison")
        with get_semshare_callback() as full:
            full_answer = self.llm.invoke(prompt, reuse="off", store=False)
        agree, compared = agreement(self.llm.get_token_ids(answer), self.llm.get_token_ids(full_answer))
        return Answered(ask, prompt, answer, full_answer, reused.reports[-1], full.reports[-1], agree, compared)

    def _run(self, ask: Ask, config: RunnableConfig) -> str:
        if ask.way == "follow up":
            return self._follow_up.invoke({"so_far": self._so_far, "question": ask.text}, config)
        chain = self._backwards if ask.way == "search backwards" else self._search
        return chain.invoke({"query": ask.query, "question": ask.text}, config)


def agreement(answer: list[int], other: list[int]) -> tuple[int, int]:
    """How many first tokens two answers share, and how many there are to compare (at most ``ANSWER_TOKENS``)."""
    answer, other = answer[:ANSWER_TOKENS], other[:ANSWER_TOKENS]
    return same_beginning(answer, other), max(len(answer), len(other))


def same_beginning(one: Sequence[object], other: Sequence[object]) -> int:
    """How many first items two sequences share."""
    alike = (ours == theirs for ours, theirs in zip(one, other, strict=False))
    return sum(1 for _ in takewhile(bool, alike))


class _Prompts(BaseCallbackHandler):
    """Remembers the prompts that the model got, for the page and for the full prefill of the same."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], **kwargs: Any) -> None:
        self.prompts += prompts


def _chain(llm: SemShareLLM, context: Runnable[str, str]) -> Runnable[dict[str, str], str]:
    return {"context": itemgetter("query") | context, "question": itemgetter("question")} | _ASKED | llm


def _reversed(found: list[Document]) -> list[Document]:
    return found[::-1]
