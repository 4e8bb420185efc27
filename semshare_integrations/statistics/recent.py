"""The whole reports of the last calls. Frameworks pass on only brief ones, without a number for each token."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from semshare_core import ReuseReport
from semshare_core.process.forking import whole

_REMEMBERED = 64  # a callback runs when its call ends, and many calls may end at the same time

_lock = whole(threading.Lock())
_recent: OrderedDict[str, ReuseReport] = OrderedDict()


def brief(report: ReuseReport) -> dict[str, Any]:
    """:meth:`ReuseReport.brief`, from which :func:`whole_report` makes the report again."""
    with _lock:
        _recent[report.id] = report
        if len(_recent) > _REMEMBERED:
            _recent.popitem(last=False)
    return report.brief()


def whole_report(data: Mapping[str, Any]) -> ReuseReport:
    """A new report from the data of :func:`brief`. That of a recent call has all its tokens and quotes."""
    report = ReuseReport.model_validate(data)
    with _lock:
        whole = _recent.get(report.id)
    if whole is None:
        return report
    kept = ("token_sources", "token_recomputed", "first_difference")
    return report.model_copy(update={name: getattr(whole, name) for name in kept})
