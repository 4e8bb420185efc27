"""The accounts in chains that were measured under an earlier fit, as the present fit would have them.

The features of a turn have the accounts of the rows that it drew on. They came from the forecast of that time. What was
measured does not depend on them, so the turns serve a later fit as soon as their accounts are those of its forecast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from semshare_core.budget.calibration import Observation
from semshare_core.budget.features import PlanFeatures


def with_accounts(
    observations: Sequence[Observation], kl: NDArray[np.float64], upper: NDArray[np.float64]
) -> list[Observation]:
    """The observations with accounts from a forecast. Approximate rows are taken to be of the turn before.

    Args:
        observations: of pairs and chains.
        kl: float64 [observations, ratios], as measured.
        upper: float64 [observations, ratios], in nats, the account of a call at each ratio.
    """
    found = list(observations)
    before: dict[str, float] = {}  # the account of each chain's last turn
    for number in sorted(range(len(found)), key=lambda number: found[number].turn):
        item = found[number]
        if not item.chain:
            continue
        features = _drawing_on(item.features, before.get(item.unit))
        found[number] = item.model_copy(update={"features": features})
        served = np.flatnonzero(kl[number] == item.served_kl)
        if served.size:
            before[item.unit] = features.with_kept(float(upper[number, served[0]]))
        else:  # computed in full, or by another plan: whose rows come next is not known
            before.pop(item.unit, None)
    return found


def _drawing_on(features: PlanFeatures, account: float | None) -> PlanFeatures:
    """The features of a turn whose approximate rows have ``account``; None: they keep theirs."""
    if not features.approximate:
        return features
    if account is None:
        account = features.inherited * features.tokens / features.approximate
    return replace(features, inherited=account * features.approximate / features.tokens, kept=account)
