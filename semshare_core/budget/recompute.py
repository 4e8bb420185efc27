"""The recompute plan: which rows of a prompt are computed, decided before any row is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from semshare_core.budget.needs import Needs
from semshare_core.budget.schedule import rows_per_layer
from semshare_core.config import ReusePolicy
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.select import Priority, Selection
from semshare_core.sorting import stable_order

_PROBE_SHARE = 0.25  # a first layer for all tokens may cost at most this share of the budget


@dataclass(frozen=True)
class Budget:
    """How much may be computed.

    Attributes:
        ratio: ceiling of computed tokens / prompt tokens, averaged over layers, first layer and last token included.
        fill: compute as many rows as the ratio allows (True), or only those worth computing (False).
        least: the share of the prompt that is computed even if the plan shows no change.
    """

    ratio: float
    fill: bool
    least: float = 0.0


@dataclass(frozen=True)
class Layers:
    """A model's layers.

    Attributes:
        count: the number of decoder layers.
        observable: whether the layers show their attention weights.
        device: the kind of device that they compute on, as torch names it.
    """

    count: int
    observable: bool = True
    device: str = "cpu"


@dataclass(frozen=True)
class RecomputePlan:
    """How many rows of one prompt each layer computes. The selection says which.

    Example: ``counts`` of ``[900, 120, 120, ...]`` and ``probe`` compute 900 rows in the first layer, measure their
    deviations, and then compute 120 chosen rows in every deeper layer.

    Attributes:
        suffix: bool [n], tokens that may be computed: those after the prefix, without the last.
        must: bool [n], tokens that are computed in every layer.
        first: bool [n], tokens that are computed before the ranked ones.
        counts: int64 [layers], rows computed at each layer. They never grow with depth.
        ranked: whether the selection has tokens to choose.
        probe: whether the first layers are computed for all tokens, to measure deviations.
        watched: the number of last tokens whose attention is watched. Each costs one row in every layer.
    """

    suffix: NDArray[np.bool_]
    must: NDArray[np.bool_]
    first: NDArray[np.bool_]
    counts: NDArray[np.int64]
    ranked: bool
    probe: bool
    watched: int

    @property
    def observes(self) -> bool:
        """Whether the ranking needs measurements of the model."""
        return self.probe or self.watched > 0

    @property
    def layer_rows(self) -> int:
        """The computed rows, summed over the layers, watched rows included."""
        return int(self.counts.sum()) + self.watched * len(self.counts)

    def extend(self, rows: int) -> RecomputePlan:
        """The plan with ``rows`` more rows at each layer. A prefill may extend its plan once."""
        return replace(self, counts=np.minimum(self.counts + rows, int(self.suffix.sum())))

    def rows(self, priority: Priority | None) -> list[NDArray[np.int64]]:
        """The positions to compute at each layer, ascending. Each set is a subset of the previous layer's.

        ``must`` goes first, then ``first``, then the others by falling ``priority`` [n].
        """
        worth = np.zeros(len(self.suffix)) if priority is None else priority
        order = stable_order(-worth)
        order = order[self.suffix[order]]
        kind = (2 * ~self.must + ~self.first)[order]
        order = np.concatenate([order[kind == each] for each in range(4)])
        return [np.sort(order[:count]) for count in self.counts]


def plan_recompute(
    plan: ReusePlan, needs: Needs, selection: Selection, policy: ReusePolicy, budget: Budget, layers: Layers
) -> RecomputePlan:
    """Plan how to spend ``budget`` on a prompt. If the layers are not observable, the plan watches no token."""
    n, needs = len(plan), needs.but_last()
    n_suffix, must = int(needs.suffix.sum()), needs.must
    spend = budget.ratio * n * layers.count - layers.count  # the last token passes through every layer, too
    ranked = bool(must.sum() < n_suffix) and layers.count > 1  # one layer shows nothing before it is computed
    most = n_suffix
    if not budget.fill:
        most = min(most, max(int(needs.worth.sum()), int(budget.least * n)))
    if most == n_suffix and spend >= n_suffix * layers.count - 1e-6:  # the budget allows all rows: nothing to choose
        ranked, must = False, needs.suffix
    n_must = int(must.sum())
    room = min(spend / layers.count, most)
    watched = min(selection.watched_tokens, n)  # their attention stands for the answer's
    influence = selection.needs_influence and room - n_must >= 2 * watched and layers.observable
    first, crowded = _foremost(must, plan, needs.worth, room, sparing=influence)
    watches = ranked and ((selection.needs_hot and layers.observable) or influence)
    spend -= watched * layers.count if watches else 0
    # a first layer for all tokens must leave most of the budget for chosen rows
    crowded = crowded and n_suffix + (layers.count - 1) * n_must < spend and n_suffix <= _PROBE_SHARE * spend
    probe = ranked and (selection.needs_deviation or (crowded and selection.needs_deviation_when_crowded))
    counts = rows_per_layer(
        spend,
        layers.count,
        policy.schedule,
        policy.decay,
        first=n_suffix if probe else None,
        minimum=n_must,
        maximum=most,
    )
    return RecomputePlan(needs.suffix, needs.must, first, counts, ranked, probe, watched if watches else 0)


def _foremost(
    must: NDArray[np.bool_], plan: ReusePlan, worth: NDArray[np.bool_], room: float, *, sparing: bool
) -> tuple[NDArray[np.bool_], bool]:
    """The tokens that are computed before the ranked ones, and whether the changed tokens exceed the room.

    With a ranking by influence (``sparing``), the changed tokens go first if they leave half of the room. A stale fact
    is the worst error of reuse, and the ranking does not see every fact. Without it, all tokens worth computing go
    first if they fit.
    """
    changed = must | (worth & (plan.source == Source.FUZZY))
    crowded = bool(changed.sum() > room)
    if sparing:
        few = changed.sum() - must.sum() <= (room - must.sum()) / 2
        return (changed if few else must), crowded
    for tokens in (worth, changed):
        if tokens.sum() <= room:
            return tokens, False
    return must, True
