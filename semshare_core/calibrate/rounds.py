"""A calibration from its pairs to its last fit: pairs, a fit, chains under that fit, a fit, other chains, the last fit.

What a policy finds in the pool depends on what it did before, so chains are measured under the fit so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from semshare_core.budget.calibration import RATIOS, Calibration, Observation
from semshare_core.calibrate.chains import draw_chains
from semshare_core.calibrate.fitting import fit_calibration
from semshare_core.calibrate.journal import Journal, read_journal
from semshare_core.calibrate.measuring import measure_pairs, pair_digest
from semshare_core.calibrate.measuring_chains import measure_chains
from semshare_core.calibrate.prompts import CalibrationPair
from semshare_core.calibrate.substitutes import Substitutes, measure_enough
from semshare_core.engine import SemShareEngine
from semshare_core.errors import ConfigError
from semshare_core.quality.calibration_files import read_calibration

T = TypeVar("T")

ROUNDS = 2
"""So many times chains are measured and the fit is made again."""


@dataclass(frozen=True)
class Part:
    """A share of the work, for several processes: each takes every ``of``-th pair and chain, from ``number`` on."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """``"1/2"`` is the first of two parts.

        Raises:
            ConfigError: the text is not like that.
        """
        number, _, of = text.partition("/")
        if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
            raise ConfigError(f"--part={text} is no part: the first of two is 1/2, the second is 2/2.")
        return cls(int(number), int(of))

    def of_these(self, items: Sequence[T]) -> Sequence[T]:
        """This part's pairs or chains."""
        return items[self.number - 1 :: self.of]


def merged(*several: Iterable[Observation]) -> list[Observation]:
    """All observations, each once, in their order."""
    return list({(item.unit, item.turn): item for items in several for item in items}.values())


def earlier_observations(
    paths: Iterable[Path], fingerprint: Mapping[str, str], device: str = "cpu"
) -> tuple[list[Observation], Calibration | None]:
    """The observations of calibrations and journals (``.jsonl``), and the first calibration.

    Raises:
        ConfigError: a file cannot be read, belongs to another model, or was measured on another kind of device.
    """
    observations: list[list[Observation]] = []
    first = None
    for path in paths:
        if path.suffix == ".jsonl":
            observations.append(read_journal(path, fingerprint))
            continue
        found = read_calibration(path)
        if found.fingerprint != fingerprint or found.ratios != list(RATIOS):
            raise ConfigError(f"{path} is the calibration of another model or dtype, or has other ratios.")
        if found.cost.device != device:
            raise ConfigError(
                f"{path} was measured on {found.cost.device}, and its times say nothing of {device}: extend it on the "
                "same kind of device (--device), or calibrate anew without --extend."
            )
        first = first or found
        observations.append(found.observations)
    return merged(*observations), first


def missing(pairs: Sequence[CalibrationPair], known: Iterable[Observation]) -> list[CalibrationPair]:
    """The pairs that no known observation is of."""
    measured = {item.prompts for item in known}
    return [pair for pair in pairs if pair_digest(pair) not in measured]


def measure_all(
    engine: SemShareEngine,
    pairs: Sequence[CalibrationPair],
    chains: int,
    known: Sequence[Observation],
    journal: Journal,
    log: Callable[[str], None],
    *,
    fingerprint: Mapping[str, str],
    source: str,
    spare: Substitutes | None = None,
    wanted: int = 0,
    seed: int = 0,
) -> Calibration:
    """Measure pairs and :data:`ROUNDS` rounds of chains, each under the fit so far. Returns the last fit.

    Args:
        pairs: those that are not known.
        chains: in each round.
        known: earlier observations.
        source: describes the pairs.
        spare: gives pairs in the place of those that could reuse nothing, until ``wanted`` are measured.
        seed: of the chains.
    """
    spare = spare or Substitutes(engine)
    found = merged(known, measure_enough(engine, pairs, wanted, spare, log, journal=journal))
    if spare.used:
        source = f"{source}, {spare.used} of them built-in substitutes"
    made = fit_calibration(found, fingerprint, source_of(found, source), RATIOS, engine.model.device.type)
    for number in range(1, ROUNDS + 1 if chains else 1):
        log(f"round {number} of {ROUNDS}: {chains} chains under calibration {made.name}")
        served = under(engine, made)
        found = merged(found, measure_chains(served, draw_chains(chains, seed, number), log, journal=journal))
        made = fit_calibration(found, fingerprint, source_of(found, source), RATIOS, engine.model.device.type)
    return made


def measure_part(
    engine: SemShareEngine,
    part: Part,
    pairs: Sequence[CalibrationPair],
    chains: int,
    base: Calibration | None,
    journal: Journal,
    log: Callable[[str], None],
    *,
    seed: int = 0,
) -> None:
    """Measure a part of the pairs, and of one round of chains under the calibration ``base``. The journal keeps them.

    Raises:
        ConfigError: there are chains to measure and no calibration.
    """
    if chains and base is None:
        raise ConfigError("Chains are measured under a calibration: pass --extend CALIBRATION, or --chains 0.")
    measure_pairs(engine, part.of_these(pairs), log, journal=journal)
    if base is not None:
        drawn = part.of_these(draw_chains(chains, seed))
        measure_chains(under(engine, base), drawn, log, journal=journal)


def under(engine: SemShareEngine, calibration: Calibration) -> SemShareEngine:
    """An engine for the same model with another calibration and an empty pool."""
    return SemShareEngine(engine.model, engine.tokenizer, pool=engine.pool.config, calibration=calibration)


def source_of(observations: Sequence[Observation], prompts: str) -> str:
    """What a calibration was made of, in words."""
    pairs = len({item.unit for item in observations if not item.chain})
    chains = len({item.unit for item in observations if item.chain})
    return f"{pairs} pairs of {prompts}" + (f" and {chains} chains" if chains else "")
