"""The benchmark suite on a tiny random model: systems, samples, budgets, and what is on disk meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bench_items import made_item
from benchmarks.bench import peers
from benchmarks.bench.budget import Budget
from benchmarks.bench.item import make_item
from benchmarks.bench.plan import PEERS_PART, PLAN, Part
from benchmarks.bench.record import Record, read_record
from benchmarks.bench.run import Runner
from benchmarks.bench.workloads import ABOUT, WORKLOADS
from benchmarks.case import Case
from benchmarks.corpora import CorpusUnavailable
from benchmarks.peers import PEERS, Peer, PeerResult, PeerSample, PeerUnavailable
from benchmarks.systems import SYSTEMS, Sample, Subject
from benchmarks.systems.answer import Ending
from benchmarks.systems.peer import PeerAnswer, peer_samples
from semshare_core import SemShareEngine

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. "
REFERENCE = TEXT * 4 + "What does the fox do?"
TARGET = "Once more: " + TEXT * 4 + "What does the dog do?"
CASE = Case("one", "made up", (REFERENCE,), TARGET, ("jump",), ("mind",))


@pytest.fixture
def runner(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Runner:
    record = Record(tmp_path / "bench.json", {"settings": {"quick": True}})
    return Runner(SemShareEngine(model, tokenizer), record, lambda told: None)


def _part(*systems: str, **changes: Any) -> Part:
    return Part("made up", systems, cases=2, minutes=10, tokens=12, **changes)


def _run(runner: Runner, part: Part, *cases: Case) -> None:
    runner.run(part, cases, [SYSTEMS[name] for name in part.systems])


def test_all_systems_give_the_same_kind_of_item(runner: Runner) -> None:
    names = ("full prefill", "prefix cache", "ours balanced", "ours 0.25", "paper", "cacheblend 0.2")
    _run(runner, _part(*names), CASE)
    items = {item.system: item for item in runner.record.items}
    assert set(items) == set(names)
    for item in items.values():
        assert len(item.kl) == len(item.agree) == 12
        assert item.ttft_ms[0] > 0
        assert len(item.full_ms) == 2
        assert min(item.full_ms) > 0
        assert item.peak_bytes is None or item.peak_bytes > 1e7
        assert item.answered in (True, False)
        assert item.stale in (True, False)
        assert 0 < item.kv_bytes <= item.kv_bytes_full
    for lossless in ("full prefill", "prefix cache"):
        assert max(items[lossless].kl) < 1e-4
        assert items[lossless].agree == [1] * 12
        assert items[lossless].text == items[lossless].full_text
        assert items[lossless].rouge_l == 1.0
    assert items["ours 0.25"].outcome == "semantic"
    assert items["ours 0.25"].recompute_ratio == pytest.approx(0.25, abs=0.05)
    assert max(items["ours 0.25"].kl) > 1e-3  # random weights: what is reused shows
    assert items["paper"].kv_bytes < 0.9 * items["paper"].kv_bytes_full


def test_a_rounded_cache_is_nearly_the_full_prefill(runner: Runner) -> None:
    _run(runner, _part("full prefill, cache in bfloat16"), CASE)
    (item,) = runner.record.items
    assert 1e-7 < max(item.kl) < 1e-2
    assert item.kv_bytes == item.kv_bytes_full // 2


def test_the_lead_is_the_least_on_the_way_to_the_answers_end(runner: Runner) -> None:
    subject = runner.subject(CASE, 12, text=True)
    log_probs = torch.full_like(subject.base.log_probs, -20.0)
    for step, (token, lead) in enumerate(zip(subject.full_tokens, [3.0, 0.5] + [9.0] * 10, strict=True)):
        log_probs[step, token] = -1.0
        log_probs[step, token - 1] = -1.0 - lead
    led = replace(subject, base=replace(subject.base, log_probs=log_probs))
    assert led.full_lead == pytest.approx(0.5)
    assert make_item(
        led, "x", Sample(0.5, [0.0], [1], "so", 10, None, "answered"), [1.0], [1.0]
    ).full_lead == pytest.approx(0.5)


def test_the_prefix_cache_computes_what_is_not_shared(runner: Runner) -> None:
    shared = Case("shared", "made up", ("something else", REFERENCE), REFERENCE[:-5] + " want?")
    _run(runner, _part("prefix cache"), shared, CASE)
    first, second = runner.record.items
    assert first.outcome == "prefix"
    assert first.recompute_ratio == pytest.approx(6 / len(shared.target), abs=1e-6)  # a token a byte
    assert max(first.kl) < 1e-4
    assert second.recompute_ratio == 1.0
    assert second.outcome == "miss"


def test_a_prompt_that_was_there_before_leaves_its_last_token_to_compute(runner: Runner) -> None:
    _run(runner, _part("prefix cache"), Case("same", "made up", (REFERENCE,), REFERENCE))
    assert runner.record.items[0].recompute_ratio == pytest.approx(1 / len(REFERENCE))


def test_the_text_is_what_the_engine_would_answer(runner: Runner) -> None:
    system = SYSTEMS["ours 0.25"]
    case = Case("open", "made up", (REFERENCE,), TARGET)
    _run(runner, _part("ours 0.25"), case)
    runner.engine.pool.clear()
    runner.engine.warm([REFERENCE])
    out = runner.engine.generate(TARGET, max_new_tokens=12, reuse=system.policy, store=False)  # type: ignore[attr-defined]
    assert runner.record.items[0].text == out.text.strip()


def test_repetitions_and_left_out_texts(runner: Runner) -> None:
    _run(runner, _part("ours balanced", "full prefill", repeats=2, text=False), CASE)
    for item in runner.record.items:
        assert len(item.ttft_ms) == 12  # short ones more often
        assert len(item.full_ms) == 24  # before and after each
        assert item.text is item.rouge_l is item.answered is item.stale is None


def test_screened_parts_measure_what_the_full_prefill_answers(runner: Runner) -> None:
    said = runner.subject(CASE, 12, text=True)
    right = replace(CASE, id="two", gold=(said.ending.text(said.full_tokens),))
    _run(runner, _part("ours 0.25", screened=True), CASE, right)
    assert [item.case for item in runner.record.items] == ["two"]
    assert runner.record.items[0].full_answered
    assert runner.record.parts[-1]["measured"] == 1
    assert "of 2 cases the full prefill answers 1" in runner.record.notes[-1]


def test_a_chain_is_served_from_what_it_left(runner: Runner) -> None:
    turns = [TEXT * 3 + f"Turn {number}, and what comes then? Tell me." for number in range(4)]
    cases = [Case(str(turn), "made up", (turns[turn - 1],), turns[turn], setting=str(turn)) for turn in range(1, 4)]
    _run(runner, _part("ours balanced", chained=True, text=False), *cases)
    assert runner.engine.pool.stats().entries == 4
    _run(runner, _part("ours balanced", text=False), *cases)
    assert runner.engine.pool.stats().entries == 1


class _Clock:
    """Every case takes ten seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def _spend(budget: Budget, clock: _Clock, seconds: list[float]) -> Iterator[int]:
    for number in budget.take(range(len(seconds))):
        clock.now += seconds[number]
        yield number


