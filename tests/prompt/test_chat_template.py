"""Messages through the template: an answer that was begun goes on, and calls of tools need no words."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from llama_index.core.llms import ChatMessage

from chat_tokenizers import Says, chat_tokenizer
from semshare_core import Chat, SemShareEngine
from semshare_core.errors import PromptError
from semshare_core.prompt.encode import encode
from semshare_integrations.langchain import ChatSemShare
from semshare_integrations.llama_index import SemShareLLM as LlamaIndexLLM
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

ASKED = [{"role": "user", "content": "Where is Vinga?"}]
BEGUN = "<|start|>user\nWhere is Vinga?<|end|>\n<|start|>assistant\nIt lies"


def text_of(tokenizer: Any, prompt: Any) -> str:
    return str(tokenizer.decode(encode(prompt, tokenizer, len(tokenizer), 10**6).ids))


@pytest.fixture(scope="module")
def engine() -> SemShareEngine:
    return SemShareEngine(tiny_model("llama"), tiny_tokenizer())


@pytest.mark.parametrize("content", ["It lies", [{"type": "text", "text": "It lies"}]], ids=["text", "parts"])
def test_messages_that_end_with_the_assistant_go_on(content: Any) -> None:
    tokenizer = tiny_tokenizer()
    if not isinstance(content, str):
        tokenizer.chat_template = tokenizer.chat_template.replace("['content']", "['content'][0]['text']")
        asked = [{"role": "user", "content": [{"type": "text", "text": "Where is Vinga?"}]}]
    else:
        asked = ASKED
    chat = [*asked, {"role": "assistant", "content": content}]
    assert text_of(tokenizer, chat) == BEGUN, "no end of the turn, and no head of another one"
    found = encode(chat, tokenizer, 259, 4096)
    assert tokenizer.decode(found.ids[found.question :]) == BEGUN, "what it answers is computed afresh, too"


def test_an_answer_that_was_begun_goes_on_in_every_front(engine: SemShareEngine) -> None:
    def says() -> dict[str, Any]:
        return {"logits_processor": [Says([*b" west.", engine.tokenizer.eos_token_id])], "store": False}

    chat = [*ASKED, {"role": "assistant", "content": "It lies"}]
    assert engine.tokenizer.decode(engine.token_ids(chat)) == BEGUN
    assert engine.generate(chat, **says()).text == " west."
    assert "".join(piece.text for piece in engine.stream(chat, **says())) == " west."
    llm = ChatSemShare(engine=engine)
    messages = [HumanMessage("Where is Vinga?"), AIMessage("It lies")]
    assert llm.invoke(messages, **says()).content == " west."
    told = llm.invoke(messages, **says()).usage_metadata
    assert told is not None
    assert told["input_tokens"] == len(engine.token_ids(chat))
    answer = LlamaIndexLLM(engine=engine).chat(
        [ChatMessage("Where is Vinga?"), ChatMessage("It lies", role="assistant")], **says()
    )
    assert answer.message.content == " west."


def test_what_was_answered_is_a_prefix_of_what_goes_on(engine: SemShareEngine) -> None:
    engine.pool.clear()
    ids = list(b"It lies west of the coast, and has a lighthouse.")
    out = engine.generate(ASKED, logits_processor=[Says(ids)], max_new_tokens=len(ids))
    assert out.finish_reason == "length"
    more = engine.generate([*ASKED, {"role": "assistant", "content": out.text}], max_new_tokens=2, reuse="exact")
    assert more.report.prefix_tokens == more.report.prompt_tokens - 1


def test_a_template_that_lets_no_answer_go_on_says_so() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages if message.role == 'user' %}{{ message.content }}{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    )
    with pytest.raises(PromptError, match=r"last message is the assistant's.*leave it out"):
        text_of(tokenizer, [*ASKED, {"role": "assistant", "content": "It lies"}])


CALL = {"type": "function", "id": "c", "function": {"name": "look", "arguments": {"at": "Vinga"}}}
ONLY_NONE = (  # as DeepSeek's: calls are told only where there are no words
    "{% for message in messages %}{% if message.role == 'assistant' and message.content is none %}"
    "{% for call in message.tool_calls %}[{{ call.function.name }}]{% endfor %}"
    "{% else %}{{ message.role + ':' + message.content }}{% endif %}{% endfor %}"
)
ONLY_ABSENT = (
    "{% for message in messages %}{% if message.content is defined %}{{ message.role + ':' + message.content }}"
    "{% else %}[{{ message.tool_calls[0].function.name }}]{% endif %}{% endfor %}"
)
ANY = (
    "{% for message in messages %}{{ message.role + ':' + message.content }}"
    "{% for call in message.tool_calls %}[{{ call.function.name }}]{% endfor %}{% endfor %}"
)
PRINTS = ANY.replace("{{ message.role + ':' + message.content }}", "{{ message.role }}:{{ message.content }}")


@pytest.mark.parametrize("template", [ONLY_NONE, ONLY_ABSENT, ANY, PRINTS], ids=["none", "absent", "any", "prints"])
@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}], ids=["None", "absent", "empty"])
def test_calls_without_words_reach_every_template(template: str, content: dict[str, Any]) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    called = {"role": "assistant", "tool_calls": [CALL], **content}
    told = text_of(tokenizer, Chat([*ASKED, called, {"role": "tool", "content": "Far west."}]))
    assert told.replace("assistant:", "") == "user:Where is Vinga?[look]tool:Far west."


def test_a_tool_whose_name_the_user_said() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = ONLY_NONE
    asked = [{"role": "user", "content": "Please look."}]
    called = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    told = text_of(tokenizer, [*asked, called, {"role": "tool", "content": "Far west."}])
    assert told == "user:Please look.[look]tool:Far west."


def test_a_template_that_tells_of_no_calls_takes_them(engine: SemShareEngine) -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    prompt = [*ASKED, called, {"role": "tool", "content": "Far west."}]
    assert "None" not in text_of(tiny_tokenizer(), prompt)
    assert engine.generate(prompt, max_new_tokens=1).token_ids


@pytest.mark.parametrize("role", ["system", "user", "tool", "assistant"])
@pytest.mark.parametrize("content", [{"content": None}, {}], ids=["None", "absent"])
def test_other_messages_without_content_are_refused(role: str, content: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match="message 1 must be a mapping with 'role' and 'content'"):
        text_of(tiny_tokenizer(), [*ASKED, {"role": role, **content}])


def test_calls_without_results_are_no_end(engine: SemShareEngine) -> None:
    called = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    with pytest.raises(PromptError, match="put their results behind it"):
        engine.generate([*ASKED, called])
    message = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "c"}])
    llm = ChatSemShare(engine=engine)
    with pytest.raises(ValueError, match="put their results behind it"):
        llm.invoke([HumanMessage("Where?"), message])
    told = [HumanMessage("Where?"), message, ToolMessage("Far west.", tool_call_id="c")]
    assert llm.invoke(told, max_tokens=1).content is not None


def test_what_was_begun_is_held_to_no_form(engine: SemShareEngine) -> None:
    llm = ChatSemShare(engine=engine)
    begun = [HumanMessage("Where?"), AIMessage("It")]
    with pytest.raises(ValueError, match="a grammar cannot continue its answer"):
        llm.invoke(begun, response_format={"type": "json_object"})
    with pytest.raises(ValueError, match="a grammar cannot continue its answer"):
        llm.bind_tools([chat_look], tool_choice="any").invoke(begun)
    assert llm.bind_tools([chat_look], tool_choice="none").invoke(begun, max_tokens=1)
    assert llm.invoke(begun, response_format={"type": "text"}, max_tokens=1)
    free = llm.bind_tools([chat_look]).invoke(begun, max_tokens=5, logits_processor=[Says(list(b" lies west"))])
    assert free.content == " lies", "words go on, held to what may follow words"


def chat_look(at: str) -> str:
    """Look at a place."""
    return at


def test_a_template_for_tools_of_its_own() -> None:
    """A tokenizer may have several templates, one of them for tools."""
    tokenizer = chat_tokenizer("chatml")
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    tokenizer.chat_template = {
        "default": "plain{{ messages[0].content }}",
        "tool_use": "tools{{ messages[0].content }}",
    }
    assert text_of(tokenizer, Chat(ASKED)) == "plainWhere is Vinga?"
    assert text_of(tokenizer, Chat(ASKED, tools)) == "toolsWhere is Vinga?"
    tokenizer.chat_template = {"rag": "{{ messages[0].content }}"}
    with pytest.raises(PromptError, match="chat templates fit no prompt"):
        text_of(tokenizer, ASKED)
