"""A calibration: measured KLs of one model's reused answers, and the margins that its levels take from them."""

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
from semshare_core.budget.spread import UsualError
from semshare_core.errors import ConfigError
from semshare_core.report.reasons import NO_REASON, Reason, ReasonText

RATIOS = (0.05, 0.065, 0.085, 0.11, 0.14, 0.18, 0.25, 0.35, 0.5, 0.58, 0.68, 0.8)
"""Recompute ratios. :func:`measured_ratios` are measured on a pair; a level may take :func:`choices`."""

_HALF = 0.5
_ALIKE = 0.8  # share of the suffix in identical runs from which a prompt counts as alike
_LEAST_COMPUTED = 0.15  # chosen by cross-validation: from 0.12 to 0.25 levels spend the same
_LEAST_ACCOUNT = 1e-6  # nats: approximate rows never have an account of 0
_TOLERANCE = 0.05  # a share may exceed the largest measured share by this much of the prompt

_NAMES_SINCE_9 = {"window": "suffix", "exact": "moved", "estranged": "mismatch"}


class Observation(BaseModel):
    """The measurements of one prompt: the target of a pair, or a turn of a chain.

    Attributes:
        id: name of the pair or turn; ``prompts``: a digest of its texts; ``kind``: the kind of work.
        features: the plan's features.
        ratios: the measured ratios, ascending.
        kl: KL(full prefill || reuse) in nats at each measured ratio, mean over the first 32 tokens of the answer.
        seconds: TTFT at each measured ratio; ``full_seconds``: TTFT of the full prefill.
        chain: the chain's name; empty for a pair. ``turn``: the turn's number, from 1 on; 0 for a pair.
        level: the level that served the chain; empty if a fixed ratio served it, and for a pair.
        served_kl: the KL in nats of the turn as it was served; None for a pair.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    id: str
    prompts: str
    kind: str
    features: PlanFeatures
    ratios: list[float]
    kl: list[float]
    seconds: list[float]
    full_seconds: float
    chain: str = ""
    turn: int = 0
    level: str = ""
    served_kl: float | None = None

    @property
    def unit(self) -> str:
        """A name of the chain or pair. Units do not depend on each other, but the turns of a chain do."""
        return self.chain or f"{self.id} {self.prompts}"


class Calibration(BaseModel):
    """The measurements of one model, and the results.

    Attributes:
        format: grows with every change to the measurements, the features, the forecast, its usual errors or the
            selection, because the margins depend on all of them.
        fingerprint: of model, tokenizer and dtype.
        prompts: a description of the calibration prompts.
        ratios: the recompute ratios. Not every pair has all of them.
        margins: by level, in usual errors of the forecast, for example ``{"balanced": 1.5}``. None: no margin keeps the
            promise, and the level reuses only prefixes.
        spread: the forecast's usual errors.
        account_margin: in usual errors, how far above its forecast a call's account lies. Nine of ten calls lie
            below it.
        cost: predicts the time of a prefill on one kind of device.
        observations: all measurements. The forecast is fitted to them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[13] = 13
    fingerprint: dict[str, str]
    prompts: str
    ratios: list[float]
    margins: dict[str, float | None]
    spread: UsualError
    account_margin: float = 1.3
    cost: CostModel
    observations: list[Observation] = Field(repr=False)

    @model_validator(mode="before")
    @classmethod
    def _from_older_format(cls, data: Any) -> Any:
        """Format 8 has other names. Formats 8 and 9 have no chains, and measured the first ratios of the list.

        Up to format 10 the begin of a chat's last answer was not computed, and nothing was known of repeated wording.
        Up to format 11 the forecast read no shares of the suffix, and up to format 12 all calls had one usual error.
        Margins that kept the promise then are taken to keep it now.
        """
        if not isinstance(data, dict) or data.get("format") not in (8, 9, 10, 11, 12):
            return data
        items = data.get("observations")
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            return data | {"format": 13}  # the fields' own checks say what is wrong
        items = [dict(item) for item in items]
        for item in items:
            if item.get("kind") == "suffix":  # a slip of format 9
                item["kind"] = "window"
            features = item.pop("situation", None)
            if features is not None:
                item["features"] = {_NAMES_SINCE_9.get(name, name): value for name, value in features.items()}
            item.setdefault("ratios", data.get("ratios", [])[: len(item.get("kl", []))])
        spread = {"lossless": data.get("spread"), "approximate": data.get("spread")}
        return data | {"format": 13, "spread": spread, "observations": items}

    @functools.cached_property
    def forecast(self) -> Forecast:
        """Fitted to all observations, when it is first read. That takes some tenths of a second."""
        features = feature_matrix([item.features for item in self.observations], self.ratios)
        return Forecast(features, kl_table(self.observations, self.ratios))

    @functools.cached_property
    def name(self) -> str:
        """Eight hexadecimal digits, for example ``3f09a1c4``. Equal calibrations have the same name."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=4).hexdigest()

    def ratio_for(self, level: str, features: PlanFeatures) -> float | None:
        """The smallest ratio that keeps the level's promise; None if no ratio does."""
        margin = self.margins.get(level)
        ratios = self.choices(features)
        if margin is None or not ratios:
            return None
        expected = self._log_kl(features, ratios)[None]
        usual = np.array([self._usual_error(features)])
        index = chosen(expected, usual, float(log_kl(BOUNDS[level].kl)), margin)
        return ratios[index[0]] if index[0] >= 0 else None

    def choices(self, features: PlanFeatures) -> list[float]:
        """See :func:`choices`."""
        return choices(features, self.ratios)

    def expected_kl(self, features: PlanFeatures, ratio: float) -> float:
        """The forecast KL in nats. It is a median: half of such calls have a larger KL."""
        return _in_nats(self._log_kl(features, [ratio])[0])

    def account(self, features: PlanFeatures, ratio: float) -> float:
        """The account of a call's rows, in nats: nine of ten such calls have a smaller KL."""
        usual = self._usual_error(features)
        return max(_LEAST_ACCOUNT, _in_nats(self._log_kl(features, [ratio])[0] + self.account_margin * usual))

    def _usual_error(self, features: PlanFeatures) -> float:
        return float(self.spread.of(float(features.tokens), features.approximate > 0))

    def _log_kl(self, features: PlanFeatures, ratios: Sequence[float]) -> NDArray[np.float64]:
        """The forecast log KL [ratios]."""
        expected: NDArray[np.float64] = self.forecast.log_kl(feature_matrix([features], ratios))[0]
        beyond = features.inherited - self._largest_inherited
        if beyond <= 0:
            return expected
        # The forecast never extrapolates: what lies beyond adds as an independent error. Computed rows inherit none.
        # An account is an upper quantile, and the forecast a median.
        median = beyond * np.exp(-self.account_margin * self._usual_error(features))
        reused = 1 - np.array([features.computed(ratio) for ratio in ratios]) / features.tokens
        left = np.multiply(median, reused, where=reused > 0, out=np.zeros_like(reused))  # it may be infinite
        return log_kl(np.maximum(np.exp(expected) - KL_FLOOR, 0.0) + left)

    @functools.cached_property
    def _largest_inherited(self) -> float:
        """In nats, what the plans that were measured drew on; 0 where all references were lossless."""
        return max(item.features.inherited for item in self.observations)

    def difference(self, features: PlanFeatures) -> ReasonText:
        """How a prompt differs from all calibration prompts; no reason if it does not differ too much."""
        for name, value in features.shares.items():
            highest = self._highest_shares[name]
            if value > highest + _TOLERANCE:
                return Reason.UNLIKE_CALIBRATION.text(feature=name, share=value, highest=highest)
        return NO_REASON

    @functools.cached_property
    def _highest_shares(self) -> dict[str, float]:
        shares = [item.features.shares for item in self.observations]
        return {name: max(share[name] for share in shares) for name in shares[0]}

    def pays(self, features: PlanFeatures, ratio: float, device: str = "cpu") -> bool:
        """Whether reuse is predicted to be faster than computing the whole suffix; True where ``device`` is another."""
        if device != self.cost.device:
            return True
        prefix = features.tokens - features.suffix
        full = self.cost.full(features.tokens) - self.cost.full(prefix) + self.cost.laid * prefix  # both lay the prefix
        return self.cost.reuse(features.tokens, features.computed(ratio)) < full

    def to_json(self) -> str:
        """JSON with one line per observation. Pydantic can read it."""
        head = self.model_dump(mode="json", exclude={"observations"})
        rows = [json.dumps(item.model_dump(mode="json")) for item in self.observations]
        text = json.dumps(head, indent=1)
        return text[:-2] + ',\n "observations": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n"


