"""A calibration: how far one model's reused answers lie from the full prefill's, and what each level spends for it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from semshare_core.budget.cost import CostModel
from semshare_core.budget.features import PlanFeatures, feature_matrix
from semshare_core.budget.forecast import KL_FLOOR, Forecast, log_kl
from semshare_core.budget.levels import BOUNDS
from semshare_core.budget.spread import Spread
from semshare_core.errors import ConfigError
from semshare_core.report.reasons import NO_REASON, Reason, ReasonText

RATIOS = (0.05, 0.065, 0.085, 0.11, 0.14, 0.18, 0.25, 0.35, 0.5, 0.58, 0.68, 0.8)
"""Recompute ratios: :func:`tried` says which of them are measured on a pair, :func:`choices` which a level may take."""

_HALF, _ALIKE = 0.5, 0.8
_AT_LEAST = 0.15  # chosen by cross-validation: from 0.12 to 0.25 levels spend the same

_NAMES_SINCE_9 = {"window": "suffix", "exact": "moved", "estranged": "mismatch"}
_UNLIKE = 0.05  # of the prompt: a share beyond the highest measured by more is another kind of prompt


class Observation(BaseModel):
    """One pair of prompts, measured.

    Attributes:
        id: of the pair; ``prompts``: a digest of its texts; ``kind`` of work.
        features: what was known beforehand.
        kl: KL(full prefill || reuse) in nats at each of the ratios tried, mean over the first 32 tokens of the answer.
        seconds: TTFT at each of them; ``full_seconds`` of the full prefill.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    id: str
    prompts: str
    kind: str
    features: PlanFeatures
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

    format: Literal[9] = 9
    fingerprint: dict[str, str]
    prompts: str
    ratios: list[float]
    margins: dict[str, float | None]
    spread: Spread
    cost: CostModel
    observations: list[Observation] = Field(repr=False)

    @model_validator(mode="before")
    @classmethod
    def _from_format_8(cls, data: Any) -> Any:
        """Format 8 has other names for the same numbers."""
        if isinstance(data, dict) and data.get("format") == 8:
            items = [dict(item) for item in data["observations"]]
            for item in items:
                known = item.pop("situation")
                item["features"] = {_NAMES_SINCE_9.get(name, name): value for name, value in known.items()}
            return data | {"format": 9, "observations": items}
        return data

    @functools.cached_property
    def forecast(self) -> Forecast:
        """Fitted to all observations."""
        features = feature_matrix([item.features for item in self.observations], self.ratios)
        return Forecast(features, measured(self.observations, self.ratios))

    def prepare(self) -> None:
        """Fit the forecast now, and not within the first call that asks for it: it takes some tenths of a second."""
        _ = self.forecast

    @functools.cached_property
    def name(self) -> str:
        """The same eight hexadecimal digits for the same measurements."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=4).hexdigest()

    def ratio_for(self, level: str, features: PlanFeatures) -> float | None:
        """The smallest ratio that keeps the level's promise; None: none of those tried does."""
        margin = self.margins.get(level)
        if margin is None:
            return None
        ratios = self.choices(features)
        if not ratios:
            return None
        expected = self.forecast.log_kl(feature_matrix([features], ratios))
        index = chosen(expected, self.spread.of(np.array([features.tokens])), float(log_kl(BOUNDS[level].kl)), margin)
        return ratios[index[0]] if index[0] >= 0 else None

    def choices(self, features: PlanFeatures) -> list[float]:
        """The ratios that a level may take for such a prompt, ascending; none where too little is left to reuse."""
        return choices(features, self.ratios)

    def expected_kl(self, features: PlanFeatures, ratio: float) -> float:
        """The forecast KL in nats: half of such calls lie beyond it."""
        return max(0.0, float(np.exp(self.forecast.log_kl(features.vector(ratio))) - KL_FLOOR))

    def unlike(self, features: PlanFeatures) -> ReasonText:
        """In what a prompt is unlike all that was measured; no reason if in nothing that matters."""
        for name, value in features.shares.items():
            highest = self._highest_shares[name]
            if value > highest + _UNLIKE:
                return Reason.UNLIKE_CALIBRATION.text(feature=name, share=value, highest=highest)
        return NO_REASON

    @functools.cached_property
    def _highest_shares(self) -> dict[str, float]:
        """Of all that was measured."""
        shares = [item.features.shares for item in self.observations]
        return {name: max(each[name] for each in shares) for name in shares[0]}

    def pays(self, features: PlanFeatures, ratio: float) -> bool:
        """Whether reuse is predicted to take less time than computing everything behind the prefix."""
        prefix = features.tokens - features.suffix
        full = self.cost.full(features.tokens) - self.cost.full(prefix) + self.cost.laid * prefix  # laid by both
        return self.cost.reuse(features.tokens, features.computed(ratio)) < full

    def to_json(self) -> str:
        """As pydantic reads it again, an observation a line."""
        head = self.model_dump(mode="json", exclude={"observations"})
        rows = [json.dumps(item.model_dump(mode="json")) for item in self.observations]
        text = json.dumps(head, indent=1)
        return text[:-2] + ',\n "observations": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"


