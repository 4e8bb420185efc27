"""Fetch the rows of the layers to come while the present one runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_AHEAD = 2  # layers in flight: one is not enough where reading and computing take turns at being the slower


class LayerFeed(Generic[T]):
    """``fetch(0)``, ``fetch(1)``, ... in a thread of their own, at most ``_AHEAD`` layers beyond what was taken.

    Layers may be taken in any order and each only once; what ``fetch`` raises is raised by :meth:`take`.
    """

    def __init__(self, fetch: Callable[[int], T], n_layers: int) -> None:
        self._fetch = fetch
        self._n_layers = n_layers
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="semshare-feed")
        self._coming: dict[int, Future[T]] = {}
        self._asked = 0
        self._taken = 0
        self._ask(_AHEAD)

    def take(self, layer: int) -> T:
        """What was fetched for ``layer``; waits for it."""
        self._ask(layer + 1 + _AHEAD)
        fetched = self._coming.pop(layer).result()
        self._taken += 1
        if self._taken == self._n_layers:
            self._thread.shutdown(wait=False)
        return fetched

    def _ask(self, until: int) -> None:
        for layer in range(self._asked, min(until, self._n_layers)):
            self._coming[layer] = self._thread.submit(self._fetch, layer)
        self._asked = max(self._asked, min(until, self._n_layers))


def carry(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``, whole when this returns; on an accelerator the copy runs beside what computes there."""
    if tensor.device == device or device.type == "cpu":
        return tensor.to(device)
    main = torch.accelerator.current_stream(device)
    aside = torch.Stream(device)
    with aside:
        moved = tensor.to(device, non_blocking=True)
    aside.synchronize()
    moved.record_stream(main)  # its memory must not be handed out again before the layer is done with it
    return moved
