"""Built-in pairs in the place of pairs that cannot be measured, so that a run does not end with too few.

A pair cannot be measured if a prompt is too long for the model, if the model has no chat template for its messages, or
if the target could reuse nothing. The first two are seen before anything is computed. A pair is replaced by one of its
own kind if there is one, so that the kinds keep their shares.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from semshare_core.budget.calibration import Observation
from semshare_core.calibrate.journal import Journal
from semshare_core.calibrate.measuring import measure_pairs
from semshare_core.calibrate.prompts import CalibrationPair, default_pairs
from semshare_core.engine import SemShareEngine
from semshare_core.errors import ConfigError, PromptError

_SEEDS = range(1, 13)  # of built-in pairs that the run itself does not take
_A_SEED = 70  # pairs: one round of kinds in five is long


class Substitutes:
    """Spare pairs that fit the engine's model. Equal models get equal pairs, so that a journal knows them again.

    Attributes:
        used: the number of pairs that were given out.
    """

    def __init__(self, engine: SemShareEngine) -> None:
        self.used = 0
        self._engine = engine
        self._ahead: defaultdict[str, deque[CalibrationPair]] = defaultdict(deque)
        self._spare = self._fitting()

    def why_not(self, pair: CalibrationPair) -> str:
        """Why the model cannot read a pair's prompts; empty if it can."""
        try:
            for prompt in (*pair.references, pair.target):
                self._engine.token_ids(prompt)
        except PromptError as error:
            return str(error)
        return ""

    def take(self, kind: str) -> CalibrationPair | None:
        """A spare pair, of ``kind`` if there is such a built-in kind; None if no spare pair is left."""
        if not self._ahead[kind]:
            for pair in self._spare:
                self._ahead[pair.kind].append(pair)
                if pair.kind == kind:
                    break
        chosen = self._ahead[kind] or max(self._ahead.values(), key=len)
        if not chosen:
            return None
        self.used += 1
        return chosen.popleft()

    def _fitting(self) -> Iterator[CalibrationPair]:
        for seed in _SEEDS:
            for pair in default_pairs(_A_SEED, seed):
                if not self.why_not(pair):
                    yield replace(pair, id=f"{pair.id}-spare{seed}")


def fitting_pairs(
    pairs: Sequence[CalibrationPair], wanted: int, spare: Substitutes, log: Callable[[str], None]
) -> list[CalibrationPair]:
    """The pairs that the model can read, with spare ones in the place of others until they are ``wanted``.

    Args:
        log: gets a line for each pair that cannot be read.

    Raises:
        ConfigError: there are fewer than ``wanted``, even with all spare pairs. Nothing has been computed yet.
    """
    faults = [spare.why_not(pair) for pair in pairs]
    missing = wanted - faults.count("")
    found = []
    for pair, fault in zip(pairs, faults, strict=True):
        if not fault:
            found.append(pair)
            continue
        other = spare.take(pair.kind) if missing > 0 else None
        log(f"{pair.id}: {'left out' if other is None else f'{other.id} instead'}: {fault}")
        if other is not None:
            found.append(other)
            missing -= 1
    if missing > 0:
        raise ConfigError(
            f"{wanted} pairs of prompts are needed, and the model can read {len(found)}, the built-in ones included. "
            "Bring shorter prompts, or messages only if the model has a chat template (--prompts)."
        )
    return found


def measure_enough(
    engine: SemShareEngine,
    pairs: Sequence[CalibrationPair],
    wanted: int,
    spare: Substitutes,
    log: Callable[[str], None],
    *,
    journal: Journal | None = None,
) -> list[Observation]:
    """Measure ``pairs``, and spare ones in the place of those that could reuse nothing, until ``wanted`` are measured.

    If no spare pair is left, there are fewer.
    """
    found = measure_pairs(engine, pairs, log, journal=journal)
    measured = {item.id for item in found}
    failed = deque(pair.kind for pair in pairs if pair.id not in measured)
    while len(found) < wanted and failed:
        kind = failed.popleft()
        other = spare.take(kind)
        if other is None:
            break
        more = measure_pairs(engine, [other], log, journal=journal)
        found += more
        if not more:
            failed.append(kind)
    return found
