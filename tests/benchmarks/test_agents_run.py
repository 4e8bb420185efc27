"""All parts of the agents benchmark on a tiny random model: that they run, what they keep, how answers are judged."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_sample import MATERIAL
from benchmarks.ablations import epic_ratio
from benchmarks.ablations.epic import HEAD
from benchmarks.agents import __main__ as command
from benchmarks.agents import page
from benchmarks.agents.anchor import EPIC, anchor
from benchmarks.agents.arrivals import arrivals
from benchmarks.agents.facts import facts
from benchmarks.agents.healing import pool_config
from benchmarks.agents.held import answer_holds, expected_tokens, same_call, tool_call
from benchmarks.agents.item import (
    BACK_TO_BACK,
    NOISE_FLOOR,
    PREFIX_CACHE,
    AgentItem,
    ArrivalItem,
    FactItem,
    TurnItem,
    agent_item,
)
from benchmarks.agents.old_text import OldText
from benchmarks.agents.plan import Plan
from benchmarks.agents.promises import WITHOUT, promises
from benchmarks.agents.run import AgentRun
from benchmarks.agents.turns import turns
from benchmarks.agents.uncalibrated import NOISY, noisy_copy, uncalibrated
from benchmarks.bench.record import Record, read_items
from benchmarks.measure import full_prefill
from benchmarks.workloads.agent_chains import Sizes
from benchmarks.workloads.agent_steps import Ask
from semshare_core import SemShareEngine
from semshare_core.budget.levels import BOUNDS
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.quality.divergence import Continuation

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = Sizes(first=900, second=1500, last=1700, tools=2, memories=1, history=2)
PLAN = Plan(
    turns=3,
    sizes=SIZES,
    edits=("clock", "stable"),
    chains=2,
    without=1,
    noisy=1,
    arriving=1,
    right=2,
    documents=1,
    distances=(0, 250),
    minutes=dict.fromkeys(Plan().minutes, 10.0),
)


@pytest.fixture
def agents(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> AgentRun:
    engine = SemShareEngine(model, tokenizer, pool=pool_config(heal=False))
    record: Record[AgentItem] = Record(tmp_path / "agents.json", {"settings": {"threads": 1}})
    return AgentRun(engine, MATERIAL, PLAN, record, lambda told: None)


def _turns(run: AgentRun) -> list[TurnItem]:
    return [item for item in run.record.items if isinstance(item, TurnItem)]


def test_turns_are_measured_edit_by_edit_and_leave_an_empty_pool(agents: AgentRun) -> None:
    turns(agents)
    found = [item for item in _turns(agents) if item.mode == BACK_TO_BACK]
    assert [(item.edit, item.turn) for item in found] == [(edit, turn) for edit in PLAN.edits for turn in (1, 2, 3)]
    for item in found:
        assert item.full_ms > 0
        assert len(item.kl) == len(item.agree) >= 32
        if item.turn == 1:
            assert item.outcome == "miss"
            assert item.old_tokens == 0
        else:
            assert item.old_tokens > 0.3 * item.tokens
            assert 0 <= item.old_computed <= item.old_tokens
    stable = [item for item in found if item.edit == "stable" and item.turn > 1]
    assert {item.outcome for item in stable} == {"prefix"}
    assert max(item.promised_kl for item in stable) < 1e-5
    assert agents.engine.pool.stats().entries == 0
    assert agents.record.parts[0]["measured"] == 2


def test_idle_time_is_measured_where_the_engine_heals(agents: AgentRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any second engine: that it heals is not tested here."""
    waited: list[float] = []
    monkeypatch.setattr("benchmarks.agents.turns.idle", lambda engine, seconds, since: waited.append(seconds))
    second = SemShareEngine(agents.engine.model, agents.engine.tokenizer, pool=pool_config(heal=True))
    monkeypatch.setattr(AgentRun, "healing", second)
    agents.plan = replace(PLAN, short_idle=("clock",))
    turns(agents)
    idle = [item for item in _turns(agents) if item.mode not in (BACK_TO_BACK, PREFIX_CACHE)]
    assert [(item.edit, item.mode, item.turn) for item in idle] == [
        ("clock", mode, turn) for mode in ("idle 1.5", "idle 0.3") for turn in (1, 2, 3)
    ]
    fulls = [item.full_ms / 1e3 for item in idle if item.mode == "idle 1.5"]
    assert waited == pytest.approx([1.5 * fulls[0], 1.5 * fulls[1], 0.3 * fulls[0], 0.3 * fulls[1]], rel=0.05)
    assert second.pool.stats().entries == 0


