"""The demo's calls: each beside a full prefill of its very prompt, and compared with it."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from cookbook.demo_chain import Conversation, same_beginning
from cookbook.demo_questions import Ask
from semshare_core import ReusePolicy
from tiny_reuse import PARAGRAPHS


@pytest.fixture
def conversation(llm: Any) -> Conversation:
    documents = [Document(text, metadata={"module": "zipfile"}) for text in PARAGRAPHS]
    store = InMemoryVectorStore.from_documents(documents, DeterministicFakeEmbedding(size=8))
    llm.reuse = ReusePolicy(recompute_ratio=0.3, canary=1.0)
    llm.max_new_tokens = 4
    return Conversation(llm, store.as_retriever(search_kwargs={"k": len(documents)}))


def test_a_question_is_compared_before_its_full_prefill_is_timed(conversation: Conversation) -> None:
    steps: list[tuple[str, int]] = []

    def say(step: str) -> None:
        steps.append((step, conversation.llm.engine.canary.counts().pending))

    first = conversation.ask(Ask("first", "What is it about?"), say)
    other = conversation.ask(Ask("backwards", "What is it about?", "search backwards"), say)
    assert (first.report.outcome, first.report.canary) == ("miss", None)
    assert first.answer == first.full_answer
    assert other.report.outcome == "semantic"
    assert other.report.canary is not None
    assert other.report.canary.status == "measured"
    assert other.full_report.recompute_ratio == 1.0
    assert other.full_report.prompt_tokens == other.report.prompt_tokens
    assert [step for step, _ in steps[3:]] == ["with reuse", "measuring the KL", "full prefill, for comparison"]
    assert steps[-1][1] == 0, "no check runs beside it"


def test_a_follow_up_goes_on_with_the_conversation(conversation: Conversation) -> None:
    first = conversation.ask(Ask("first", "What is it about?"), lambda step: None)
    follow_up = conversation.ask(Ask("follow up", "And who wrote it?", "follow up"), lambda step: None)
    assert follow_up.prompt.startswith(first.prompt + first.answer)
    assert follow_up.report.prefix_tokens >= first.report.prompt_tokens


def test_where_two_answers_part() -> None:
    assert same_beginning([1, 2, 3], [1, 2, 4, 5]) == 2
    assert same_beginning([1], [1, 2]) == 1
    assert same_beginning([], [1]) == 0
