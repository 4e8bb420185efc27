"""A calibration: how far one model's reused answers lie from the full prefill's, and what each level spends for it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from semshare_core.budget.cost import CostModel
from semshare_core.budget.features import Situation, features_of
from semshare_core.budget.forecast import KL_FLOOR, Forecast, log_kl
from semshare_core.budget.levels import BOUNDS
from semshare_core.budget.spread import Spread
from semshare_core.calibrate.risk import chosen, margin_for
from semshare_core.errors import ConfigError
from semshare_core.report.reasons import NO_REASON, Reason, ReasonText

RATIOS = (0.05, 0.065, 0.085, 0.11, 0.14, 0.18, 0.25, 0.35, 0.5, 0.58, 0.68, 0.8)
"""Recompute ratios: :func:`tried` says which of them are measured on a pair, :func:`choices` which a level may take."""

_HALF, _ALIKE = 0.5, 0.8
_AT_LEAST = 0.15  # chosen by cross-validation: from 0.12 to 0.25 levels spend the same

LEAST_PAIRS = 45
"""Fewer cannot show a promise of 5 % kept: not one broken call among them would be proof enough."""

_FOLDS = 10
_UNLIKE = 0.05  # of the prompt: a share beyond the highest measured by more is another kind of prompt


class Observation(BaseModel):
    """One pair of prompts, measured.

    Attributes:
        id: of the pair; ``prompts``: a digest of its texts; ``kind`` of work.
        situation: what was known beforehand.
        kl: KL(full prefill || reuse) in nats at each of the ratios tried, mean over the first 32 tokens of the answer.
        seconds: TTFT at each of them; ``full_seconds`` of the full prefill.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    id: str
    prompts: str
    kind: str
    situation: Situation
    kl: list[float]
    seconds: list[float]
    full_seconds: float


class Calibration(BaseModel):
    """What was measured of a model, and what follows from it.

    Attributes:
        format: counts up with whatever changes what is measured or how it is read: features, forecast, usual errors and
            selection, too, because margins belong to those they were chosen by.
        fingerprint: of model, tokenizer and dtype.
        prompts: what it was calibrated on, in words.
        ratios: that were tried, not all of them on every pair.
        margins: by level, in usual errors of the forecast; None: no margin keeps that promise, and such calls reuse
            nothing but prefixes.
        spread: the usual errors.
        cost: the time of a prefill.
        observations: all that was measured; the forecast is fitted to them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[8] = 8
    fingerprint: dict[str, str]
    prompts: str
    ratios: list[float]
    margins: dict[str, float | None]
    spread: Spread
    cost: CostModel
    observations: list[Observation] = Field(repr=False)

    @classmethod
    def of(
        cls, observations: Sequence[Observation], fingerprint: Mapping[str, str], prompts: str, ratios: Sequence[float]
    ) -> Calibration:
        """Choose each level's margin by forecasts that have not seen the call (cross-fitting).

        Raises:
            ConfigError: too few observations to show that a promise is kept.
        """
        check_enough(len(observations))
        situations = [item.situation for item in observations]
        kl = measured(observations, ratios)
        tokens = _tokens(situations)
        forecast, spread, errors = cross_fitted(situations, kl, ratios)
        kinds = [item.kind for item in observations]
        margins = {
            level: margin_for(forecast, spread, log_kl(kl), float(log_kl(bound.kl)), bound.share, kinds)
            for level, bound in BOUNDS.items()
        }
        cost = CostModel.fit(
            tokens,
            np.array([item.full_seconds for item in observations]),
            np.array([[float(situation.computed(ratio)) for ratio in ratios] for situation in situations]),
            _padded([item.seconds for item in observations], len(ratios)),
        )
        return cls(
            fingerprint=dict(fingerprint),
            prompts=prompts,
            ratios=list(ratios),
            margins=margins,
            spread=Spread.fit(tokens, errors),
            cost=cost,
            observations=list(observations),
        )

    @functools.cached_property
    def forecast(self) -> Forecast:
        """Fitted to all observations."""
        features = features_of([item.situation for item in self.observations], self.ratios)
        return Forecast(features, measured(self.observations, self.ratios))

    def prepare(self) -> None:
        """Fit the forecast now, and not within the first call that asks for it: it takes some tenths of a second."""
        _ = self.forecast

    @functools.cached_property
    def name(self) -> str:
        """The same eight hexadecimal digits for the same measurements."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=4).hexdigest()

    def ratio_for(self, level: str, situation: Situation) -> float | None:
        """The smallest ratio that keeps the level's promise; None: none of those tried does."""
        margin = self.margins.get(level)
        if margin is None:
            return None
        ratios = self.choices(situation)
        if not ratios:
            return None
        expected = self.forecast.log_kl(features_of([situation], ratios))
        index = chosen(expected, self.spread.of(np.array([situation.tokens])), float(log_kl(BOUNDS[level].kl)), margin)
        return ratios[index[0]] if index[0] >= 0 else None

    def choices(self, situation: Situation) -> list[float]:
        """The ratios that a level may take for such a prompt, ascending; none where too little is left to reuse."""
        return choices(situation, self.ratios)

    def expected_kl(self, situation: Situation, ratio: float) -> float:
        """The forecast KL in nats: half of such calls lie beyond it."""
        return max(0.0, float(np.exp(self.forecast.log_kl(situation.features(ratio))) - KL_FLOOR))

    def unlike(self, situation: Situation) -> ReasonText:
        """In what a prompt is unlike all that was measured; no reason if in nothing that matters."""
        for name, value in situation.shares.items():
            highest = self._highest_shares[name]
            if value > highest + _UNLIKE:
                return Reason.UNLIKE_CALIBRATION.text(feature=name, share=value, highest=highest)
        return NO_REASON

    @functools.cached_property
    def _highest_shares(self) -> dict[str, float]:
        """Of all that was measured."""
        shares = [item.situation.shares for item in self.observations]
        return {name: max(each[name] for each in shares) for name in shares[0]}

    def pays(self, situation: Situation, ratio: float) -> bool:
        """Whether reuse is predicted to take less time than computing everything behind the prefix."""
        prefix = situation.tokens - situation.window
        full = self.cost.full(situation.tokens) - self.cost.full(prefix) + self.cost.laid * prefix  # laid by both
        return self.cost.reuse(situation.tokens, situation.computed(ratio)) < full

    def to_json(self) -> str:
        """As pydantic reads it again, an observation a line."""
        head = self.model_dump(mode="json", exclude={"observations"})
        rows = [json.dumps(item.model_dump(mode="json")) for item in self.observations]
        text = json.dumps(head, indent=1)
        return text[:-2] + ',\n "observations": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"


