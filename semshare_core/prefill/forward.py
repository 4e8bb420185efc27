"""Run a model over chosen rows of a prompt. Deeper layers may compute fewer rows.

The model's own code computes. It gets the chosen token ids with their true positions. Forward-pre-hooks on the decoder
layers give each layer the causal mask of its rows. If a layer computes fewer rows than the previous one, its hook drops
the other hidden states and position embeddings. Rows run in chunks, each through all layers before the next. So the
largest mask is ``chunk_rows x visible``, and a chunk sees only the keys up to its last row.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from semshare_core.errors import UnsupportedModelError
from semshare_core.model.attention.bit_blocks import block_of
from semshare_core.model.attention.query_blocks import query_blocks
from semshare_core.model.cache_argument import with_cache
from semshare_core.model.spec import ModelSpec
from semshare_core.prefill.cache import MergedCache, StopForward

CHUNK_ROWS = 768


class RowForward:
    """Computes keys and values of chosen rows into a :class:`MergedCache`."""

    def __init__(self, model: PreTrainedModel, spec: ModelSpec, chunk_rows: int = CHUNK_ROWS) -> None:
        self.model = model
        self.spec = spec
        self.chunk_rows = chunk_rows
        self._backbone: nn.Module = model.base_model

    @torch.no_grad()
    def run(self, cache: MergedCache, ids: Tensor, rows: list[Tensor], last_layer: int | None = None) -> None:
        """Compute ``rows[l]`` at layer ``l``, up to the keys and values of ``last_layer`` (default: the last).

        Args:
            cache: has the reused rows. Computed rows overwrite them.
            ids: int64 [n], the whole prompt.
            rows: ascending positions per layer, each a subset of the previous layer's.
            last_layer: the pass stops once this layer has its keys and values.
        """
        last_layer = len(rows) - 1 if last_layer is None else last_layer
        for chunk in rows[0].split(self.chunk_rows):
            first, last = int(chunk[0]), int(chunk[-1])
            parts = [layer_rows[(layer_rows >= first) & (layer_rows <= last)] for layer_rows in rows]
            stop = max(layer for layer in range(last_layer + 1) if len(parts[layer]))
            cache.begin(parts, last + 1, stop)
            with self._hooks(parts, last + 1), query_blocks(parts, last + 1, block_of(self.model)):
                self._call(cache, ids[chunk], chunk)

    @torch.no_grad()
    def run_whole(self, cache: MergedCache, ids: Tensor) -> None:
        """Compute all rows of ``ids`` [n] in one pass of the model, without hooks."""
        cache.stop_at(len(self.spec.layers) - 1)
        with suppress(StopForward):
            self._backbone(input_ids=ids[None], **with_cache(self._backbone, cache), use_cache=True)

    def _call(self, cache: MergedCache, ids: Tensor, positions: Tensor) -> None:
        extra = with_cache(self._backbone, cache)
        if self.spec.takes_position_ids:
            extra["position_ids"] = positions[None]
        # with a 4-D mask the model does not build its own; the hooks replace it
        placeholder = torch.zeros((1, 1, 1, 1), dtype=torch.bool, device=ids.device)
        with suppress(StopForward):
            self._backbone(input_ids=ids[None], attention_mask=placeholder, use_cache=True, **extra)

    @contextmanager
    def _hooks(self, parts: list[Tensor], visible: int) -> Iterator[None]:
        """Put the hooks for one chunk on the layers, and remove them afterwards.

        They change nothing in other threads: background work runs while a caller may use the model by himself.
        """
        own_thread = threading.get_ident()
        masks: dict[tuple[int, int | None], Tensor] = {}
        handles = []

        def hook_for(layer: int) -> Any:
            window = self.spec.windows[layer]
            key = (len(parts[layer]), window)
            narrower = layer > 0 and len(parts[layer]) < len(parts[layer - 1])

            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any] | None:
                if threading.get_ident() != own_thread:
                    return None
                hidden = args[0] if args else kwargs["hidden_states"]
                if key not in masks:
                    masks[key] = self.spec.mask(parts[layer], visible, window, hidden.dtype)
                kwargs["attention_mask"] = masks[key].to(hidden.device)
                if narrower:
                    hidden = hidden[:, _places(parts[layer], parts[layer - 1]).to(hidden.device)]
                    if args:
                        args = (hidden, *args[1:])
                    else:
                        kwargs["hidden_states"] = hidden
                if len(parts[layer]) < len(parts[0]):
                    _narrow_positions(kwargs, _places(parts[layer], parts[0]))
                return args, kwargs

            return hook

        try:
            for layer, module in enumerate(self.spec.layers):
                handles.append(module.register_forward_pre_hook(hook_for(layer), with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _places(rows: Tensor, within: Tensor) -> Tensor:
    """The indices of ``rows`` in ``within``. Both are ascending."""
    return torch.searchsorted(within, rows)


def _narrow_positions(kwargs: dict[str, Any], keep: Tensor) -> None:
    """Keep the position ids and embeddings of the rows ``keep``. The model hands over those of the whole chunk."""
    embeddings = kwargs.get("position_embeddings")
    if isinstance(embeddings, tuple):
        kwargs["position_embeddings"] = tuple(part[:, keep.to(part.device)] for part in embeddings)
    elif embeddings is not None:
        raise UnsupportedModelError(f"position embeddings of type {type(embeddings).__name__} cannot be narrowed.")
    if isinstance(kwargs.get("position_ids"), Tensor):
        kwargs["position_ids"] = kwargs["position_ids"][:, keep.to(kwargs["position_ids"].device)]
