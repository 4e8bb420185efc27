"""Models without a calibration: their levels keep no bound that was measured, which is said once for each."""

from __future__ import annotations

import threading
import warnings
from weakref import WeakSet

from transformers import PreTrainedModel

from semshare_core.errors import QualityWarning
from semshare_core.process.forking import whole

_said: WeakSet[PreTrainedModel] = WeakSet()
_lock = whole(threading.Lock())


def say_once(model: PreTrainedModel, level: str) -> None:
    """Warn that ``level`` decides by fixed shares, the first time that any does for ``model``."""
    with _lock:
        if model in _said:
            return
        _said.add(model)
    name = model.name_or_path or type(model).__name__
    warnings.warn(
        f"this model is not calibrated: level {level!r} recomputes fixed shares of each prompt, and how far answers "
        f"of {name!r} lie from the full prefill's was never measured. Calibrate it with `semshare calibrate MODEL`, or "
        "ask for level 'exact', which needs no calibration.",
        QualityWarning,
        stacklevel=2,
    )