def test_a_stable_history_stands_beside_what_transformers_own_cache_takes(agents: AgentRun) -> None:
    agents.plan = replace(PLAN, edits=("stable",))
    turns(agents)
    beside = [item for item in _turns(agents) if item.mode == PREFIX_CACHE]
    assert [item.turn for item in beside] == [2, 3]
    for item in beside:
        assert item.promised_kl == pytest.approx(0, abs=1e-5)
        served = next(each for each in _turns(agents) if (each.turn, each.mode) == (item.turn, BACK_TO_BACK))
        assert item.recompute_ratio == pytest.approx(served.recompute_ratio, abs=0.05)
        assert 0 < item.recompute_ratio < 1


def test_promises_are_measured_at_every_level_beside_the_noise_floor(agents: AgentRun) -> None:
    promises(agents)
    found = _turns(agents)
    assert {item.edit for item in found} == {"lists", "clock"}
    for edit in ("lists", "clock"):
        for turn in (2, 3):
            systems = [item.system for item in found if (item.edit, item.turn) == (edit, turn)]
            assert systems[: len(BOUNDS) + 1] == [*BOUNDS, WITHOUT]
            asked = next(item.ask for item in found if (item.edit, item.turn) == (edit, turn))
            assert (NOISE_FLOOR in systems) == (asked != "say")
    assert {item.turn for item in found} == {2, 3}  # the first turn is computed in full, once
    floors = [item for item in found if item.system == NOISE_FLOOR]
    assert floors
    assert all(item.promised_kl > 0 for item in floors)


def test_derived_facts_are_asked_at_each_distance(agents: AgentRun) -> None:
    facts(agents)
    found = [item for item in agents.record.items if isinstance(item, FactItem)]
    assert {item.distance for item in found} == {0, 250}
    full = agents.engine
    for item in found:
        assert item.full_margin != 0
        assert item.floor_margin not in (None, item.full_margin)
    assert full.pool.stats().entries == 0


def test_the_margin_of_a_lossless_answer_is_the_full_prefills(
    agents: AgentRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both margins come by different ways: the full prefill's document is computed once for all questions."""
    monkeypatch.setattr("benchmarks.agents.facts.LEVEL", "off")
    facts(agents)
    for item in agents.record.items:
        assert isinstance(item, FactItem)
        assert item.margin == pytest.approx(item.full_margin, abs=1e-3)


def test_the_anchor_serves_each_turn_from_a_full_one(agents: AgentRun) -> None:
    anchor(agents)
    found = _turns(agents)
    assert [(item.turn, item.system) for item in found] == [(3, EPIC), (3, "balanced")]


def test_noisy_weights_have_no_calibration(agents: AgentRun) -> None:
    uncalibrated(agents)
    found = _turns(agents)
    assert {item.system for item in found} == {NOISY}
    noisy = noisy_copy(agents.engine.model)
    for name, weights in agents.engine.model.named_parameters():
        other = noisy.get_parameter(name)
        if weights.dim() > 1:
            assert float((other - weights).std() / weights.std()) == pytest.approx(0.02, rel=0.1)
        else:
            assert torch.equal(other, weights)


def test_arrivals_tell_what_the_engine_was_doing(agents: AgentRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.agents.arrivals.time.sleep", lambda seconds: None)
    moments = iter([False, True, True])
    monkeypatch.setattr("benchmarks.agents.arrivals.is_healing", lambda engine: next(moments))
    arrivals(agents)
    found = [item for item in agents.record.items if isinstance(item, ArrivalItem)]
    assert [(item.turn, item.healing) for item in found] == [(1, False), (2, True), (3, True)]
    assert all(item.queue_ms >= 0 for item in found)


def test_minutes_that_are_used_up_end_a_part(agents: AgentRun) -> None:
    agents.plan = replace(PLAN, minutes=PLAN.minutes | {"turns": 0.0})
    turns(agents)
    assert {item.edit for item in _turns(agents)} == {"clock"}
    assert any("1 of 2; the 0 minutes were used up" in note for note in agents.record.notes)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ('cat", "arguments": {"a": 1}}\n</tool_call>', 'cat", "arguments": {"a": 1}}', True),
        ('cat", "arguments": {"a": 1, "b": 2}}', 'cat", "arguments": {"b":2,"a":1}}\nmore', True),
        ('cat", "arguments": {"a": 1}}', 'cat", "arguments": {"a": 2}}', False),
        ('cat", "arguments": {"a": 1}}', 'cd", "arguments": {"a": 1}}', False),
        ('cat", "arguments": {"a": 1', 'cat", "arguments": {"a": 2', False),
        ("no call", "another", False),
    ],
)
def test_calls_are_compared_by_name_and_arguments(first: str, second: str, same: bool) -> None:
    assert same_call(first, second) is same
    assert same_call(first, first)


