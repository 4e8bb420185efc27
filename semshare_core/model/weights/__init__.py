"""Which weights, adapters and numerics compute a model's rows."""

from semshare_core.model.weights.adapters import without_wrapper
from semshare_core.model.weights.identity import Weights

__all__ = ["Weights", "without_wrapper"]