def tried(situation: Situation, ratios: Sequence[float] = RATIOS) -> list[float]:
    """Those of ``ratios``, ascending, that are measured on a prompt: those above a half only where much of what stands
    behind its prefix is in no identical run.

    More than half of such a prompt may have to be computed in any case, so that small ratios choose nothing beyond it;
    of a prompt that is the same but for its order the rows chosen last no longer matter.
    """
    return [ratio for ratio in ratios if ratio <= _HALF or not _alike(situation)]


def choices(situation: Situation, ratios: Sequence[float] = RATIOS) -> list[float]:
    """Those of the ratios tried that a level may take, ascending; none where too little is left to reuse.

    Where passages stand among much that is new, it depends on a few rows of theirs how far the answer lies from the
    full prefill's, and no forecast sees by how much: as many rows are computed as the strategy finds worth it by the
    plan, or 15 % beyond those that must be.
    """
    offered = tried(situation, ratios)
    if _alike(situation):
        return offered
    least = min(situation.worth, situation.must + _AT_LEAST * situation.window)
    return [ratio for ratio in offered if situation.computed(ratio) >= least]


def _alike(situation: Situation) -> bool:
    return situation.exact >= _ALIKE * situation.window


def _tokens(situations: Sequence[Situation]) -> NDArray[np.float64]:
    return np.array([float(situation.tokens) for situation in situations])


def measured(observations: Sequence[Observation], ratios: Sequence[float]) -> NDArray[np.float64]:
    """KL in nats [observations, ratios]; NaN where a ratio was not tried.

    Raises:
        ConfigError: an observation is of other ratios, or holds what is not a number.
    """
    for item in observations:
        if not len(item.kl) == len(item.seconds) == len(tried(item.situation, ratios)):
            raise ConfigError(f"Pair {item.id} was measured at other ratios. Measure it again.")
        if not np.isfinite([*item.kl, *item.seconds]).all():
            raise ConfigError(
                f"What was measured of pair {item.id} is not a number. Leave it out, or use another dtype."
            )
    return _padded([item.kl for item in observations], len(ratios))


def _padded(rows: Sequence[Sequence[float]], width: int) -> NDArray[np.float64]:
    table = np.full((len(rows), width), np.nan)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table


def check_enough(pairs: int) -> None:
    """Raises ConfigError if so many pairs of prompts cannot show that a promise is kept."""
    if pairs < LEAST_PAIRS:
        raise ConfigError(
            f"{pairs} pairs of prompts are too few: it takes {LEAST_PAIRS} to show that at most "
            f"{BOUNDS['balanced'].share:.0%} of calls break a bound. Bring more prompts that resemble earlier ones."
        )


def cross_fitted(
    situations: Sequence[Situation], kl: NDArray[np.float64], ratios: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Forecast log KL [calls, ratios], its usual error [calls] and its error [calls, ratios], by fits to other folds.

    As in CV+ (arXiv 1905.02928). The forecast is infinite where a level may not choose a ratio, the error NaN where
    ``kl`` [calls, ratios] is.
    """
    features, tokens = features_of(situations, ratios), _tokens(situations)
    fold = np.arange(len(kl)) % _FOLDS
    forecast, spread = np.empty_like(kl), np.empty(len(kl))
    for number in range(_FOLDS):
        out = fold == number
        forecast[out] = Forecast(features[~out], kl[~out]).log_kl(features[out])
    errors = log_kl(kl) - forecast
    for number in range(_FOLDS):
        out = fold == number
        spread[out] = Spread.fit(tokens[~out], errors[~out]).of(tokens[out])
    offered = np.array([np.isin(ratios, choices(situation, ratios)) for situation in situations])
    return np.where(offered & ~np.isnan(kl), forecast, np.inf), spread, errors