def measured_ratios(features: PlanFeatures, ratios: Sequence[float] = RATIOS) -> list[float]:
    """The ratios, ascending, at which a prompt is measured.

    Ratios above a half are measured only if less than 80 % of the suffix is in identical runs. Such a prompt may need
    more than half of its rows in any case, so small ratios would add no row. In a prompt that only changes the order,
    the rows that are chosen last no longer matter.
    """
    return [ratio for ratio in ratios if ratio <= _HALF or not _alike(features)]


def choices(features: PlanFeatures, ratios: Sequence[float] = RATIOS) -> list[float]:
    """The ratios, ascending, that a level may take. The list is empty if too little is left to reuse.

    If passages stand among much new text, a few of their rows decide how far the answer moves, and no forecast sees
    how far. Such a prompt needs a minimum: the rows that the plan finds worth computing, or 15 % of the suffix more
    than the rows that must be computed.
    """
    ratios = measured_ratios(features, ratios)
    if _alike(features):
        return ratios
    least = min(features.worth, features.must + _LEAST_COMPUTED * features.suffix)
    return [ratio for ratio in ratios if features.computed(ratio) >= least]


def _alike(features: PlanFeatures) -> bool:
    return features.moved >= _ALIKE * features.suffix


def chosen(
    forecast: NDArray[np.float64], spread: NDArray[np.float64], limit: float, margin: float
) -> NDArray[np.int64]:
    """For each call the index of the first ratio whose forecast plus margin is within ``limit``; -1 if there is none.

    Args:
        forecast: [calls, ratios], log KL.
        spread: [calls], the forecast's usual error.
        limit: the largest log KL.
        margin: in usual errors.
    """
    within = forecast + margin * spread[:, None] <= limit
    return np.where(within.any(axis=1), within.argmax(axis=1), -1)


