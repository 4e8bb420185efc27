"""The benchmark suite's figures, page and plots, made of made-up items."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench_items import made_item, made_run
from benchmarks.bench.figures import must_hold
from benchmarks.bench.item import Item
from benchmarks.bench.record import Record
from benchmarks.report.__main__ import write_report
from benchmarks.report.drawing import save
from benchmarks.report.page import page
from benchmarks.report.plots import lengths
from benchmarks.report.tables import figures_table, levels_table, markdown, peers_table, sweep_table, systems_table
from benchmarks.sections.figure import Figure


def _only(items: list[Item], name: str) -> Figure:
    found = [figure for figure in must_hold(items) if name in figure.name]
    assert len(found) == 1, [figure.name for figure in found]
    return found[0]


def _length(tokens: int, speed: float) -> Item:
    return made_item(
        workload="length sweep", setting=str(tokens), case=str(tokens), full_ms=[100 * speed], ttft_ms=[100.0]
    )


def test_nothing_is_said_of_what_was_not_measured() -> None:
    assert must_hold([]) == []


@pytest.mark.parametrize(("tokens", "speed", "met"), [(5000, 6.3, True), (5000, 6.2, False), (8000, 7.9, False)])
def test_lengths(tokens: int, speed: float, met: bool) -> None:
    assert _only([_length(tokens, speed)], f"{tokens} tokens").met is met


def _similar(setting: str, speed: float) -> Item:
    return made_item(workload="similarity sweep", setting=setting, case=setting, full_ms=[100 * speed], ttft_ms=[100.0])


def test_never_to_be_slower_holds_only_of_all_that_was_planned() -> None:
    settings = [f"{tenth / 10} {edit}" for tenth in range(1, 10) for edit in ("removed", "replaced")]
    items = [_length(tokens, 3) for tokens in (500, 1000, 2000, 3000, 5000, 8000)]
    items += [_similar(setting, 0.98) for setting in settings]
    assert _only(items, "slowest").met is True
    assert "24 of 24 settings, 24 prompts" in _only(items, "slowest").measured
    lacking = _only(items[:-1], "slowest")
    assert lacking.met is None
    assert "23 of 24 settings" in lacking.measured
    slow = _only([_length(500, 3), _similar("0.9 replaced", 0.95)], "slowest")
    assert slow.met is False  # one is enough
    assert "0.9 replaced" in slow.measured


def test_what_does_not_decide_is_open() -> None:
    assert "| open |" in figures_table([Figure("x", "1", ">= 1", None), Figure("y", "1", ">= 1", True)])
    assert "open" not in figures_table([Figure("x", "1")])


def test_settings_are_sorted_as_numbers() -> None:
    table = sweep_table([_similar(setting, 1) for setting in ("0.5 replaced", "0.9 removed", "0.1 removed")], "share")
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [
        "| 0.1 removed",
        "| 0.9 removed",
        "| 0.5 replaced",
    ]
    assert [
        line.split(" | ")[0] for line in sweep_table([_length(5000, 1), _length(500, 1)], "tokens").splitlines()[2:]
    ] == [
        "| 500",
        "| 5000",
    ]


def test_paraphrases() -> None:
    good = made_item("ours 0.25", kl=[0.07] * 48, agree=[1] * 43 + [0] * 5)
    assert _only([good], "ratio 0.25: KL").met is True
    assert _only([good], "ratio 0.25: agreement").met is True
    assert _only([good, made_item("ours 0.25", "b", kl=[0.2] * 48)], "ratio 0.25: KL").met is False


def _at(system: str, ratio: float, kl: float) -> Item:
    return made_item(system, kl=[kl] * 4, recompute_ratio=ratio)


def test_methods_are_compared_at_what_they_recompute() -> None:
    ours = [_at("ours 0.1", 0.1, 0.10), _at("ours 0.5", 0.5, 0.02)]
    better = [*ours, _at("paper 0.1", 0.1, 0.2), _at("paper 0.5", 0.5, 0.03)]
    assert _only(better, "ours / paper").met is True
    assert _only([*ours, _at("paper 0.1", 0.1, 0.2), _at("paper 0.5", 0.5, 0.01)], "ours / paper").met is False
    # asked for 0.1, it recomputes 0.5: ours is read off there, not at 0.1
    assert _only([*ours, _at("cacheblend 0.1", 0.5, 0.03)], "ours / cacheblend").met is True
    assert _only([*ours, _at("cacheblend 0.1", 0.3, 0.05)], "ours / cacheblend").met is False  # between them: 0.06


def test_where_ours_computes_more_nothing_is_won() -> None:
    ours = [_at("ours 0.1", 0.16, 0.05), _at("ours 0.5", 0.5, 0.02)]
    less, same = _at("paper 0.1", 0.1, 0.2), _at("paper 0.5", 0.5, 0.03)
    open_one = _only([*ours, less], "ours / paper")
    assert open_one.met is None
    assert "0.1: 0.050 / 0.200 at ours 0.16; 1 not counted, where ours computes more; 1 prompt" in open_one.measured
    assert _only([*ours, less, same], "ours / paper").met is True
    assert _only([*ours, less, replace(same, kl=[0.01])], "ours / paper").met is False
    assert _only([*ours, _at("paper 0.1", 0.155, 0.2)], "ours / paper").met is True  # as good as the same
    # beyond our last point, ours computes less and counts
    assert _only([*ours, _at("cacheblend 0.5", 0.9, 0.03)], "ours / cacheblend").met is True


def test_every_figure_says_on_how_many_prompts_it_stands() -> None:
    items = made_run(cases=3)
    items += [replace(item, workload="codes", stale=False) for item in items if item.workload == "reordered"]
    items += [replace(item, workload="answered") for item in items if item.workload == "reordered"]
    items += [replace(item, system="ours 0.25, retention 0.96") for item in items if item.system == "ours 0.25"]
    figures = must_hold(items)
    assert len({figure.name.split(",")[0].split(":")[0] for figure in figures}) >= 10
    for figure in figures:
        assert re.search(r"\b\d+ prompts?\b", figure.measured), figure


def test_stale_and_kept_answers() -> None:
    def asked(number: int, answered: bool, stale: bool) -> Item:
        return made_item(
            "ours high",
            str(number),
            "codes",
            answered=answered,
            full_answered=True,
            stale=stale,
            full_stale=False,
        )

    items = [asked(number, number > 0, number == 0) for number in range(20)]
    assert _only(items, "stale answers").met is False
    assert _only(items[1:], "stale answers").met is True
    assert _only(items, "kept answers").met is True  # 19 of 20
    assert _only(items[:10], "kept answers").met is False
    unasked = [made_item("ours high", f"unasked {number}", "codes") for number in range(9)]
    assert "of 20 prompts" in _only([*items, *unasked], "stale answers").measured  # who was not asked is not judged
    assert not [figure for figure in must_hold(unasked) if "stale" in figure.name]


def test_a_level_may_be_broken_by_seven_of_a_hundred() -> None:
    def promise(broken: int) -> Figure:
        items = [made_item("ours fast", str(number), kl=[0.2 if number < broken else 0.0]) for number in range(100)]
        return _only(items, "level fast")

    assert promise(7).met is True
    assert promise(8).met is False


def test_promises_are_also_told_of_those_that_can_break_them() -> None:
    items = [made_item("ours high", str(at), kl=[0.5 * (at == 0)]) for at in range(4)]
    items += [made_item("ours high", f"full {at}", kl=[0.0], outcome="bypass") for at in range(16)]
    figure = _only(items, "level high")
    assert figure.met is True  # 1 of 20
    assert figure.measured.startswith("0.050 (")
    assert "of 20 prompts in 1 workloads; of the 4 that reuse approximately 0.250 (" in figure.measured
    assert "| paraphrase | 20 | 0.050 (0.009–0.236) | 1 of 4 |" in levels_table(items)
    assert "none of them reuses" in _only(items[4:], "level high").measured
    assert "of those reused" not in levels_table(items[4:])


def test_reordered_takes_the_fastest_that_keeps_its_answers() -> None:
    def asked(system: str, speed: float, answered: bool) -> Item:
        return made_item(
            system, workload="answered", full_ms=[100 * speed], ttft_ms=[100.0], answered=answered, full_answered=True
        )

    found = _only(
        [asked("ours fast", 6, False), asked("ours 0.3", 4.2, True), asked("ours 0.5", 2, True)], "best speed"
    )
    assert found.met is True
    assert "ours 0.3" in found.measured
    lost = asked("ours fast", 6, False)
    assert _only([lost], "best speed").measured == "none keeps as many, of 1 prompt"
    clear = asked("ours fast", 6, True)
    hair = replace(lost, case="b", full_lead=0.1)
    assert _only([clear, hair], "best speed").met is False
    assert "6.00× (ours fast, kept 1 of 1 prompt)" in _only([clear, hair], "with a lead").measured


def test_retention() -> None:
    all_rows = made_item("ours 0.25", workload="retention sweep", rouge_l=0.9)
    thin = made_item("ours 0.25, retention 0.96", workload="retention sweep", kv_bytes=570, rouge_l=0.8)
    figure = _only([all_rows, thin], "KV bytes saved")
    assert figure.met is True
    assert "43%" in figure.measured
    assert "0.800" in figure.measured


def test_peers_compete_on_their_own_cases_if_they_save_time() -> None:
    ours = [made_item(), made_item(case="b", kl=[5.0] * 4)]
    lossless = made_item("llama-cpp prompt-cache", full_ms=[101.0], ttft_ms=[100.0], kl=[0.0] * 4)
    figure = _only([*ours, lossless], "beside the peers")
    assert figure.met is None  # none that saves time, nothing to be first of
    assert "1 of 8 peer settings answered, 0 of them saved time; 1 prompt" in figure.measured
    worse = made_item("kvboost selective", full_ms=[150.0], ttft_ms=[100.0], kl=[1.0] * 4)
    assert _only([*ours, lossless, worse], "beside the peers").met is True
    closer = made_item("llama-cpp prompt-cache", full_ms=[150.0], ttft_ms=[100.0], kl=[0.0] * 4)
    assert _only([*ours, closer], "beside the peers").met is False
    faster = made_item("kvboost selective", ttft_ms=[10.0], kl=[2.0] * 4)
    figure = _only([*ours, faster], "beside the peers")
    assert figure.met is False
    assert "faster: kvboost selective (10.00×)" in figure.measured


@pytest.mark.parametrize(("outcome", "met"), [("semantic", True), ("prefix", True), ("bypass", None), ("miss", None)])
def test_ours_beside_the_peers_says_nothing_where_it_computes_all(outcome: str, met: bool | None) -> None:
    slower = made_item("kvboost selective", full_ms=[150.0], ttft_ms=[100.0], kl=[2.0] * 4)
    figure = _only([made_item(outcome=outcome), slower], "beside the peers")
    assert figure.met is met
    assert ("computed in full" in figure.measured) is (met is None)


def test_a_peer_that_wins_is_in_bold() -> None:
    groups = {
        "ours fast": [made_item("ours fast", kl=[0.1])],
        "full prefill": [made_item("full prefill", ttft_ms=[100.0], kl=[0.05])],
        "kvpress snapkv 0.42": [made_item("kvpress snapkv 0.42", kl=[0.02], kv_bytes=580)],
    }
    table = peers_table(groups)
    assert "**0.020**" in table
    assert "**0.58**" in table
    assert "**2.00×**" not in table  # ours is as fast
    assert "**1.000**" not in table


def test_empty_columns_are_left_out() -> None:
    assert markdown(["a", "b"], [["1", "–"], ["2", ""]]) == "| a |\n| --- |\n| 1 |\n| 2 |"
    table = systems_table({"ours fast": [made_item(), made_item(case="b", outcome="bypass")]})
    assert "kept answers" not in table
    assert "1 semantic, 1 bypass" in table


def test_a_page_and_its_plots(tmp_path: Path) -> None:
    record = Record(
        tmp_path / "bench.json", {"settings": {"quick": True}, "command": "run me"}, items=made_run(cases=2)
    )
    record.notes.append("vllm: not installed")
    stale = tmp_path / "docs" / "plots" / "bench-gone.svg"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    write_report(record, tmp_path / "docs")
    written = (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    plots = sorted(path.name for path in stale.parent.iterdir())
    assert not stale.exists()
    assert len(plots) == 10
    for plot in plots:
        assert f"](plots/{plot})" in written
        ElementTree.parse(stale.parent / plot)
    for told in (
        "What must hold",
        "## Reordered",
        "`run me`",
        "vllm: not installed",
        "--quick",
        "Length sweep",
        "kvpress snapkv 0.42",
    ):
        assert told in written
    assert "bible" not in written


def test_tables_do_not_mix_cases_or_settings(tmp_path: Path) -> None:
    items = [made_item(system, case) for system, cases in (("paper", "ab"), ("ours fast", "abcd")) for case in cases]
    items += [made_item(workload="agent replay", setting=setting, case=setting) for setting in ("growing", "window")]
    told = page(Record(tmp_path / "bench.json", {}, items=items), {})
    both, alone = (told.split(f"On the same {count} prompts:")[1].split("\nOn ")[0] for count in (2, 4))
    assert "| paper |" in both
    assert "| ours fast |" in both
    assert "| paper |" not in alone
    assert "| ours fast |" in alone
    for setting in ("growing", "window"):
        assert f"On one prompt, {setting}:" in told


def test_a_plot_is_the_same_again(tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        figure = lengths(made_run(cases=1))
        assert figure is not None
        save(figure, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()  # no date, no random names


def test_a_page_of_nothing_says_so(tmp_path: Path) -> None:
    write_report(Record(tmp_path / "bench.json", {}), tmp_path)
    assert "Nothing has been measured yet" in (tmp_path / "benchmarks.md").read_text(encoding="utf-8")


def test_a_new_run_leaves_what_was_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.md"
    write_report(Record(tmp_path / "bench.json", {}), tmp_path)
    first = path.read_text(encoding="utf-8")
    path.write_text(first.replace("# Benchmarks", "# Benchmarks\n\nIn a hurry", 1) + "\n## Parts\n", encoding="utf-8")
    for cases in (1, 2):
        record = Record(tmp_path / "bench.json", {"command": f"run {cases}"}, items=made_run(cases=cases))
        write_report(record, tmp_path)
        written = path.read_text(encoding="utf-8")
        assert written.startswith("# Benchmarks\n\nIn a hurry\n")
        assert written.endswith("\n## Parts\n")
        assert f"`run {cases}`" in written
        assert f"`run {3 - cases}`" not in written
        assert "Nothing has been measured yet" not in written


def test_a_page_without_marks_is_not_overwritten(tmp_path: Path) -> None:
    path, plot = tmp_path / "benchmarks.md", tmp_path / "plots" / "bench-old.svg"
    plot.parent.mkdir()
    plot.write_text("")
    path.write_text("written by hand\n")
    with pytest.raises(ValueError, match="no marks"):
        write_report(Record(tmp_path / "bench.json", {}, items=made_run(cases=1)), tmp_path)
    assert path.read_text() == "written by hand\n"
    assert plot.exists()
