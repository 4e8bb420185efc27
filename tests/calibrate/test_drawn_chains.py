"""Chains to calibrate on: equal every time, and each kind changes what its name says."""

from __future__ import annotations

from itertools import pairwise

import pytest

from semshare_core.calibrate.chains import CHANGES, Chain, Message, as_text, draw_chains
from semshare_core.calibrate.measuring_chains import chain_digest

KINDS = list(CHANGES)


def prompts_of(chain: Chain) -> list[list[Message]]:
    """All prompts of a chain whose answers are "Answer 1.", "Answer 2." and so on."""
    prompts = chain.prompts()
    return [next(prompts), *(prompts.send(f"Answer {turn}.") for turn in range(1, chain.turns))]


def chain_of(kind: str) -> list[list[Message]]:
    return prompts_of(next(chain for chain in draw_chains(len(KINDS)) if chain.kind == kind))


def test_chains_are_the_same_every_time_and_of_all_kinds() -> None:
    chains = draw_chains(len(KINDS))
    assert chains == draw_chains(2 * len(KINDS))[: len(KINDS)]
    assert [chain.kind for chain in chains] == KINDS
    assert prompts_of(chains[2]) == prompts_of(chains[2])
    others = [*draw_chains(len(KINDS), seed=1), *draw_chains(len(KINDS), round_number=2)]
    assert not {chain.id for chain in chains} & {chain.id for chain in others}
    digests = [chain_digest(chain) for chain in (chains[2], others[2], others[2 + len(KINDS)])]
    assert len(set(digests)) == 3
    assert digests[0] == chain_digest(chains[2])


def test_levels_and_some_fixed_ratios_serve_them() -> None:
    chains = draw_chains(90)
    assert {chain.level for chain in chains} == {"high", "balanced", "fast", None}
    assert all((chain.level is None) == (chain.ratio is not None) for chain in chains)
    assert 0.1 < sum(chain.level is None for chain in chains) / 90 < 0.35
    assert all(chain.policy.level == chain.level and chain.policy.recompute_ratio == chain.ratio for chain in chains)
    assert {chain.turns for chain in chains} == {6, 7, 8}


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_a_conversation_with_the_answers_and_ends_with_the_user(kind: str) -> None:
    prompts = chain_of(kind)
    for turn, prompt in enumerate(prompts, 1):
        roles = [message["role"] for message in prompt]
        assert roles == ["system", *["user", "assistant"] * ((len(roles) - 2) // 2), "user"]
        if turn > 1:
            assert prompt[-2]["content"].endswith(f"Answer {turn - 1}.")
    assert len({as_text(prompt) for prompt in prompts}) == len(prompts)


def test_the_history_that_only_grows_is_a_prefix_of_the_next_prompt() -> None:
    prompts = chain_of("unchanged")
    assert all(after[: len(before)] == before for before, after in pairwise(prompts))


@pytest.mark.parametrize("kind", ["clock", "tools", "tool", "memories", "system"])
def test_a_change_at_the_head_leaves_the_history_as_it_is(kind: str) -> None:
    prompts = chain_of(kind)
    for before, after in pairwise(prompts):
        assert after[0] != before[0]
        assert after[1 : len(before)] == before[1:]


def test_a_head_changes_as_its_kind_says() -> None:
    heads = [[prompt[0]["content"].splitlines() for prompt in chain_of(kind)] for kind in ("clock", "tools", "tool")]
    clock, tools, tool = ((before, after) for before, after, *_ in heads)
    assert clock[0][1:] == clock[1][1:]
    assert sorted(tools[0]) == sorted(tools[1])
    assert len(tool[1]) == len(tool[0]) + 1
    assert set(tool[0]) < set(tool[1])


def test_old_results_are_cleared_and_old_turns_dropped() -> None:
    *_, before, after = chain_of("cleared")
    cleared = ["[The old result was cleared.]" in message["content"] for message in after[1::2]]
    assert cleared == [True] * (len(cleared) - 2) + [False, False]
    assert after[1::2][-2] == before[-1], "the last result is still there"
    *_, before, after = chain_of("dropped")
    assert after[1 : len(before) - 2] == before[3:]


def test_a_file_is_read_again_with_edits() -> None:
    *_, before, after = [prompt[-1]["content"].split() for prompt in chain_of("file")]
    assert before != after
    assert len(set(before) & set(after)) > 0.6 * len(set(before))


def test_only_the_last_turn_shows_its_thinking() -> None:
    for prompt in chain_of("thinking")[1:]:
        shown = ["<think>" in message["content"] for message in prompt[2::2]]
        assert shown == [False] * (len(shown) - 1) + [True]


def test_several_changes_come_at_once() -> None:
    prompts = chain_of("several")
    assert any(after[0] != before[0] and after[1 : len(before)] != before[1:] for before, after in pairwise(prompts))