def _in_nats(log: float) -> float:
    return max(0.0, float(np.exp(log)) - KL_FLOOR)


def kl_table(observations: Sequence[Observation], ratios: Sequence[float]) -> NDArray[np.float64]:
    """KL in nats [observations, ratios]; NaN where a ratio was not measured.

    Raises:
        ConfigError: an observation has other ratios, or a value that is not a number.
    """
    for item in observations:
        if not len(item.ratios) == len(item.kl) == len(item.seconds) or not set(item.ratios) <= set(ratios):
            raise ConfigError(f"{item.id} was measured at other ratios. Measure it again.")
        if not np.isfinite([*item.kl, *item.seconds]).all():
            raise ConfigError(f"A measurement of {item.id} is not a number. Leave it out, or use another dtype.")
    return by_ratio([(item.ratios, item.kl) for item in observations], ratios)


def by_ratio(rows: Sequence[tuple[Sequence[float], Sequence[float]]], ratios: Sequence[float]) -> NDArray[np.float64]:
    """Values measured at some ratios, as a table [rows, ratios]; NaN where a ratio was not measured."""
    column = {ratio: number for number, ratio in enumerate(ratios)}
    table = np.full((len(rows), len(ratios)), np.nan)
    for line, (measured, values) in zip(table, rows, strict=True):
        line[[column[ratio] for ratio in measured]] = values
    return table
