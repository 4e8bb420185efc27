"""One warning for each model without a calibration: its levels have no measured bound."""

from __future__ import annotations

import threading
import warnings
from weakref import WeakSet

from transformers import PreTrainedModel

from semshare_core.budget.governor import LEVEL_RULES
from semshare_core.budget.levels import BOUNDS
from semshare_core.errors import QualityWarning
from semshare_core.process.forking import whole

_warned: WeakSet[PreTrainedModel] = WeakSet()
_lock = whole(threading.Lock())


def warn_once(model: PreTrainedModel, level: str) -> None:
    """Warn once for ``model`` that ``level`` recomputes a fixed share, and what that means."""
    with _lock:
        if model in _warned:
            return
        _warned.add(model)
    name = model.name_or_path or type(model).__name__
    rule, bound = LEVEL_RULES[level], BOUNDS[level]
    warnings.warn(
        f"the model {name!r} is not calibrated: nobody measured how far its reused answers lie from the full "
        f"prefill's. So level {level!r} computes {rule.least:.0%} to {rule.ceiling:.0%} of each prompt. That is often "
        f"more than necessary, and sometimes too little. The bound (at most {bound.share:.0%} of calls beyond a KL of "
        f"{bound.kl}) is no promise. Calibrate the model once with `semshare calibrate MODEL`, or use the level "
        "'exact', which needs no calibration.",
        QualityWarning,
        stacklevel=2,
    )
