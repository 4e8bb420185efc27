"""Conversations that other providers' models began: what was said is kept, what only they understand is left out."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from semshare_integrations.langchain import ChatSemShare
from semshare_integrations.langchain.messages import to_template
from semshare_integrations.llama_index import SemShareLLM
from semshare_integrations.llama_index.messages import to_template as from_llama_index
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

SAID = {"type": "text", "text": "It lies in the west."}
SILENT: list[dict[str, Any]] = [
    {"type": "refusal", "refusal": "I will not."},
    {"type": "redacted_thinking", "data": "c2VjcmV0"},
    {"type": "thinking", "thinking": "hm", "signature": "x"},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "Vinga"}},
    {"type": "server_tool_call", "id": "s", "name": "web_search", "args": {}},
    {"type": "server_tool_result", "tool_call_id": "s", "output": "secret"},
    {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result", "title": "t"}]},
    {"type": "code_execution_tool_result", "tool_use_id": "s", "content": {}},
    {"type": "mcp_tool_use", "id": "m", "name": "x", "input": {}},
    {"type": "web_search_call", "id": "w", "status": "completed"},
    {"type": "function_call", "name": "look", "arguments": "{}", "call_id": "c"},
    {"type": "tool_use", "id": "c", "name": "look", "input": {}},
    {"type": "tool_call", "id": "c", "name": "look", "args": {}},
    {"type": "invalid_tool_call", "id": "c", "name": "look", "args": "{", "error": "no"},
    {"type": "non_standard", "value": {"type": "anything"}},
    {"type": "executable_code", "executable_code": "1", "language": "PYTHON"},
    {"reasoningContent": {"text": "hm"}},
    {"cachePoint": {"type": "default"}},
]


@pytest.mark.parametrize("block", SILENT, ids=lambda block: str(block.get("type") or next(iter(block))))
@pytest.mark.parametrize("message", [AIMessage, AIMessageChunk])
def test_blocks_of_other_providers_are_left_out_and_the_text_is_kept(message: type[AIMessage], block: Any) -> None:
    for content in ([block, SAID], [SAID, block]):
        (told,) = to_template([message(content=content)])
        assert told["content"] == "It lies in the west."


def test_text_around_what_a_provider_ran_stays_apart() -> None:
    ran = SILENT[4]
    (told,) = to_template([AIMessage([{"type": "text", "text": "Let me look."}, ran, SAID])])
    assert told["content"] == "Let me look.\nIt lies in the west."


def test_citations_do_not_cut_a_sentence() -> None:
    cited = {"type": "text", "text": " in the west", "citations": [{"type": "char_location", "cited_text": "west"}]}
    blocks = [{"type": "text", "text": "It lies"}, cited, {"type": "text", "text": "."}]
    (told,) = to_template([AIMessage(blocks)])
    assert told["content"] == "It lies in the west."


def test_text_under_other_names() -> None:
    for block in ({"type": "output_text", "text": "Yes."}, {"text": "Yes."}, "Yes."):
        assert to_template([AIMessage([block])])[0]["content"] == "Yes."
    assert (
        to_template([HumanMessage([{"type": "input_text", "text": "Yes?"}, {"text": "No?"}])])[0]["content"]
        == "Yes?\nNo?"
    )


def test_a_refusal_is_what_was_said_where_nothing_else_was() -> None:
    assert to_template([AIMessage([{"type": "refusal", "refusal": "I will not."}])])[0]["content"] == "I will not."
    message = AIMessage("", additional_kwargs={"refusal": "I will not."})
    assert to_template([message])[0]["content"] == "I will not."


def test_calls_are_kept_where_they_are_tool_calls() -> None:
    block = {"type": "tool_use", "id": "c", "name": "look", "input": {"at": "Vinga"}}
    call = {"name": "look", "args": {"at": "Vinga"}, "id": "c"}
    (told,) = to_template([AIMessage([SAID, block], tool_calls=[call])])
    assert told["content"] == "It lies in the west."
    assert [each["function"]["name"] for each in told["tool_calls"]] == ["look"]


MEDIA = [{"type": kind} for kind in ("image", "image_url", "audio", "input_audio", "video", "file", "document")]


@pytest.mark.parametrize("block", MEDIA, ids=lambda block: str(block["type"]))
@pytest.mark.parametrize("message", [HumanMessage, AIMessage, lambda blocks: ToolMessage(blocks, tool_call_id="c")])
def test_what_no_text_model_reads_is_an_error(message: Any, block: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"block of type {block['type']!r}, but the model reads only text"):
        to_template([message([SAID, block])])


@pytest.mark.parametrize("block", [SILENT[0], SILENT[4], SILENT[-4]], ids=str)
def test_users_write_no_such_blocks(block: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the model reads only text"):
        to_template([HumanMessage([SAID, block])])


def test_llama_indexs_blocks() -> None:
    document = CitableBlock(title="Vinga", source="atlas", content=[TextBlock(text="Vinga lies in the west.")])
    citation = CitationBlock(
        cited_content=TextBlock(text="west"), source="atlas", title="t", additional_location_info={}
    )
    call = ToolCallBlock(tool_call_id="c", tool_name="look", tool_kwargs={})
    asked = ChatMessage(blocks=[document, TextBlock(text="Where?"), CachePoint(cache_control={"type": "x"})])
    said = [TextBlock(text="In the "), citation, TextBlock(text="west."), ThinkingBlock(content="hm"), call]
    answered = ChatMessage(role="assistant", blocks=[*said, TextBlock(text="Let me look.")])
    told = from_llama_index([asked, answered])
    assert [message["content"] for message in told] == ["Vinga lies in the west.\nWhere?", "In the west.\nLet me look."]
    assert [each["function"]["name"] for each in told[1]["tool_calls"]] == ["look"]
    for inner in (ImageBlock(image=b"x"), DocumentBlock(data=b"x")):
        nested = CitableBlock(title="t", source="s", content=[inner])
        for blocks in ([inner], [nested]):
            with pytest.raises(ValueError, match="the model reads only text"):
                from_llama_index([ChatMessage(blocks=blocks)])


def test_a_conversation_of_another_provider_goes_on() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    history = [HumanMessage("Where is Vinga?"), AIMessage([*SILENT, SAID]), HumanMessage("Thanks.")]
    llm = ChatSemShare(model=model, tokenizer=tokenizer, max_tokens=2)
    assert llm.invoke(history).usage_metadata
    blocks = [ThinkingBlock(content="hm"), TextBlock(text="It lies in the west.")]
    told = [ChatMessage("Where?"), ChatMessage(role="assistant", blocks=blocks), ChatMessage("Thanks.")]
    assert SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=2).chat(told).raw
