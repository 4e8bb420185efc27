"""What must hold, on made-up items: every line says yes, no or open where it should."""

from __future__ import annotations

from typing import Any

import pytest

from agent_items import made_fact, made_turn
from benchmarks.agents.estimates import compared, share
from benchmarks.agents.figures import must_hold
from benchmarks.agents.item import BACK_TO_BACK, NOISE_FLOOR, AgentItem, ArrivalItem, TurnItem, agent_item
from benchmarks.agents.promises import WITHOUT
from benchmarks.agents.uncalibrated import NOISY


def _met(items: list[AgentItem], begins: str) -> bool | None:
    [figure] = [figure for figure in must_hold(items) if figure.name.startswith(begins)]
    return figure.met


def _chain(edit: str, speeds: list[float], mode: str = BACK_TO_BACK) -> list[AgentItem]:
    return [made_turn(edit=edit, mode=mode, turn=number, ttft_ms=100 / speed) for number, speed in enumerate(speeds, 1)]


@pytest.mark.parametrize(
    ("edit", "mode", "speeds", "met"),
    [
        ("clock", BACK_TO_BACK, [1, 1, 6, 6, 7], True),
        ("clock", BACK_TO_BACK, [1, 1, 5, 5, 7], False),
        ("clock", BACK_TO_BACK, [9, 9, 9, 9, 1.9], False),
        ("all", BACK_TO_BACK, [1, 1, 4, 4, 2], True),
        ("stable", BACK_TO_BACK, [1, 1, 19, 21, 22], True),
        ("stable", BACK_TO_BACK, [1, 1, 19, 19, 22], False),
        ("clock", "idle 1.5", [1, 1, 8, 8, 4], True),
        ("clock", "idle 1.5", [1, 1, 8, 8, 3.9], False),
        ("clock", "idle 1.5", [9, 9, 7.9, 7.9, 9], False),
    ],
)
def test_speeds_are_judged_from_the_third_turn_on(edit: str, mode: str, speeds: list[float], met: bool) -> None:
    name = f"{edit}, back to back" if mode == BACK_TO_BACK else f"{edit}, with idle time"
    assert _met(_chain(edit, speeds, mode), name) is met


def test_one_turn_that_computes_most_of_its_old_text_breaks_the_line() -> None:
    fine: list[AgentItem] = [made_turn(turn=1, old_computed=90), made_turn(old_computed=45)]
    assert _met(fine, "old text that a turn computes again, at most, long") is True
    assert _met([*fine, made_turn(old_computed=46)], "old text that a turn computes again, at most, long") is False


def _promised(beyond: int, chains: int = 40, **changes: Any) -> list[AgentItem]:
    """One approximate call a chain."""
    settings = {"part": "promises"} | changes
    return [
        made_turn(chain=str(number), kl=[0.06 if number < beyond else 0.01], **settings) for number in range(chains)
    ]


def _whole(items: list[AgentItem]) -> bool | None:
    [figure] = [figure for figure in must_hold(items) if figure.name == "balanced: approximate calls beyond KL 0.05"]
    return figure.met


def test_a_level_breaks_its_promise_above_seven_in_a_hundred() -> None:
    assert _whole(_promised(2)) is True
    assert _whole(_promised(3)) is False


def test_few_chains_leave_a_promise_open_and_may_break_it() -> None:
    assert _whole(_promised(0, chains=10)) is None
    assert _whole(_promised(1, chains=10)) is False


def test_a_position_is_open_where_chance_explains_it() -> None:
    def at_turn(items: list[AgentItem]) -> bool | None:
        [figure] = [figure for figure in must_hold(items) if figure.name.endswith(", turn 3")]
        return figure.met

    assert at_turn(_promised(2)) is True
    assert at_turn(_promised(3)) is None
    assert at_turn(_promised(12)) is False


