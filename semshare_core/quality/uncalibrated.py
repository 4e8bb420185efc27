"""One warning for each model without a calibration: its levels have no measured bound."""

from __future__ import annotations

import threading
import warnings
from weakref import WeakSet

from transformers import PreTrainedModel

from semshare_core.errors import QualityWarning
from semshare_core.process.forking import whole

_warned: WeakSet[PreTrainedModel] = WeakSet()
_lock = whole(threading.Lock())


def warn_once(model: PreTrainedModel, level: str) -> None:
    """Warn once for ``model`` that its levels recompute fixed shares."""
    with _lock:
        if model in _warned:
            return
        _warned.add(model)
    name = model.name_or_path or type(model).__name__
    warnings.warn(
        f"this model is not calibrated: level {level!r} recomputes fixed shares of each prompt, and nobody measured "
        f"how far the answers of {name!r} lie from the full prefill's. Calibrate the model with `semshare calibrate "
        "MODEL`, or use the level 'exact', which needs no calibration.",
        QualityWarning,
        stacklevel=2,
    )