def test_a_budget_takes_no_case_that_would_exceed_it() -> None:
    clock = _Clock()
    budget = Budget(35, clock)
    assert list(_spend(budget, clock, [10] * 5)) == [0, 1, 2]
    assert budget.stopped
    clock, budget = _Clock(), Budget(50, clock)
    assert list(_spend(Budget(50, clock), clock, [10] * 5)) == [0, 1, 2, 3, 4]
    assert not budget.stopped


def test_the_first_case_is_always_done_and_the_longest_counts() -> None:
    clock = _Clock()
    budget = Budget(5, clock)
    assert list(_spend(budget, clock, [100, 1])) == [0]
    assert budget.stopped
    clock = _Clock()
    assert list(_spend(Budget(60, clock), clock, [5, 30, 5, 5])) == [0, 1]  # 35 spent, and a long one may come
    clock = _Clock()
    assert list(_spend(Budget(60, clock), clock, [30, 5, 5, 5])) == [0, 1, 2, 3]  # the first warmed up


def test_a_part_that_was_stopped_says_so(runner: Runner) -> None:
    part = Part("made up", ("full prefill",), cases=2, minutes=1e-9, tokens=4, text=False)
    _run(runner, part, CASE, Case("two", "made up", (), TARGET))
    assert [item.case for item in runner.record.items] == ["one"]
    assert runner.record.notes == ["made up: 1 of 2 cases; the 1e-09 minutes were used up"]
    assert runner.record.parts[0]["planned"] == 2
    assert runner.record.parts[0]["measured"] == 1


def test_the_file_is_whole_after_every_item(tmp_path: Path) -> None:
    record = Record(tmp_path / "out" / "bench.json", {"command": "x"})
    items = [made_item(case=name, text="“quoted”\n") for name in "abc"]
    for count, item in enumerate(items, 1):
        record.add(item)
        told = json.loads(record.path.read_text(encoding="utf-8"))
        assert len(told["items"]) == count
    record.notes.append("left out")
    record.write()
    again = read_record(record.path)
    assert again.items == items
    assert again.notes == ["left out"]
    assert again.about == {"command": "x"}
    assert list(record.path.parent.iterdir()) == [record.path]


def test_an_empty_record_can_be_read(tmp_path: Path) -> None:
    record = Record(tmp_path / "bench.json", {})
    record.write()
    assert read_record(record.path).items == []


