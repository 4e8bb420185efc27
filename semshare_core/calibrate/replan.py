"""Earlier observations with the features of today.

New features of plans need no new measurement: the KL of a pair depends on the rows that were computed, and its features
on the plan alone. A plan depends on tokens, not on rows. So nothing is computed: the pool gets the earlier prompts with
empty rows, and the target is only looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, fields

import numpy as np
import torch

from semshare_core.budget.calibration import Observation
from semshare_core.budget.features import PlanFeatures
from semshare_core.calibrate.measuring import pair_digest
from semshare_core.calibrate.prompts import CalibrationPair
from semshare_core.engine import SemShareEngine
from semshare_core.model.computing import computing
from semshare_core.pool import Entry
from semshare_core.prompt.encode import Prompt

_NAMESPACE = "plans of a calibration"


def replan(
    engine: SemShareEngine,
    pairs: Iterable[CalibrationPair],
    observations: Sequence[Observation],
    log: Callable[[str], None],
) -> list[Observation]:
    """``observations``, in their order, with the features that the engine finds now.

    Left out and logged: an observation whose pair is not among ``pairs``, and one whose plan is another one now (its KL
    would belong to other rows). Only features that have a default may differ, because earlier versions did not have
    them.

    Args:
        engine: with the calibrated model and policy. Its pool is used in an extra namespace.
        pairs: the prompts of the observations.
        log: gets a line for each observation.
    """
    by_digest = {pair_digest(pair): pair for pair in pairs}
    found = []
    for item in observations:
        pair = by_digest.get(item.prompts)
        features = None if pair is None else _features(engine, pair)
        if features is None:
            log(f"{item.id}: left out: its prompts are not there")
        elif not _same_plan(features, item.features):
            log(f"{item.id}: left out: its plan has changed, so it must be measured again")
        else:
            log(f"{item.id}: {features.tokens} tokens")
            found.append(item.model_copy(update={"features": features}))
    return found


def _features(engine: SemShareEngine, pair: CalibrationPair) -> PlanFeatures | None:
    engine.pool.clear(_NAMESPACE)
    try:
        for reference in pair.references:
            _add_without_rows(engine, reference)
        return engine.plan_features(pair.target, namespace=_NAMESPACE)
    finally:
        engine.pool.clear(_NAMESPACE)


def _add_without_rows(engine: SemShareEngine, prompt: Prompt) -> None:
    """Pool a prompt as ``engine.warm`` would, but with one empty row a token."""
    tokens = np.array(engine.token_ids(prompt), np.int64)
    runtime = engine._runtime
    empty = torch.zeros(1, 1, len(tokens), 1)
    with engine._lock, computing(engine.model):
        weights = runtime.identify()
    lossless = np.zeros(len(tokens), bool)
    vectors = runtime.vectors.of(tokens)
    engine.pool.add(Entry.of_rows(_NAMESPACE, tokens, [(empty, empty)], lossless, vectors, weights=weights))


def _same_plan(now: PlanFeatures, before: PlanFeatures) -> bool:
    """Whether all features that are integers and have no default are equal: those count the plan's tokens."""
    counted = [field.name for field in fields(PlanFeatures) if field.type == "int" and field.default is MISSING]
    return all(getattr(now, name) == getattr(before, name) for name in counted)
