"""The state in which every request computes, whatever the caller's thread and the model are set to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from transformers import PreTrainedModel

from semshare_core.model.autocast import Autocast
from semshare_core.model.weights.layout import all_modules


@contextmanager
def computing(model: PreTrainedModel, autocast: Autocast | None = None) -> Iterator[None]:
    """Eval mode, no gradients, no inference mode; under ``autocast``, or under the thread's own. Hold the model's lock.

    In training mode dropout is random, and checkpointing computes without a cache. Tensors made in inference mode
    cannot be used outside of it, neither by the pool nor by a caller who gets the cache.
    """
    training = [values for module in all_modules(model) if (values := module.__dict__).get("training")]
    try:
        for values in training:
            values["training"] = False
        # no_grad comes last: leaving inference mode switches gradients on
        with (
            (autocast or Autocast.current()).applied(),
            _on(model.device),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            yield
    finally:
        for values in training:
            values["training"] = True


def _on(device: torch.device) -> AbstractContextManager[object]:
    """The thread's device, on which kernels are launched, is ``device``."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