def test_lossless_calls_are_no_approximate_ones() -> None:
    assert not [
        figure for figure in must_hold(_promised(40, outcome="bypass")) if figure.name.startswith("balanced: approx")
    ]
    # a prefix whose rows have an account is approximate, without one it is lossless
    assert made_turn(outcome="prefix", account=0.01).approximate
    assert not made_turn(outcome="prefix", account=0.0).approximate


def _answers(held: int, floor: int, chains: int = 30) -> list[AgentItem]:
    made: list[AgentItem] = []
    for number in range(chains):
        asked = {"part": "promises", "chain": str(number), "ask": "call", "full_held": True}
        made += [
            made_turn(held=number < held, **asked),
            made_turn(system=NOISE_FLOOR, outcome="full", held=number < floor, **asked),
        ]
    return made


def test_answers_are_held_against_the_noise_floor() -> None:
    assert _met(_answers(29, 29), "same tool call, balanced") is True
    assert _met(_answers(29, 30), "same tool call, balanced") is True  # one turn fewer may be chance
    assert _met(_answers(15, 30), "same tool call, balanced") is False


@pytest.mark.parametrize("name", [WITHOUT, NOISY])
def test_reports_of_a_model_without_calibration_must_say_so(name: str) -> None:
    told: list[AgentItem] = [made_turn(part="promises", system=name, calibration="default")]
    silent: list[AgentItem] = [made_turn(part="promises", system=name, calibration="demo")]
    assert _met(told, name) is True
    assert _met(silent, name) is False


def test_derived_facts_may_be_no_staler_than_the_full_prefill() -> None:
    right: list[AgentItem] = [made_fact(question=str(number)) for number in range(100)]
    both = made_fact(margin=-1.0, full_margin=-1.0)
    ours: list[AgentItem] = [made_fact(question=str(number), document=str(number), margin=-1.0) for number in range(5)]
    name = "derived facts, 0 tokens"
    assert _met([*right, both], name) is True
    assert _met([*right, *ours[:1]], name) is True  # one answer more may be chance
    assert _met([*right, *ours], name) is False
    assert _met([*right[1:], both], name) is None  # 99 right answers are too few
    assert _met([made_fact(distance=1500, margin=-1.0)], "derived facts, 1500 tokens") is None


def test_a_call_may_wait_a_tenth_of_a_second_more_during_healing() -> None:
    def waiting(during: float) -> list[AgentItem]:
        others: list[AgentItem] = [ArrivalItem("a", 1, 100, "miss", False, 5.0)]
        return others + [ArrivalItem("a", 2, 100, "semantic", True, wait) for wait in (0.0, during, 9e9)]

    assert _met(waiting(105.0), "wait of a call") is True
    assert _met(waiting(106.0), "wait of a call") is False


def test_shares_resample_whole_chains() -> None:
    def beyond(item: TurnItem) -> bool:
        return item.promised_kl > 0.05

    one_chain = [made_turn(chain="a", kl=[0.06]) for _ in range(10)]
    others = [made_turn(chain=str(chain), kl=[0.01]) for chain in range(9) for _ in range(10)]
    spread = [made_turn(chain=str(number % 10), kl=[0.06 if number < 10 else 0.01]) for number in range(100)]
    clustered, even = share(one_chain + others, beyond), share(spread, beyond)
    assert clustered.value == even.value == 0.1
    assert clustered.high > even.high  # one chain in ten is less certain than one turn of every chain
    none = share(others, beyond)
    assert (none.hits, none.low) == (0, 0.0)
    assert none.high == pytest.approx(1 - 0.05 ** (1 / 9))
    assert share([], beyond).told() == "none"


def test_nothing_compared_is_open() -> None:
    assert compared([]).met is None


def test_items_survive_the_file() -> None:
    for item in (made_turn(held=True), made_fact(), ArrivalItem("a", 1, 100, "miss", False, 5.0)):
        assert agent_item(item.to_json()) == item
    with pytest.raises(KeyError):
        agent_item({"type": "other"})
