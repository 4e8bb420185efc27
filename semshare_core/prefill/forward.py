"""Run a model over chosen rows of a prompt. Deeper layers may compute fewer rows.

The model's own code computes. It gets the chosen token ids with their true positions. Forward-pre-hooks on the decoder
layers give each layer the causal mask of its rows, or the rows themselves where a kernel attends by them. If a layer
computes fewer rows than the previous one, its hook drops the other hidden states and position embeddings. Rows run in
chunks, each through all layers before the next. So the largest mask is ``chunk_rows x visible``, and a chunk sees only
the keys up to its last row. All choices are made on the processor beforehand: between two layers nobody waits for an
accelerator.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from semshare_core.errors import UnsupportedModelError
from semshare_core.model.attention.bit_blocks import block_of
from semshare_core.model.attention.by_rows import attends_by_rows, chosen
from semshare_core.model.attention.query_blocks import query_blocks
from semshare_core.model.cache_argument import with_cache
from semshare_core.model.spec import ModelSpec
from semshare_core.prefill.cache import MergedCache, StopForward, to_torch

CHUNK_ROWS = 768
_ROWS_WITHOUT_MASK = 8192  # only the layers' own temporary tensors grow with a chunk that needs no mask

Positions = NDArray[np.int64]


class RowForward:
    """Computes keys and values of chosen rows into a :class:`MergedCache`.

    Attributes:
        chunk_rows: the most rows of a chunk; None: as many as memory allows.
    """

    def __init__(self, model: PreTrainedModel, spec: ModelSpec, chunk_rows: int | None = None) -> None:
        self.model = model
        self.spec = spec
        self.chunk_rows = chunk_rows
        self._backbone: nn.Module = model.base_model

    @property
    def most_rows(self) -> int:
        """The most rows of a chunk: ``chunk_rows``, or what memory allows."""
        return self.chunk_rows or (_ROWS_WITHOUT_MASK if attends_by_rows(self.model) else CHUNK_ROWS)

    @torch.no_grad()
    def run(self, cache: MergedCache, ids: Tensor, rows: Sequence[Positions], last_layer: int | None = None) -> None:
        """Compute ``rows[l]`` at layer ``l``, up to the keys and values of ``last_layer`` (default: the last).

        Args:
            cache: has the reused rows. Computed rows overwrite them.
            ids: int64 [n], the whole prompt.
            rows: ascending positions per layer, each a subset of the previous layer's.
            last_layer: the pass stops once this layer has its keys and values.
        """
        last_layer = len(rows) - 1 if last_layer is None else last_layer
        chunk_rows = self.most_rows
        for start in range(0, len(rows[0]), chunk_rows):
            chunk = rows[0][start : start + chunk_rows]
            first, last = int(chunk[0]), int(chunk[-1])
            begins = [int(np.searchsorted(layer_rows, first)) for layer_rows in rows]
            ends = [int(np.searchsorted(layer_rows, last, side="right")) for layer_rows in rows]
            parts = Parts([r[begin:end] for r, begin, end in zip(rows, begins, ends, strict=True)], ids.device)
            stop = max(layer for layer in range(last_layer + 1) if parts.counts[layer])
            cache.begin(parts.rows, last + 1, stop)
            with self.hooks(parts, last + 1), self._split(parts, last + 1):
                self.call(cache, ids[parts.rows[0]], parts.rows[0])

    def _split(self, parts: Parts, visible: int) -> AbstractContextManager[Any]:
        """Attention in blocks of queries, where that saves more than the calls cost: on the CPU."""
        if self.model.device.type != "cpu":
            return nullcontext()
        return query_blocks(parts.rows, visible, block_of(self.model))

    @torch.no_grad()
    def run_whole(self, cache: MergedCache, ids: Tensor) -> None:
        """Compute all rows of ``ids`` [n] in one pass of the model, without hooks."""
        cache.stop_at(len(self.spec.layers) - 1)
        with suppress(StopForward):
            self._backbone(input_ids=ids[None], **with_cache(self._backbone, cache), use_cache=True)

    def call(
        self, cache: MergedCache, ids: Tensor, positions: Tensor, module: nn.Module | None = None, **more: Any
    ) -> Any:
        """Run the model, or ``module``, over ``ids`` [rows] at ``positions``. None if the cache stops the pass."""
        module = module or self._backbone
        extra = with_cache(module, cache) | more
        if self.spec.takes_position_ids:
            extra["position_ids"] = positions[None]
        # with a 4-D mask the model does not build its own; the hooks replace it
        placeholder = torch.zeros((1, 1, 1, 1), dtype=torch.bool, device=ids.device)
        with suppress(StopForward):
            return module(input_ids=ids[None], attention_mask=placeholder, use_cache=True, **extra)

    @contextmanager
    def hooks(self, parts: Parts, visible: int) -> Iterator[None]:
        """Put the hooks for one chunk on the layers, and remove them afterwards.

        They change nothing in other threads: background work runs while a caller may use the model by himself.
        """
        own_thread = threading.get_ident()
        masks: dict[tuple[int, int | None], Tensor] = {}
        marker = torch.zeros((1, 1, 1, 1), device=parts.device) if attends_by_rows(self.model) else None
        handles = []

        def mask_of(layer: int, hidden: Tensor) -> Tensor:
            window = self.spec.windows[layer]
            if marker is not None:
                chosen.rows, chosen.window = parts.rows[layer], window
                return marker
            key = (parts.counts[layer], window)
            if key not in masks:
                masks[key] = self.spec.mask(parts.rows[layer], visible, window, hidden.dtype)
            return masks[key].to(hidden.device)

        def hook_for(layer: int) -> Any:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any] | None:
                if threading.get_ident() != own_thread:
                    return None
                hidden = args[0] if args else kwargs["hidden_states"]
                kwargs["attention_mask"] = mask_of(layer, hidden)
                if layer > 0 and parts.counts[layer] < parts.counts[layer - 1]:
                    hidden = hidden[:, parts.places(layer, layer - 1).to(hidden.device)]
                    if args:
                        args = (hidden, *args[1:])
                    else:
                        kwargs["hidden_states"] = hidden
                if parts.counts[layer] < parts.counts[0]:
                    _narrow_positions(kwargs, parts.places(layer, 0))
                return args, kwargs

            return hook

        before, chosen.marker = chosen.marker, marker
        try:
            for layer, module in enumerate(self.spec.layers):
                handles.append(module.register_forward_pre_hook(hook_for(layer), with_kwargs=True))
            yield
        finally:
            chosen.marker, chosen.rows = before, None
            for handle in handles:
                handle.remove()


class Parts:
    """The rows of one chunk at each layer, on the processor and on the device. Equal sets are moved once.

    Attributes:
        counts: the number of rows at each layer.
        rows: int64 [rows] on the device, for each layer.
    """

    def __init__(self, parts: Sequence[Positions], device: torch.device) -> None:
        self.device = device
        self.counts = [len(part) for part in parts]
        self._parts = parts
        self._there: dict[tuple[int, int], Tensor] = {}
        moved = {len(part): part for part in parts}
        there = {count: to_torch(part, device) for count, part in moved.items()}
        self.rows = [there[count] for count in self.counts]

    @classmethod
    def everywhere(cls, rows: Tensor, n_layers: int) -> Parts:
        """The same rows, int64 [rows] on the device, at each layer."""
        parts = cls([], rows.device)
        parts.counts, parts.rows = [len(rows)] * n_layers, [rows] * n_layers
        return parts

    def places(self, layer: int, within: int) -> Tensor:
        """The indices of a layer's rows among those of an earlier layer, on the device."""
        key = (self.counts[layer], self.counts[within])  # of sets within each other, equal ones are equally large
        if key not in self._there:
            self._there[key] = to_torch(np.searchsorted(self._parts[within], self._parts[layer]), self.device)
        return self._there[key]


def _narrow_positions(kwargs: dict[str, Any], keep: Tensor) -> None:
    """Keep the position ids and embeddings of the rows ``keep``. The model hands over those of the whole chunk."""
    embeddings = kwargs.get("position_embeddings")
    if isinstance(embeddings, tuple):
        kwargs["position_embeddings"] = tuple(part[:, keep.to(part.device)] for part in embeddings)
    elif embeddings is not None:
        raise UnsupportedModelError(f"position embeddings of type {type(embeddings).__name__} cannot be narrowed.")
    if isinstance(kwargs.get("position_ids"), Tensor):
        kwargs["position_ids"] = kwargs["position_ids"][:, keep.to(kwargs["position_ids"].device)]
