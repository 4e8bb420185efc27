"""The recompute plan: how a budget is spent on a prompt, before any row is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from semshare_core.budget.needs import Needs
from semshare_core.budget.schedule import rows_per_layer
from semshare_core.config import ReusePolicy
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.select import Priority, Selection

_PROBE_SHARE = 0.25  # of the budget, at most, goes into a first layer for all tokens


@dataclass(frozen=True)
class Budget:
    """How much may be computed.

    Attributes:
        ratio: ceiling of computed tokens / prompt tokens, averaged over layers, first layer and last token included.
        fill: spend all of it (a ratio asked for), or only what the strategy finds worth it (a level's ceiling).
        least: share of the prompt that is worth computing even where the plan shows no change.
    """

    ratio: float
    fill: bool
    least: float = 0.0


@dataclass(frozen=True)
class Layers:
    """What a budget must know of a model.

    Attributes:
        count: its decoder layers.
        observable: whether it shows its attention weights, so that the question can be watched.
    """

    count: int
    observable: bool = True


@dataclass(frozen=True)
class RecomputePlan:
    """Which rows of one prompt are computed. Prefill ranks within it: it says how many, the selection says which.

    Attributes:
        suffix: bool [n], tokens that may be computed: those behind the prefix, without the last.
        must: bool [n], tokens that are computed in every layer.
        first: bool [n], tokens that go before any ranking.
        counts: int64 [layers], rows computed at each. Never growing.
        ranked: whether there is anything to choose behind ``first``.
        probe: measure deviations: the first layers are computed for all tokens.
        watched: the last tokens to observe as they read, which costs as many rows in every layer; 0: none.
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
        """Whether the ranking needs a look at the model's own rows first."""
        return self.probe or self.watched > 0

    @property
    def layer_rows(self) -> int:
        """Rows computed, summed over the layers, with what observing costs."""
        return int(self.counts.sum()) + self.watched * len(self.counts)

    def extend(self, rows: int) -> RecomputePlan:
        """With ``rows`` more at each layer, as far as there are tokens. A prefill may ask for that once."""
        return replace(self, counts=np.minimum(self.counts + rows, int(self.suffix.sum())))

    def rows(self, priority: Priority | None) -> list[NDArray[np.int64]]:
        """Ascending positions per layer, each a subset of the layer's before.

        Tokens that must be computed come first, then ``first``, then the others by falling ``priority`` [n].
        """
        worth = np.zeros(len(self.suffix)) if priority is None else priority
        order = np.lexsort((-worth, ~self.first, ~self.must))
        order = order[self.suffix[order]]
        return [np.sort(order[:count]) for count in self.counts]


def plan_recompute(
    plan: ReusePlan, needs: Needs, selection: Selection, policy: ReusePolicy, budget: Budget, layers: Layers
) -> RecomputePlan:
    """Spend ``budget`` on what ``needs`` names.

    Where the model's attention is not observable nothing is watched.
    """
    n, needs = len(plan), needs.but_last()
    n_suffix, must = int(needs.suffix.sum()), needs.must
    spend = budget.ratio * n * layers.count - layers.count  # the last token passes through every layer, too
    ranked = bool(must.sum() < n_suffix) and layers.count > 1  # one layer shows nothing before it is computed
    most = n_suffix
    if not budget.fill:
        most = min(most, max(int(needs.worth.sum()), int(budget.least * n)))
    if most == n_suffix and spend >= n_suffix * layers.count - 1e-6:  # everything may be computed: nothing to choose
        ranked, must = False, needs.suffix
    n_must = int(must.sum())
    room = min(spend / layers.count, most)
    watched = min(selection.watched_tokens, n)  # their attention stands for the answer's
    influence = selection.needs_influence and room - n_must >= 2 * watched and layers.observable
    first, crowded = _foremost(must, plan, needs.worth, room, sparing=influence)
    watches = ranked and ((selection.needs_hot and layers.observable) or influence)
    spend -= watched * layers.count if watches else 0
    # a first layer for all tokens must leave rows to choose, most of them
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
    """Tokens that go before any ranking, and whether the changed tokens among those worth it exceed the room.

    Changed tokens go first where they leave half of the room: a stale fact is the worst that reuse can do, and no
    ranking by influence sees every fact in time. Without such a ranking (not ``sparing``) all that is worth it goes
    first as long as it fits.
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
