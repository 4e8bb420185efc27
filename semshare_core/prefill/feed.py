"""Fetch the rows of the next layers while the present layer runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_AHEAD = 2  # layers in flight: one is too few if sometimes reading and sometimes computing is slower


class LayerFeed(Generic[T]):
    """Calls ``fetch(0)``, ``fetch(1)``, ... in its own thread, at most ``_AHEAD`` layers before they are taken.

    Layers may be taken in any order, each once. :meth:`take` raises the errors of ``fetch``.
    """

    def __init__(self, fetch: Callable[[int], T], n_layers: int) -> None:
        self._fetch = fetch
        self._n_layers = n_layers
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="semshare-feed")
        self._futures: dict[int, Future[T]] = {}
        self._submitted = 0
        self._taken = 0
        self._submit(_AHEAD)

    def take(self, layer: int) -> T:
        """Wait for what was fetched for ``layer``, and return it."""
        self._submit(layer + 1 + _AHEAD)
        fetched = self._futures.pop(layer).result()
        self._taken += 1
        if self._taken == self._n_layers:
            self._thread.shutdown(wait=False)
        return fetched

    def _submit(self, until: int) -> None:
        until = min(until, self._n_layers)
        for layer in range(self._submitted, until):
            self._futures[layer] = self._thread.submit(self._fetch, layer)
        self._submitted = max(self._submitted, until)


def carry(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy ``tensor`` to ``device`` and wait for the copy. On an accelerator other work goes on meanwhile."""
    if tensor.device == device or device.type == "cpu":
        return tensor.to(device)
    main = torch.accelerator.current_stream(device)
    copying = torch.Stream(device)
    with copying:
        copy = tensor.to(device, non_blocking=True)
    copying.synchronize()
    copy.record_stream(main)  # its memory must not be reused before the layer is done with it
    return copy
