"""What calls reused, through LlamaIndex's events: for query engines, tasks, streams and whole processes."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import ChatMessage
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_integrations.llama_index import (
    SemShareEventHandler,
    SemShareLLM,
    SemShareReuseEvent,
    get_semshare_callback,
)

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT = "The river ran past the old mill and under the bridge, where two boys were fishing. What did they catch?"


@pytest.fixture
def llm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> SemShareLLM:
    return SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=5)


class Listener(BaseEventHandler):
    """Keeps every event."""

    heard: list[Any] = []  # noqa: RUF012 - pydantic copies it

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.heard.append(event)


def test_every_method_tells_once(llm: SemShareLLM) -> None:
    async def streams() -> None:
        for stream in (await llm.astream_complete(PROMPT), await llm.astream_chat([ChatMessage(PROMPT)])):
            async for _ in stream:
                pass

    with get_semshare_callback() as log:
        responses = [llm.complete(PROMPT), llm.chat([ChatMessage(PROMPT)])]
        list(llm.stream_complete(PROMPT))
        list(llm.stream_chat([ChatMessage(PROMPT)]))
        asyncio.run(llm.acomplete(PROMPT))
        asyncio.run(llm.achat([ChatMessage(PROMPT)]))
        asyncio.run(streams())
    llm.complete(PROMPT)
    assert len(log.reports) == 8
    told = [report.brief() for report in log.reports]
    assert told[:2] == [response.raw["semshare"] for response in responses]
    assert [report.outcome for report in log.reports[2:]] == ["prefix"] * 6


def test_blocks_nest_and_count_their_own(llm: SemShareLLM) -> None:
    with get_semshare_callback() as outer:
        llm.complete(PROMPT)
        with get_semshare_callback() as inner:
            llm.complete(PROMPT)
        other = threading.Thread(target=llm.complete, args=("Elsewhere",))
        other.start()
        other.join()
    assert [len(outer.reports), len(inner.reports)] == [2, 1]


def test_a_stream_counts_where_the_call_was_made(llm: SemShareLLM) -> None:
    with get_semshare_callback() as log:
        left_open = llm.stream_complete(PROMPT)
        elsewhere = llm.stream_chat([ChatMessage(PROMPT)])
        thread = threading.Thread(target=list, args=(elsewhere,))
        thread.start()
        thread.join()
    list(left_open)
    assert len(log.reports) == 2


def test_tasks_count_for_the_block_they_began_in(llm: SemShareLLM) -> None:
    async def counted(times: int) -> int:
        with get_semshare_callback() as log:
            await asyncio.gather(*(llm.acomplete(f"{PROMPT} {number}") for number in range(times)))
            return len(log.reports)

    async def main() -> list[int]:
        return await asyncio.gather(counted(2), counted(3))

    assert asyncio.run(main()) == [2, 3]


def test_the_handler_hears_of_the_whole_process(llm: SemShareLLM) -> None:
    handler, listener = SemShareEventHandler(), Listener()
    root = get_dispatcher()
    root.add_event_handler(handler)
    root.add_event_handler(listener)
    try:
        llm.complete(PROMPT)
        thread = threading.Thread(target=llm.chat, args=([ChatMessage("Elsewhere")],))
        thread.start()
        thread.join()
    finally:
        root.event_handlers = [each for each in root.event_handlers if each not in (handler, listener)]
    assert [report.outcome for report in handler.log.reports] == ["miss", "miss"]
    ours = [event for event in listener.heard if isinstance(event, SemShareReuseEvent)]
    assert [event.operation for event in ours] == ["text_completion", "chat"]
    assert {event.model for event in ours} == {llm.model_id}
    starts = [
        event for event in listener.heard if event.class_name() in ("LLMCompletionStartEvent", "LLMChatStartEvent")
    ]
    assert [event.span_id for event in ours] == [event.span_id for event in starts], "they belong to the call's span"
    assert ours[0].span_id


def test_a_stream_that_is_left_is_told_of(llm: SemShareLLM) -> None:
    with get_semshare_callback() as log:
        parts = llm.stream_complete(PROMPT, max_new_tokens=500)
        next(parts)
        parts.close()
    assert [0 < report.generated_tokens < 500 for report in log.reports] == [True]
