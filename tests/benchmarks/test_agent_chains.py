"""Chains of agents' prompts: each edit changes what it says and nothing else, and the rest of the prompt stays."""

from __future__ import annotations

import itertools
import json

import pytest

from agent_sample import MATERIAL
from benchmarks.workloads.agent_chains import EDITS, ROLES, Chain, Sizes, agent_chain, chains
from benchmarks.workloads.agent_steps import CALL_CUE, CLEARED, GONE, SPAN
from benchmarks.workloads.multi_turn import Message
from benchmarks.workloads.passages import word_count

SIZES = Sizes(first=250, second=700, last=900, tools=4, memories=2, history=3)


def _chain(edit: str, turns: int = 6) -> Chain:
    return agent_chain(MATERIAL, word_count, edit, turns=turns, sizes=SIZES)


def _messages(chain: Chain) -> list[list[Message]]:
    made = []
    for turn in chain.turns:
        assert not isinstance(turn.prompt, str)
        messages = list(turn.prompt)
        made.append(messages[:-1] if messages[-1]["role"] == "assistant" else messages)
    return made


def _systems(chain: Chain) -> list[str]:
    return [messages[0]["content"] for messages in _messages(chain)]


def _lines(system: str, heading: str) -> list[str]:
    after = system.split(f"{heading}\n")[1].split("\nWhat you remember")[0]
    return after.split("\n")


def test_a_stable_history_only_grows() -> None:
    found = _messages(_chain("stable"))
    for earlier, later in itertools.pairwise(found):
        assert later[: len(earlier)] == earlier
        assert len(later) > len(earlier)


def test_prompts_have_the_wanted_lengths() -> None:
    for number, messages in enumerate(_messages(_chain("stable"))):
        words = sum(len(message["content"].split()) for message in messages)
        assert words == pytest.approx(SIZES.of(number, 6), rel=0.25)
    assert [SIZES.of(number, 6) for number in (0, 1, 5)] == [250, 700, 900]


def test_the_same_seed_gives_the_same_chain() -> None:
    assert _chain("all") == _chain("all")
    assert _chain("all") != agent_chain(MATERIAL, word_count, "all", turns=6, sizes=SIZES, seed="1")


@pytest.mark.parametrize("edit", ["clock", "tools reordered", "tool added", "memories", "subagent"])
def test_an_edit_of_the_system_prompt_changes_every_turn_and_leaves_the_history(edit: str) -> None:
    chain = _chain(edit)
    systems = _systems(chain)
    assert all(earlier != later for earlier, later in itertools.pairwise(systems))
    found = [messages[1:] for messages in _messages(chain)]
    for earlier, later in itertools.pairwise(found):
        assert later[: len(earlier)] == earlier


def test_each_edit_of_the_system_prompt_is_the_one_it_is_called() -> None:
    clocks = _systems(_chain("clock"))
    assert len({system.split("\n", 1)[0] for system in clocks}) == len(clocks)
    assert len({system.split("\n", 1)[1] for system in clocks}) == 1
    tools = [_lines(system, "Tools:") for system in _systems(_chain("tools reordered"))]
    assert len({frozenset(lines) for lines in tools}) == 1
    added = [_lines(system, "Tools:") for system in _systems(_chain("tool added"))]
    for earlier, later in itertools.pairwise(added):
        assert len(set(later) - set(earlier)) == 1
        assert [line for line in later if line in earlier] == earlier
    memories = [set(system.split("of the user:\n")[1].split("\n")) for system in _systems(_chain("memories"))]
    for before, after in itertools.pairwise(memories):
        assert not before & after
    assert all(role in system for role, system in zip(ROLES, _systems(_chain("subagent")), strict=False))


def test_compaction_clears_the_oldest_results_and_asks_for_one() -> None:
    chain = _chain("compaction")
    found = _messages(chain)
    cleared = [["".join(message["content"]).count(CLEARED) for message in messages] for messages in found]
    assert [sum(counts) for counts in cleared] == [0, 1, 2, 3, 4, 5]
    asked = [(turn.ask, messages) for turn, messages in zip(chain.turns, found, strict=True) if turn.ask.kind == "gone"]
    assert asked
    for ask, messages in asked:
        assert ask.expected == GONE
        assert ask.stale
        assert all(ask.stale not in message["content"] for message in messages)


def test_the_window_drops_the_oldest_step() -> None:
    found = [messages[1:] for messages in _messages(_chain("window"))]
    for earlier, later in itertools.pairwise(found):
        assert later[: len(earlier) - 2] == earlier[2:]


def test_thinking_stands_in_the_newest_answer_alone() -> None:
    for messages in _messages(_chain("thinking"))[1:]:
        thoughts = ["<think>" in message["content"] for message in messages if message["role"] == "assistant"]
        assert thoughts == [False] * (len(thoughts) - 1) + [True]


def test_what_is_read_again_is_mostly_what_was_read() -> None:
    found = _messages(_chain("reread"))
    for messages in found[2:]:
        label, *body = messages[-1]["content"].split("</tool_response>")[0].split("\n")[1:-1]
        earlier = [message["content"] for message in messages[:-1] if f"\n{label}\n" in message["content"]]
        assert earlier
        kept = [line for line in body if any(line in content for content in earlier)]
        assert 0 < len(kept) < len(body) or len(body) == 1


def test_calls_and_copies_are_asked_with_a_beginning_of_the_answer() -> None:
    for turn in _chain("stable").turns:
        assert not isinstance(turn.prompt, str)
        last = turn.prompt[-1]
        if turn.ask.kind == "call":
            assert last == {"role": "assistant", "content": CALL_CUE}
        elif turn.ask.kind == "copy":
            assert last["content"].startswith("```\n")
            span = last["content"].removeprefix("```\n") + turn.ask.expected
            assert len(span.split("\n")) == SPAN
            assert any(span in message["content"] for message in turn.prompt[:-1])
        else:
            assert last["role"] == "user"


def test_recorded_calls_are_json_of_a_tool() -> None:
    answers = [message["content"] for message in _messages(_chain("stable"))[-1] if message["role"] == "assistant"]
    calls = [answer.split("\n")[1] for answer in answers if answer.startswith("<tool_call>")]
    assert calls
    assert {json.loads(call)["name"] for call in calls} <= {tool.name for tool in MATERIAL.tools}


def test_short_chains_take_the_edits_in_turn() -> None:
    made = chains(MATERIAL, word_count, ["clock", "window"], count=5, turns=3, seed="a")
    assert [each.edit for each in made] == ["clock", "window", "clock", "window", "clock"]
    assert len({each.id for each in made}) == 5


def test_an_unknown_edit_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown edit"):
        _chain("nonsense")
    assert all(_chain(edit, turns=2).turns for edit in EDITS)
