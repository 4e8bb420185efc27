"""Which keyword argument a model takes its KV cache by."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from transformers.cache_utils import Cache


def with_cache(model: nn.Module, cache: Cache) -> dict[str, Any]:
    """``cache`` as the keyword argument of ``model``'s forward pass and of its ``generate``.

    transformers 5.24 renamed ``past_key_values`` to ``cache``; calls by the old name warn, and fail from 5.40 on.
    """
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    return {name: cache}
