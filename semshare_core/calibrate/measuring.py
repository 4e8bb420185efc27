"""Measure how far a model's reused answers lie from the full prefill's, on pairs of prompts.

Each pair is prefilled in full and at each ratio. Each cache then reads the full prefill's answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b

from semshare_core.budget.calibration import Observation, measured_ratios
from semshare_core.calibrate.full_answer import NAMESPACE, FullAnswer
from semshare_core.calibrate.journal import Journal
from semshare_core.calibrate.prompts import CalibrationPair
from semshare_core.config import ReusePolicy
from semshare_core.engine import SemShareEngine
from semshare_core.errors import PromptError


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
    engine.pool.clear(NAMESPACE)
    try:
        engine.warm(pair.references, namespace=NAMESPACE)
        features = engine.plan_features(pair.target, namespace=NAMESPACE)
        if features is None:
            return None
        measured = measured_ratios(features) if ratios is None else list(ratios)
        full = FullAnswer.to(engine, pair.target)
        kl, seconds = [], []
        for ratio in measured:
            policy = ReusePolicy(recompute_ratio=ratio)
            reused = engine.prefill(pair.target, reuse=policy, store=False, namespace=NAMESPACE)
            kl.append(full.kl(engine, reused, f"{pair.id} at a ratio of {ratio}"))
            seconds.append(reused.report.ttft_ms / 1e3)
    finally:
        engine.pool.clear(NAMESPACE)
    return Observation(
        id=pair.id,
        prompts=pair_digest(pair),
        kind=pair.kind,
        features=features,
        ratios=measured,
        kl=kl,
        seconds=seconds,
        full_seconds=full.seconds,
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
        item = done.get(pair_digest(pair))
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
                journal.append([item])
        log(f"{pair.id:<20} {item.features.tokens:>6}        {' '.join(f'{value:.3f}' for value in item.kl)}")
        observations.append(item)
    return observations


def pair_digest(pair: CalibrationPair) -> str:
    """A digest of the pair's texts, by which a later run knows it again."""
    return blake2b(json.dumps([pair.references, pair.target]).encode(), digest_size=8).hexdigest()
