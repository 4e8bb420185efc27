"""Results that come after a call has returned."""

from __future__ import annotations

from semshare_core.quality import late_results
from semshare_core.quality.late_results import LateResults


def test_who_asks_before_and_who_asks_after_is_told() -> None:
    results: LateResults[int] = LateResults()
    heard: list[int] = []
    results.when_done("a", heard.append)  # nobody announced it
    results.begin("a")
    results.when_done("a", heard.append)
    for listener in results.finish("a", 7):
        listener(7)
    results.when_done("a", heard.append)
    assert heard == [7, 7]


def test_what_is_abandoned_or_long_past_tells_nobody() -> None:
    results: LateResults[int] = LateResults()
    heard: list[int] = []
    results.begin("a")
    results.when_done("a", heard.append)
    results.abandon("a")
    assert results.finish("a", 1) == []
    for number in range(late_results._REMEMBERED):
        results.finish(str(number), number)
    results.when_done("a", heard.append)
    assert heard == []
