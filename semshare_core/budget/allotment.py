"""What a plan needs computed, and how a budget is spent on it, before any row is computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semshare_core.budget.schedule import rows_per_layer
from semshare_core.config import ReusePolicy
from semshare_core.match.context import misaligned
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.select import Selection

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
class Needs:
    """Tokens of a prompt by what is known of them from the plan, bool [n] each.

    Attributes:
        suffix: behind the prefix: whatever may be computed at all.
        must: computed whatever the budget: new tokens, the question, facts that differ, misaligned tokens, and the
            first token of the prompt or of a reference where it is not the first of the other.
        worth: those, and the tokens that the strategy finds worth computing by the plan alone.
    """

    suffix: NDArray[np.bool_]
    must: NDArray[np.bool_]
    worth: NDArray[np.bool_]

    @classmethod
    def of(cls, plan: ReusePlan, selection: Selection, fresh_from: int) -> Needs:
        suffix = plan.source != Source.PREFIX
        must = suffix & ((plan.source == Source.NEW) | (np.arange(len(plan)) >= fresh_from))
        if plan.stale is not None and selection.computes_stale:
            must |= suffix & plan.stale
            must |= suffix & misaligned(plan)
        # the first token is the attention sink of every head: no other row can stand in for it, nor it for another
        must |= suffix & ((plan.position == 0) != (np.arange(len(plan)) == 0))
        return cls(suffix, must, must | (suffix & selection.structural(plan)))

    def but_last(self) -> Needs:
        """Without the last token, whose rows belong to the first decoding step."""
        rows = but_last(len(self.suffix))
        return Needs(self.suffix & rows, self.must & rows, self.worth & rows)


def but_last(n: int) -> NDArray[np.bool_]:
    """The rows a prefill computes: the last token belongs to the first decoding step."""
    rows = np.ones(n, bool)
    rows[-1] = False
    return rows


@dataclass(frozen=True)
class Allotment:
    """How the budget of one prompt is spent.

    Attributes:
        counts: int64 [layers], rows computed at each.
        first: bool [n], tokens that go before any ranking.
        ranked: whether there is anything to choose behind them.
        probe: measure deviations: the first layers are computed for all tokens.
        watched: the last tokens to observe as they read, which costs as many rows in every layer; 0: none.
    """

    counts: NDArray[np.int64]
    first: NDArray[np.bool_]
    ranked: bool
    probe: bool
    watched: int


def allot(
    plan: ReusePlan,
    needs: Needs,
    selection: Selection,
    policy: ReusePolicy,
    budget: Budget,
    n_layers: int,
    *,
    observable: bool = True,
) -> Allotment:
    """Spend ``budget`` on what ``needs`` names (without the last token, which is paid for here).

    Where the model's attention is not ``observable`` nothing is watched.
    """
    n, n_suffix, must = len(plan), int(needs.suffix.sum()), needs.must
    spend = budget.ratio * n * n_layers - n_layers  # the last token passes through every layer, too
    ranked = bool(must.sum() < n_suffix) and n_layers > 1  # one layer shows nothing before it is computed
    most = n_suffix
    if not budget.fill:
        most = min(most, max(int(needs.worth.sum()), int(budget.least * n)))
    if most == n_suffix and spend >= n_suffix * n_layers - 1e-6:  # everything may be computed: nothing to choose
        ranked, must = False, needs.suffix
    n_must = int(must.sum())
    room = min(spend / n_layers, most)
    watched = min(selection.watched_tokens, n)  # their attention stands for the answer's
    affordable = room - n_must >= 2 * watched
    influence = selection.needs_influence and affordable and observable
    first, crowded = _foremost(must, plan, needs.worth, room, sparing=influence)
    watches = ranked and ((selection.needs_hot and observable) or influence)
    spend -= watched * n_layers if watches else 0
    # a first layer for all tokens must leave rows to choose, most of them
    crowded = crowded and n_suffix + (n_layers - 1) * n_must < spend and n_suffix <= _PROBE_SHARE * spend
    probe = ranked and (selection.needs_deviation or (crowded and selection.needs_deviation_when_crowded))
    counts = rows_per_layer(
        spend,
        n_layers,
        policy.schedule,
        policy.decay,
        first=n_suffix if probe else None,
        minimum=n_must,
        maximum=most,
    )
    return Allotment(counts, first, ranked, probe, watched if watches else 0)


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