def test_an_answer_ends_with_its_line_or_with_the_end_token(tokenizer: PreTrainedTokenizerBase) -> None:
    def tokens(text: str) -> list[int]:
        return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]

    looked_up, free = Ending(tokenizer, (256,), True), Ending(tokenizer, (256,), False)
    said = tokens("\n Paris\nQuestion: and?")
    assert looked_up.text(said) == "Paris"
    assert looked_up.length(said) == len("\n Paris\n")
    assert free.text(said) == "Paris\nQuestion: and?"
    assert free.length(said) == len(said)
    ended = [*tokens("Yes"), 256, *tokens("No")]
    assert free.text(ended) == looked_up.text(ended) == "Yes"
    assert free.length(ended) == 4


def test_the_plan_names_what_there_is_and_keeps_to_its_time() -> None:
    for part in PLAN:
        assert set(part.systems) <= set(SYSTEMS)
        assert part.workload in WORKLOADS
        assert len(set(part.systems)) == len(part.systems)
    assert set(WORKLOADS) == set(ABOUT) == {part.workload for part in PLAN}
    for plan, asked, limit in (
        (PLAN, PEERS_PART, 75),  # no part uses all of its minutes: 4 to 5 of them all are left
        ([part.shortened() for part in PLAN], PEERS_PART.shortened(), 10),
    ):
        assert sum(part.minutes for part in plan) + asked.minutes <= limit
    assert set(PEERS_PART.names) == set(PEERS)
    taken: dict[tuple[str, str], int] = {}
    for part in PLAN:  # no system measures a case twice under one workload's name
        for system in part.systems:
            assert part.first >= taken.get((part.workload, system), 0)
            taken[part.workload, system] = part.first + part.cases
    assert sum(part.cases for part in PLAN if "ours high" in part.systems) >= 200
    assert all(part.text for part in PLAN if part.workload in ("codes", "editions"))  # or no stale answer is seen


def test_subjects_are_measured_without_touching_the_pool(runner: Runner) -> None:
    subject = runner.subject(CASE, 4, text=True)
    assert isinstance(subject, Subject)
    assert len(subject.full_tokens) == 4
    assert runner.engine.pool.stats().entries == 0


def test_peers_are_asked_for_some_of_each_workload_over_as_many_tokens_as_ours(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    timeouts: list[float] = []

    def cases(workload: str, count_tokens: object, first: int, count: int) -> list[Case]:
        if workload == "reordered":
            raise CorpusUnavailable("no such package")
        return [replace(CASE, id=f"{workload} {number}", workload=workload) for number in range(first, first + count)]

    def answers(peer: Peer, subjects: Sequence[Subject], threads: int) -> Iterator[PeerAnswer]:
        if peer.name == "vllm":
            raise PeerUnavailable("not installed")
        timeouts.append(peer.timeout_seconds)
        for number, subject in enumerate(subjects):
            asked.append((subject.case.id, len(subject.full_tokens)))
            sample = Sample(0.5, [0.0], [1], "so", 10, None, "answered")
            yield PeerAnswer(
                replace(subject, full_kv_bytes=20),
                f"{peer.name} x",
                None if number else sample,
                (0.5, 0.25, 0.3),
                (1.0, 2.0, 3.0),
                "" if not number else "no room",
            )

    monkeypatch.setattr(peers, "build_cases", cases)
    monkeypatch.setattr(peers, "peer_samples", answers)
    peers.run_peers(runner, replace(PEERS_PART, minutes=1), ("kvboost", "vllm"), threads=1)
    assert asked == [("paraphrase 0", 48), ("many sources 0", 48)]
    assert 20 < timeouts[0] <= 30  # half of what is left
    (item,) = runner.record.items
    assert (item.system, item.case) == ("kvboost x", "paraphrase 0")
    assert item.ttft_ms == [500.0, 250.0, 300.0]
    assert item.full_ms == [1000.0, 2000.0, 3000.0]
    assert (item.kv_bytes, item.kv_bytes_full) == (10, 20)
    assert runner.record.notes == [
        "peers, reordered: no such package",
        *(f"kvboost x, {case}: no room" for case, _ in asked[1:]),
        "vllm: not installed",
    ]


def test_a_peers_cache_is_measured_by_its_own_full_one(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = runner.subject(CASE, 4, text=True)
    told = PeerSample((0.5, 0.4), (2.0, 1.0), (1,), 500, 1000, 1, None)
    monkeypatch.setattr(Peer, "run", lambda *asked: [PeerResult("one", "selective", sample=told)])
    (answer,) = peer_samples(PEERS["kvboost"], [subject], threads=1)
    assert answer.sample is not None
    assert answer.sample.kv_bytes / answer.subject.full_kv_bytes == 0.5
    assert (answer.seconds, answer.full_seconds) == ((0.5, 0.4), (2.0, 1.0))