def tried(features: PlanFeatures, ratios: Sequence[float] = RATIOS) -> list[float]:
    """Those of ``ratios``, ascending, that are measured on a prompt: those above a half only where much of what stands
    behind its prefix is in no identical run.

    More than half of such a prompt may have to be computed in any case, so that small ratios choose nothing beyond it;
    of a prompt that is the same but for its order the rows chosen last no longer matter.
    """
    return [ratio for ratio in ratios if ratio <= _HALF or not _alike(features)]


def choices(features: PlanFeatures, ratios: Sequence[float] = RATIOS) -> list[float]:
    """Those of the ratios tried that a level may take, ascending; none where too little is left to reuse.

    Where passages stand among much that is new, it depends on a few rows of theirs how far the answer lies from the
    full prefill's, and no forecast sees by how much: as many rows are computed as the strategy finds worth it by the
    plan, or 15 % beyond those that must be.
    """
    offered = tried(features, ratios)
    if _alike(features):
        return offered
    least = min(features.worth, features.must + _AT_LEAST * features.suffix)
    return [ratio for ratio in offered if features.computed(ratio) >= least]


def _alike(features: PlanFeatures) -> bool:
    return features.moved >= _ALIKE * features.suffix


def chosen(
    forecast: NDArray[np.float64], spread: NDArray[np.float64], limit: float, margin: float
) -> NDArray[np.int64]:
    """Per call the first ratio at which ``forecast`` [calls, ratios] + ``margin`` x ``spread`` [calls] is within limit.

    -1: at none.
    """
    within = forecast + margin * spread[:, None] <= limit
    return np.where(within.any(axis=1), within.argmax(axis=1), -1)


def measured(observations: Sequence[Observation], ratios: Sequence[float]) -> NDArray[np.float64]:
    """KL in nats [observations, ratios]; NaN where a ratio was not tried.

    Raises:
        ConfigError: an observation is of other ratios, or holds what is not a number.
    """
    for item in observations:
        if not len(item.kl) == len(item.seconds) == len(tried(item.features, ratios)):
            raise ConfigError(f"Pair {item.id} was measured at other ratios. Measure it again.")
        if not np.isfinite([*item.kl, *item.seconds]).all():
            raise ConfigError(
                f"What was measured of pair {item.id} is not a number. Leave it out, or use another dtype."
            )
    return padded([item.kl for item in observations], len(ratios))


def padded(rows: Sequence[Sequence[float]], width: int) -> NDArray[np.float64]:
    """The rows as one table [rows, width]; NaN where a row is shorter."""
    table = np.full((len(rows), width), np.nan)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table
