"""How far a calibration has come, and how long it will still take."""

from __future__ import annotations

from semshare_core.budget.calibration import RATIOS
from semshare_core.calibrate.progress import HEAD, Progress
from semshare_core.calibrate.prompts import CalibrationPair


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def pairs(*lengths: int) -> list[CalibrationPair]:
    return [CalibrationPair(str(number), (), "x" * length) for number, length in enumerate(lengths)]


def test_the_time_left_goes_by_the_length_of_the_prompts() -> None:
    clock = Clock()
    progress = Progress(pairs(100, 100, 800), clock=clock)
    assert progress.seconds_left is None
    clock.now += 10
    assert progress.line("a").split() == ["1/3", "0:00:10", "0:01:30", "a"]
    clock.now += 30
    assert progress.line("b").split() == ["2/3", "0:00:40", "0:02:40", "b"]
    assert progress.seconds_left == 160
    clock.now += 200
    assert progress.line("c").split() == ["3/3", "0:04:00", "0:00:00", "c"]


def test_what_a_journal_has_says_nothing_about_time() -> None:
    clock = Clock()
    progress = Progress(pairs(100, 100, 100, 100), known=2, clock=clock)
    for _ in range(2):
        assert len(progress.line("known").split()) == 3, "nothing is forecast yet"
    clock.now += 10
    assert progress.line("measured").split() == ["3/4", "0:00:10", "0:00:10", "measured"]


def test_a_substitute_at_the_end_counts_as_one_more() -> None:
    progress = Progress(pairs(100), clock=Clock())
    progress.line("left out")
    assert progress.line("instead").split()[0] == "2/2"


def test_the_heads_stand_above_their_columns() -> None:
    line = Progress(pairs(1), clock=Clock()).line(f"{'order-1':<20} {812:>6}        {'0.023 ' * len(RATIOS)}")
    assert HEAD.index("pair") == line.index("order-1")
    assert HEAD.index("tokens") + len("tokens") == line.index("812") + 3
    assert HEAD.index("0.05") == line.index("0.023")
