"""Where the comparison looks inside an engine: the only file here that knows names of the engine's inside.

Four points, found by their names in whatever module they stand:

- the governor's ``decide``: the plan it is given and the decision it gives;
- ``lay_rows``: the plan as it is carried out, and which of its rows are laid into the cache;
- ``MergedCache.begin``: which rows are computed next, per layer;
- the pool's ``add``: in which order entries came, which names them alike in both engines.

A point that is gone is an error, and so is a request at which nothing was seen.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import semshare_core
from semshare_core import ReusePolicy

Array = NDArray[Any]


class ProbeError(Exception):
    """A point to look at is gone or ambiguous, or nothing was seen there."""


@dataclass
class Seen:
    """What was seen of one request, by name: arrays, and plain values.

    Attributes:
        computed: rows of every layer, per chunk of a pass.
    """

    arrays: dict[str, Array] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    computed: list[list[Array]] = field(default_factory=list)


class Probe:
    """Watches every engine of this process; :meth:`take` gives what was seen since it was last called."""

    def __init__(self) -> None:
        self._seen = Seen()
        self._entries: dict[str, int] = {}
        self._plans = 0

    def entry_number(self, name: str) -> int:
        """Which entry it is, counted in the order in which they were offered to a pool since :meth:`forget`."""
        if name not in self._entries:
            raise ProbeError(f"a plan names the entry {name}, which no pool was offered.")
        return self._entries[name]

    def forget(self) -> None:
        """Entries are counted anew."""
        self._entries.clear()

    def take(self) -> Seen:
        """What was seen, of one request."""
        seen, self._seen, self._plans = self._seen, Seen(), 0
        for layer, chunks in enumerate(zip(*seen.computed, strict=False)):  # engines in the making try other models
            seen.arrays[f"computed at layer {layer}"] = np.concatenate(chunks)  # whatever the chunks were
        return seen

    def add_entry(self, name: str) -> None:
        self._entries.setdefault(name, len(self._entries))

    def add_plan(self, where: str, plan: Any, laid: Array | None = None) -> None:
        numbers = np.array([self.entry_number(name) for name in plan.reference_ids] + [-1], np.int64)
        arrays = {
            "source": plan.source,
            "reference": numbers[plan.reference],  # -1, for none, is the last
            "position": plan.position,
            "seams": plan.seams(),
        }
        if plan.stale is not None:
            arrays["stale"] = plan.stale
        if laid is not None:
            arrays["laid"] = laid
        self._plans += 1
        for name, array in arrays.items():
            self._seen.arrays[f"{self._plans}. {where}: {name}"] = np.array(array)
        self._seen.values[f"{self._plans}. {where}: similarity"] = float(plan.similarity)

    def add_decision(self, decision: dict[str, Any]) -> None:
        self._seen.values |= {f"decision: {name}": value for name, value in decision.items()}

    def add_rows(self, rows: Any, last_layer: int) -> None:
        """Only what is computed counts: a pass may end with the keys and values of ``last_layer``."""
        kept = [each.cpu().numpy() if layer <= last_layer else np.zeros(0, int) for layer, each in enumerate(rows)]
        self._seen.computed.append(kept)


def install() -> Probe:
    """Watch the engine that this process imports, whichever version it is."""
    probe = Probe()
    before = hasattr(_find("Source"), "EXACT")
    (_watch_before if before else _watch_now)(probe)
    return probe


def with_retention(policy: ReusePolicy, **shares: Any) -> ReusePolicy:
    """``policy``, keeping fewer rows for decoding."""
    name = "compress" if "compress" in ReusePolicy.model_fields else "retention"
    return policy.model_copy(update={name: semshare_core.Retention(**shares)})


@contextmanager
def zeros_for_fuzzy_rows(policy: str | ReusePolicy) -> Iterator[str | ReusePolicy]:
    """``policy``, serving zeros for fuzzy tokens for the time of the context."""
    if "zero_fuzzy" in ReusePolicy.model_fields:
        assert isinstance(policy, ReusePolicy)
        yield policy.model_copy(update={"zero_fuzzy": True})
        return
    from benchmarks.ablations import zero_rows

    with zero_rows():
        yield policy


def _watch_before(probe: Probe) -> None:
    """The engine of version 0.1."""

    def decided(args: tuple[Any, ...], kwargs: dict[str, Any], decision: Any) -> None:
        probe.add_plan("found", args[0])
        budget = decision.budget
        probe.add_decision(
            {
                "budget": None if budget is None else [budget.ratio, budget.fill, budget.least],
                "reason": decision.reason,
                "bypassed": decision.bypassed,
                "calibrated": decision.calibration not in (None, "default"),  # its name follows its file's format
                "expected_kl": decision.expected_kl,
            }
        )

    def lay(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del kwargs
        _, _, plan, _, wanted = args
        probe.add_plan("carried out", plan, wanted)

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del kwargs
        _, rows, _, stop_layer = args
        probe.add_rows(rows, len(rows) - 1 if stop_layer is None else stop_layer)

    def offered(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del kwargs
        probe.add_entry(args[1].id)

    _watch_function("decide", after=decided)
    _watch_function("lay_rows", before=lay)
    _watch_method(_find("MergedCache"), "begin", begin)
    _watch_method(_find("ReferencePool"), "add", offered)


def _watch_now(probe: Probe) -> None:
    """The working tree's engine, where it has other names. Edit this when they change; the rest stays."""
    _watch_before(probe)