def test_a_call_is_read_behind_its_cue() -> None:
    assert tool_call('cat", "arguments": {"a": 1}}') == ("cat", {"a": 1})


def test_a_copy_holds_where_the_greedy_answer_is_the_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    ids = torch.arange(3, 60)[None]
    _, logits, cache = full_prefill(model, ids)
    answer, _ = Continuation(model, cache).greedy(logits, 6)
    for change, holds in ((0, True), (1, False)):
        tokens = answer.clone()
        tokens[3] = (tokens[3] + change) % 256
        _, logits, cache = full_prefill(model, ids)
        said = Continuation(model, cache).follow(logits, tokens)
        assert bool((said.argmax(dim=-1) == tokens).all()) is holds
        text = tokenizer.decode(tokens)
        if expected_tokens(tokenizer, text).tolist() == tokens.tolist():  # not every token spells the same alone
            _, logits, cache = full_prefill(model, ids)
            assert answer_holds(model, tokenizer, Ask("copy", text), cache, logits, []) is holds


def test_a_forced_choice_takes_the_likelier_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    _, logits, cache = full_prefill(model, torch.arange(3, 60)[None])
    best, worst = (tokenizer.decode([int(choice)]) for choice in (logits[:128].argmax(), logits[:128].argmin()))
    for kind in ("gone", "place"):
        right, wrong = Ask(kind, best, worst), Ask(kind, worst, best)  # type: ignore[arg-type]
        assert answer_holds(model, tokenizer, right, cache, logits, []) is True
        assert answer_holds(model, tokenizer, wrong, cache, logits, []) is False
    assert answer_holds(model, tokenizer, Ask("place", best), cache, logits, []) is None  # the first order of a list
    assert cache.get_seq_length() == 57


def test_old_text_is_what_stood_in_runs_of_earlier_prompts() -> None:
    old = OldText(run=4)
    old.add(np.arange(10))
    assert not OldText(run=4).marks(np.arange(10)).any()
    marks = old.marks(np.array([50, 3, 4, 5, 6, 7, 60, 1, 2, 3, 70]))
    assert marks.tolist() == [False, True, True, True, True, True, False, False, False, False, False]
    assert not old.marks(np.array([1, 2])).any()


def test_epic_computes_the_heads_behind_seams() -> None:
    class Reference:
        id, tokens = "r", np.arange(1000)

    plan = ReusePlan.empty(1000, [Reference()])
    plan.serve(0, 300, Source.PREFIX, 0, 0)
    plan.serve(300, 1000, Source.MOVED, 0, 400)
    assert epic_ratio(plan, fresh_from=990) == pytest.approx((HEAD + 10) / 1000)


def test_the_command_writes_what_the_page_reads(
    monkeypatch: pytest.MonkeyPatch, loads: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, docs = tmp_path / "out.json", tmp_path / "docs"
    monkeypatch.setattr(command, "agent_material", lambda: MATERIAL)
    monkeypatch.setattr(command, "_plan", lambda options: replace(PLAN, edits=tuple(options.edits)))
    monkeypatch.setattr(sys, "argv", ["agents", "--only", "turns", "--edits", "clock", "--out", str(out)])
    assert command.main() == 0
    told = capsys.readouterr().out
    assert "clock, back to back" in told
    assert "turns: 1 of 1" in told
    record = read_items(out, agent_item)
    assert record.items
    both = page.merged([record, replace(record, about={"command": "second"})])
    assert both.items == record.items * 2
    assert both.about["command"].endswith(f"{out}` and `second")
    monkeypatch.setattr(sys, "argv", ["page", str(out), "--docs", str(docs)])
    assert page.main() == 0
    written = (docs / page.NAME).read_text(encoding="utf-8")
    assert "| clock | " in written
    assert "What must hold" in written
    assert (docs / page.PLOT).exists()
    monkeypatch.setattr(sys, "argv", ["page", str(docs / page.NAME), "--docs", str(docs)])
    assert page.main() == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "nonsense"], "unknown: nonsense; choose of turns"),
        (["--edits", "nonsense"], "unknown: nonsense; choose of stable"),
        (["--turns", "21"], "--turns must be 2 to 20"),
        (["--threads", "0"], "--threads must be at least 1"),
    ],
)
def test_what_is_not_known_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["agents", *arguments])
    with pytest.raises(SystemExit):
        command.main()
    assert told in capsys.readouterr().err


def test_plans_fit_their_minutes() -> None:
    assert sum(Plan().minutes.values()) <= 90
    assert sum(Plan().shortened().minutes.values()) <= 10
    assert Plan(turns=8).even().sizes.second == 1428
