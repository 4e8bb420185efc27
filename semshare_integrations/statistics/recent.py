"""The reports of the last calls, whole: what frameworks hand on of them tells their tokens by runs, or not at all."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from semshare_core import ReuseReport
from semshare_core.process.forking import whole

_REMEMBERED = 64  # callbacks run when an answer is finished: as many calls may end at once

_lock = whole(threading.Lock())
_recent: OrderedDict[str, ReuseReport] = OrderedDict()


def brief(report: ReuseReport) -> dict[str, Any]:
    """:meth:`ReuseReport.brief`, from which :func:`whole_report` makes the report again."""
    with _lock:
        _recent[report.id] = report
        if len(_recent) > _REMEMBERED:
            _recent.popitem(last=False)
    return report.brief()


def whole_report(told: Mapping[str, Any]) -> ReuseReport:
    """A report of its own from what :func:`brief` gave: with all its tokens if the call was a recent one."""
    report = ReuseReport.model_validate(told)
    with _lock:
        made = _recent.get(report.id)
    if made is None:
        return report
    return report.model_copy(update={"token_sources": made.token_sources, "token_recomputed": made.token_recomputed})
