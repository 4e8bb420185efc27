"""The governor's decision for a policy, as a request asks for it."""

from __future__ import annotations

from typing import Any

from semshare_core.budget.goal import Goal
from semshare_core.budget.governor import Decision, decide
from semshare_core.budget.recompute import Layers
from semshare_core.config import ReusePolicy
from semshare_core.match.plan import ReusePlan


def decided(plan: ReusePlan, policy: ReusePolicy, fresh_from: int, **known: Any) -> Decision:
    """For a model of four layers."""
    return decide(plan, Goal(policy), fresh_from, layers=Layers(4), **known)
