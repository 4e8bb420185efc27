"""How a call computes, whatever its caller's thread and the model are set to: what it leaves behind serves others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from semshare_core.model.autocast import Autocast
from semshare_core.model.weights.layout import all_modules


@contextmanager
def computing(model: PreTrainedModel, autocast: Autocast | None = None) -> Iterator[None]:
    """In eval mode, without gradients, outside inference mode; under ``autocast``, or under the thread's own.

    In training mode dropout leaves values out at random, and checkpointing computes without a cache. Tensors of
    inference mode cannot be used outside, neither by the pool nor by whom a cache is handed to. Needs the model's turn.
    """
    training = [values for module in all_modules(model) if (values := module.__dict__).get("training")]
    try:
        for values in training:
            values["training"] = False
        # gradients last: leaving inference mode would switch them on
        with (autocast or Autocast.here()).again(), torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for values in training:
            values["training"] = True