def check_seen(seen: Seen, report: dict[str, Any]) -> None:
    """Raises :class:`ProbeError` if some of what such a request must show was not seen."""
    outcome = report["outcome"]
    missing = []
    if not any("carried out: source" in name for name in seen.arrays):
        missing.append("the plan carried out")
    if outcome == "semantic" and not seen.values.get("decision: budget"):
        missing.append("the decision")
    if outcome == "semantic" and not seen.computed:
        missing.append("the rows computed")
    if missing:
        raise ProbeError(f"of a request with the outcome {outcome!r} there was not seen: {', '.join(missing)}.")


@functools.cache
def _modules() -> tuple[ModuleType, ...]:
    """All modules of the engine that this process imports."""
    names = [module.name for module in pkgutil.walk_packages(semshare_core.__path__, "semshare_core.")]
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    return tuple(module for name, module in sorted(sys.modules.items()) if name.split(".")[0] == "semshare_core")


def _find(name: str) -> Any:
    """The one function or class of that name that some module of the engine defines."""
    found = [
        getattr(module, name)
        for module in _modules()
        if getattr(getattr(module, name, None), "__module__", None) == module.__name__
    ]
    if len(found) != 1:
        where = ", ".join(each.__module__ for each in found) or "nowhere"
        raise ProbeError(f"{name} must be defined once in semshare_core, and is: {where}. See {__name__}.")
    return found[0]


def _holders(function: Any) -> Iterator[tuple[ModuleType, str]]:
    """Every module that has ``function``, under whatever name."""
    for module in _modules():
        for name, value in list(vars(module).items()):
            if value is function:
                yield module, name


def _watch_function(
    name: str,
    *,
    before: Callable[[tuple[Any, ...], dict[str, Any]], None] | None = None,
    after: Callable[[tuple[Any, ...], dict[str, Any], Any], None] | None = None,
) -> None:
    function = _find(name)

    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(args, kwargs)
        result = function(*args, **kwargs)
        if after is not None:
            after(args, kwargs, result)
        return result

    for module, local in list(_holders(function)):
        setattr(module, local, watched)


def _watch_method(cls: type, name: str, before: Callable[[tuple[Any, ...], dict[str, Any]], None]) -> None:
    """``before`` gets the object as its first argument."""
    method = getattr(cls, name, None)
    if method is None:
        raise ProbeError(f"{cls.__name__} has no method {name} any more. See {__name__}.")

    @functools.wraps(method)
    def watched(*args: Any, **kwargs: Any) -> Any:
        before(args, kwargs)
        return method(*args, **kwargs)

    setattr(cls, name, watched)
