"""Measure how far a model's reused answers lie from the full prefill's, on pairs of prompts.

Each pair is prefilled in full and at each ratio. Each cache then reads the full prefill's answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b

from semshare_core.budget.calibration import Observation, measured_ratios
from semshare_core.budget.levels import MEASURED_TOKENS
from semshare_core.calibrate.journal import Journal
from semshare_core.calibrate.prompts import CalibrationPair
from semshare_core.config import ReusePolicy
from semshare_core.engine import SemShareEngine
from semshare_core.errors import NumericalError, PromptError
from semshare_core.model.computing import computing
from semshare_core.quality.divergence import Continuation, Divergence

_NAMESPACE = "calibration"


def measure_pair(
    engine: SemShareEngine, pair: CalibrationPair, ratios: Sequence[float] | None = None
) -> Observation | None:
    """Measure one pair in an extra namespace. Returns None if the target could reuse nothing.

    Args:
        ratios: the ratios to measure; default: :func:`semshare_core.budget.calibration.measured_ratios`.

    Raises:
        PromptError: a prompt is empty, or too long for the model.
        NumericalError: the model's logits are not numbers.
    """
    engine.pool.clear(_NAMESPACE)
    try:
        engine.warm(pair.references, namespace=_NAMESPACE)
        features = engine.plan_features(pair.target, namespace=_NAMESPACE)
        if features is None:
            return None
        room = engine.context - features.tokens
        full = engine.prefill(pair.target, reuse="off", store=False, namespace=_NAMESPACE)
        with computing(engine.model):
            answer, expected = Continuation(engine.model, full.cache).greedy(full.logits, min(MEASURED_TOKENS, room))
        kl, seconds = [], []
        for ratio in measured_ratios(features) if ratios is None else ratios:
            reused = engine.prefill(
                pair.target, reuse=ReusePolicy(recompute_ratio=ratio), store=False, namespace=_NAMESPACE
            )
            with computing(engine.model):
                actual = Continuation(engine.model, reused.cache).follow(reused.logits, answer)
            kl.append(float(Divergence.between(expected, actual).kl.mean()))
            if not math.isfinite(kl[-1]):
                raise NumericalError(f"{pair.id} at a ratio of {ratio}: the KL is {kl[-1]}. Use another dtype.")
            seconds.append(reused.report.ttft_ms / 1e3)
    finally:
        engine.pool.clear(_NAMESPACE)
    return Observation(
        id=pair.id,
        prompts=_digest(pair),
        kind=pair.kind,
        features=features,
        kl=kl,
        seconds=seconds,
        full_seconds=full.report.ttft_ms / 1e3,
    )


def measure_pairs(
    engine: SemShareEngine,
    pairs: Iterable[CalibrationPair],
    log: Callable[[str], None],
    *,
    journal: Journal | None = None,
) -> list[Observation]:
    """Measure ``pairs`` one after the other. Pairs that cannot be measured are logged and left out.

    Args:
        log: gets a line for each pair.
        journal: gets each observation. Its earlier observations are not measured again.
    """
    done = {item.prompts: item for item in journal.read()} if journal else {}
    observations = []
    engine.prefill("The first call of a process is slower than those that follow.", reuse="off", store=False)
    for pair in pairs:
        item = done.get(_digest(pair))
        if item is None:
            try:
                item = measure_pair(engine, pair)
            except PromptError as error:
                log(f"{pair.id}: left out: {error}")
                continue
            if item is None:
                log(f"{pair.id}: left out: nothing of it could be reused")
                continue
            if journal:
                journal.append(item)
        log(f"{pair.id:<20} {item.features.tokens:>6}        {' '.join(f'{value:.3f}' for value in item.kl)}")
        observations.append(item)
    return observations


def _digest(pair: CalibrationPair) -> str:
    return blake2b(json.dumps([pair.references, pair.target]).encode(), digest_size=8).hexdigest()
