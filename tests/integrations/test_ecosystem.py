"""What LangChain's and LlamaIndex's users expect, row by row, and the test that shows it."""

from __future__ import annotations

import ast
import socket
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

ROWS: dict[str, str] = {
    # LangChain's text model
    "invoke, batch, stream, async and events agree": "text_llm_suite.py::test_all_ways_agree",
    "a stream has at least one chunk": "text_llm_suite.py::test_a_stop_string_that_begins_the_answer",
    "tokens are told to the run manager": "text_llm_suite.py::test_callbacks_hear_every_token_and_the_end",
    "identity: what answers depend on": "test_langchain_identity.py::"
    "test_the_object_is_identified_by_what_its_answers_depend_on",
    "tracing names the model": "text_llm_suite.py::test_traces_name_provider_and_model",
    "token ids are the model's, without a download": "test_langchain_settings.py::test_token_counts_are_the_models_own",
    "async runs in one thread of its own": "test_langchain_async.py::test_items_come_in_order_from_one_other_thread",
    "closing a stream stops the worker": "test_langchain_async.py::test_closing_ends_the_generator_in_its_thread",
    "stop: first occurrence, excluded, in every path": "text_llm_suite.py::test_stop_strings_in_all_ways",
    "stop: split over chunks": "test_stream.py::test_nothing_of_a_stop_string_is_streamed",
    "stop: as a field": "test_langchain_answers.py::test_stop_strings_end_the_answer",
    "fields by habit reach the loader": "test_langchain_construction.py::test_loading_settings_arrive",
    "max_tokens is max_new_tokens": "test_langchain_construction.py::test_max_tokens_is_max_new_tokens",
    "a typo is refused": "text_llm_suite.py::test_unknown_settings_are_refused",
    "one loaded model serves several objects": "test_langchain_construction.py::test_one_engine_serves_several_objects",
    "construction is lazy": "test_langchain_construction.py::test_construction_loads_nothing",
    "zero is a value": "test_langchain_settings.py::test_zero_is_a_value",
    "a batch has statistics per prompt": "test_langchain_answers.py::test_batch_has_statistics_per_prompt",
    "the response cache tells calls apart": "text_llm_suite.py::test_the_response_cache_tells_calls_apart",
    "settings of a call: length": "test_langchain_settings.py::test_length_of_the_call",
    "settings of a call: temperature, seed": "test_langchain_settings.py::test_temperature_and_seed_of_the_call",
    "settings of a call: reuse": "test_langchain_settings.py::test_reuse_of_object_and_call",
    "settings of a call: namespace": "test_langchain_settings.py::test_namespaces_of_calls_are_apart",
    # LangChain's chat model
    "langchain-tests' suites": "test_langchain_chat_standard.py::one_engine",
    "bind_tools, tool_choice": "test_langchain_chat.py::test_a_random_model_calls_tools",
    "structured output, three ways": "test_langchain_chat.py::test_structured_answers_of_a_random_model",
    "usage with cache details": "test_langchain_chat.py::test_a_conversation_reuses_its_turns",
    "usage and model name on one chunk, the last": "test_langchain_chat.py::test_statistics_are_said_once",
    "the chat begins once (double BOS)": "test_langchain_chat.py::test_a_chat_begins_once",
    "tools reach the template": "test_tools.py::test_tools_reach_the_template",
    "tool messages render, also without a template for them": "test_tools.py::test_tools_told_in_words",
    "calls and invalid calls are parsed": "test_tools.py::test_what_a_reply_says",
    "token ids of chats are the model's, too": "test_langchain_chat.py::test_tokens_are_the_models_own",
    "profile: input tokens, tools": "test_langchain_chat.py::test_the_profile_tells_how_much_a_loaded_model_reads",
    "no chat template is a clear error": "test_prompt.py::test_messages_that_cannot_be_rendered",
    # where statistics go
    "generation_info per prompt": "test_langchain_answers.py::test_batch_has_statistics_per_prompt",
    "the last chunk, once": "test_langchain_async.py::test_only_the_last_streamed_chunk_has_statistics",
    "chunks merge": "text_llm_suite.py::test_chunks_add_up",
    "llm_output: totals": "text_llm_suite.py::test_token_usage_is_told",
    "astream_events": "test_langchain_async.py::test_events_of_a_chain_carry_the_statistics",
    "our handler": "test_langchain_callbacks.py::test_every_way_of_calling_is_counted_once",
    "our context manager": "test_langchain_callbacks.py::test_the_context_manager_sees_every_way_of_calling",
    "OpenTelemetry's names, reuse marked approximate": "test_telemetry.py::test_a_span_tells_what_the_report_does",
    # LlamaIndex
    "complete, stream, async": "test_llama_index_llm.py::test_all_completions_agree",
    "chat, stream, async; text grows, delta is new": "test_llama_index_llm.py::test_all_chats_agree",
    "truly async": "test_llama_index_llm.py::test_the_loop_runs_while_the_model_does",
    "metadata, names by habit": "test_llama_index_llm.py::test_names_by_habit",
    "prompt functions, system prompt": "test_llama_index_llm.py::test_prompts_are_written_as_the_user_says",
    "calls of tools": "test_llama_index_tools.py::test_all_ways_call_the_same",
    "raw: usage and report, no tensors": "test_llama_index_llm.py::test_raw_has_usage_and_the_report_and_is_json",
    "TokenCountingHandler": "test_llama_index_llm.py::test_the_token_counting_handler_counts_the_models_tokens",
    "an event for query engines": "test_llama_index_events.py::test_the_handler_hears_of_the_whole_process",
    "settings of a call are not ignored": "test_llama_index_llm.py::test_settings_of_a_call_reach_the_engine",
    "structured_predict": "test_llama_index_tools.py::test_structured_predict_in_all_ways",
    # agents and RAG
    "create_agent": "test_agents_langchain.py::test_create_agent_reuses_turn_after_turn",
    "LangGraph": "test_agents_langchain.py::test_a_langgraph_loop_reuses_turn_after_turn",
    "LCEL RAG": "test_agents_langchain.py::test_an_lcel_rag_chain_reuses_chunks_in_another_order",
    "ReActAgent": "test_agents_llama_index.py::test_a_react_agent_reuses_turn_after_turn",
    "FunctionAgent": "test_agents_llama_index.py::test_a_function_agent_reuses_turn_after_turn",
    "as_query_engine": "test_agents_llama_index.py::test_a_query_engine_reuses_chunks_in_another_order",
    # complaints elsewhere
    "false hits: other facts are computed afresh": "test_prompt.py::test_the_question_is_computed_afresh",
    "another user's prompts do not serve": "test_namespaces.py::test_the_same_namespace_hits_and_another_does_not",
    "prompt echoed": "text_llm_suite.py::test_the_prompt_is_not_in_the_answer",
    "never-ending answers": "text_llm_suite.py::test_answers_end_at_their_length",
    "fake async": "test_event_loop.py::test_eight_calls_leave_the_loop_free",
    "fake async, with tools": "test_event_loop.py::with_a_tool",
    "thread safety": "test_threads.py::test_calls_of_all_kinds_at_once",
    "a cancelled stream frees the engine": "test_llama_index_llm.py::"
    "test_leaving_early_frees_the_engine_within_a_token",
    # packaging
    "sockets are disabled": "test_ecosystem.py::test_no_test_reaches_another_machine",
    "typed, one framework alone": "test_wheel.py::test_the_wheel_holds_the_packages_and_nothing_else",
}


@cache
def functions(file: str) -> set[str]:
    """Every test of a file, in classes, too."""
    [path] = TESTS.rglob(file)
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_its_test(row: str) -> None:
    file, _, name = ROWS[row].partition("::")
    assert name in functions(file), f"{row!r} has lost its test {ROWS[row]}"


def test_no_test_reaches_another_machine() -> None:
    with pytest.warns(UserWarning, match="allowed"), pytest.raises(RuntimeError, match=r"192\.0\.2\.1"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)  # reserved for examples (RFC 5737)
