"""Fetch the rows of the next layers while the present layer runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
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


class Copies:
    """Copies to one device, in a stream of their own beside what the maker's thread computes there.

    Nobody waits on the processor: whoever uses copies lets his stream wait for their :meth:`mark`. On the CPU a copy is
    there when :meth:`carry` returns.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._using = torch.accelerator.current_stream(device) if device.type != "cpu" else None
        self._copying = _copying(device) if device.type != "cpu" else None

    def carry(self, rows: Tensor, picked: Tensor | slice) -> Tensor:
        """The rows [1, heads, m, size] at ``picked`` of ``rows`` [1, heads, any, size], on the device.

        From pinned memory rows are read where they lie: consecutive ones head by head, others all, and picked there.
        """
        if self._copying is None or self._using is None:
            return rows[:, :, picked].clone() if isinstance(picked, slice) else rows.index_select(2, picked)
        with self._copying:
            if not rows.is_pinned():
                here = rows[:, :, picked] if isinstance(picked, slice) else rows.index_select(2, picked)
                copy = here.to(self._device, non_blocking=True)
            elif isinstance(picked, slice):
                copy = rows.new_empty(rows[:, :, picked].shape, device=self._device)
                for there, here in zip(copy[0], rows[0], strict=True):
                    there.copy_(here[picked], non_blocking=True)
            else:
                copy = rows.to(self._device, non_blocking=True)
                copy = copy.index_select(2, picked.to(self._device, non_blocking=True))
        copy.record_stream(self._using)  # its memory must not be reused before the layer is done with it
        return copy

    def mark(self) -> torch.Event | None:
        """What is recorded when all copies so far are there."""
        return self._copying.record_event() if self._copying is not None else None

    def wait(self, mark: torch.Event | None) -> None:
        """Let what is computed from now on wait for ``mark``."""
        if mark is not None and self._using is not None:
            self._using.wait_event(mark)


@cache
def _copying(device: torch.device) -> torch.Stream:
    """The stream of all copies to ``device``: memory that served one stream's tensors stays with that stream."""
    return torch.Stream(device)
