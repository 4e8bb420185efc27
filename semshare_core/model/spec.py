"""What selective prefill must know of a model. It is measured on the model, not looked up by architecture."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from semshare_core.errors import UnsupportedModelError
from semshare_core.model.attention.by_rows import NAME, can_attend_by_rows, chosen, try_kernel
from semshare_core.model.attention.grouped import uses_sdpa
from semshare_core.model.attention.switched import config_switched
from semshare_core.model.cache_argument import with_cache
from semshare_core.model.rotary import Rotation, find_rotations
from semshare_core.model.support import vocabulary_size

MaskFormat = Literal["attend", "masked", "additive"]


@dataclass(frozen=True)
class ModelSpec:
    """The parts of a decoder-only model that the prefill touches.

    Attributes:
        layers: the decoder layers, in order.
        windows: each layer's sliding window in tokens; None: full attention. Gemma 2: ``[4096, None, 4096, ...]``.
        rotations: how each layer's keys turn with their position.
        mask_format: the mask that layers take. ``attend``: bool, True where a query sees a key · ``masked``: bool, True
            where it does not · ``additive``: added to the scores, 0 or the dtype's least number.
        takes_position_ids: whether ``forward`` takes them. False for models with ALiBi, such as MPT.
        static_until: rotary frequencies stay the same up to so many positions; None: everywhere. Phi-3-mini-128k
            (``longrope``): 4096. A longer prompt turns all keys by other frequencies, so its rows cannot be moved.
        causal_without_mask: whether layers attend causally when they get no mask. True for a Llama with ``sdpa``: a
            prompt that stands alone is computed without one. False with sliding windows.
        observable: whether attention weights can be watched while the model runs (``prefill/trial.py`` tries it). False
            for models that fix their attention function when they are built, such as Falcon.
        by_rows: whether layers can attend by rows (:mod:`semshare_core.model.attention.by_rows`).
    """

    layers: list[nn.Module]
    windows: list[int | None]
    rotations: list[Rotation]
    mask_format: MaskFormat
    takes_position_ids: bool
    static_until: int | None
    causal_without_mask: bool
    observable: bool = True
    by_rows: bool = False

    @cached_property
    def devices(self) -> list[torch.device]:
        """The device of each layer."""
        return [next(layer.parameters()).device for layer in self.layers]

    def mask(self, rows: Tensor, visible: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """Causal mask [1, 1, len(rows), visible] for queries at positions ``rows``, in the model's format."""
        keys = torch.arange(visible, device=rows.device)
        attend = keys[None, :] <= rows[:, None]
        if window is not None:
            attend &= keys[None, :] > rows[:, None] - window
        if self.mask_format == "masked":
            attend = ~attend
        elif self.mask_format == "additive":
            least = torch.finfo(dtype).min
            attend = torch.zeros(attend.shape, dtype=dtype, device=rows.device).masked_fill_(~attend, least)
        return attend[None, None]


@torch.no_grad()
def measure_spec(model: PreTrainedModel) -> ModelSpec:
    """Run ``model`` on a few tokens and see how it computes.

    Raises:
        UnsupportedModelError: its layers, masks or positions are not understood.
    """
    config = model.config.get_text_config(decoder=True)
    layers = decoder_layers(model)
    takes_position_ids = "position_ids" in inspect.signature(model.forward).parameters
    static_until = _static_until(config)
    windows = _windows(config, len(layers))
    return ModelSpec(
        layers=layers,
        windows=windows,
        rotations=find_rotations(model, _keys_at(model, takes_position_ids, len(layers)), static_until),
        mask_format=_mask_format(model, layers[0]),
        takes_position_ids=takes_position_ids,
        static_until=static_until,
        causal_without_mask=not any(windows) and _mask_of(model, layers[0]) is None,
        by_rows=_by_rows(model, layers),
    )


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The model's layers as they are now.

    Raises:
        UnsupportedModelError: no list has as many layers as the configuration says.
    """
    n = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n:
            return list(module)
    raise UnsupportedModelError(f"{type(model).__name__} has no list of {n} decoder layers to hook into.")


def _windows(config: Any, n: int) -> list[int | None]:
    uses_window = getattr(config, "use_sliding_window", True) is not False
    window = getattr(config, "sliding_window", None) if uses_window else None
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * n
    return [window if "sliding" in kind else None for kind in types]


def _keys_at(model: PreTrainedModel, takes_position_ids: bool, n: int) -> Callable[[int], list[Tensor]]:
    token = torch.tensor([[min(17, vocabulary_size(model) - 1)]], device=model.device)

    def keys_at(position: int) -> list[Tensor]:
        cache = DynamicCache()
        extra = {"position_ids": torch.tensor([[position]], device=model.device)} if takes_position_ids else {}
        model(input_ids=token, use_cache=True, **with_cache(model, cache), **extra)
        keys = [layer.keys for layer in cache.layers if isinstance(layer.keys, Tensor)]
        if len(keys) != n or any(key.dim() != 4 or key.shape[2] != 1 for key in keys):
            raise UnsupportedModelError(
                f"{type(model).__name__} does not keep one row of keys per token and layer, so rows cannot be reused."
            )
        return keys

    return keys_at


def _mask_of(model: PreTrainedModel, layer: nn.Module, attention_mask: list[int] | None = None) -> Tensor | None:
    """The mask that the model gives to ``layer`` for a prompt of four tokens; None: it gives none."""
    masks: list[Tensor] = []

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if isinstance(kwargs.get("attention_mask"), Tensor):
            masks.append(kwargs["attention_mask"])

    handle = layer.register_forward_pre_hook(look, with_kwargs=True)
    try:
        ids = torch.zeros((1, 4), dtype=torch.int64, device=model.device)
        padding = None if attention_mask is None else torch.tensor([attention_mask], device=model.device)
        model(input_ids=ids, attention_mask=padding, use_cache=False)
    finally:
        handle.remove()
    return masks[0] if masks else None


def _by_rows(model: PreTrainedModel, layers: list[nn.Module]) -> bool:
    """Whether every layer hands the marker on to an attention that can go by rows."""
    devices = {parameter.device for layer in layers for parameter in layer.parameters()}
    if len(devices) > 1 or not can_attend_by_rows(model):
        return False
    marker, calls = torch.zeros((1, 1, 1, 1), device=model.device), chosen.calls
    shapes: set[tuple[int, int, int]] = set()

    def note(layer: int, query: Tensor, key: Tensor, *_: object) -> None:
        shapes.add((query.shape[1], key.shape[1], query.shape[3]))

    def mark(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        kwargs["attention_mask"] = marker
        return args, kwargs

    handles = [layer.register_forward_pre_hook(mark, with_kwargs=True) for layer in layers]
    chosen.marker, chosen.rows, chosen.watch = marker, torch.arange(4, device=model.device), note
    try:
        with config_switched(model, NAME):
            model(input_ids=torch.zeros((1, 4), dtype=torch.int64, device=model.device), use_cache=False)
        for shape in shapes:
            try_kernel(*shape, model.dtype, model.device)
    except Exception as error:  # a compiler that is missing, a card whose memory is too small for a block, ...
        warnings.warn(
            f"{type(error).__name__}: {error} So this model attends with masks, which is slower.", stacklevel=4
        )
        return False
    finally:
        chosen.marker = chosen.rows = chosen.watch = None
        for handle in handles:
            handle.remove()
    return chosen.calls == calls + len(layers)


def _mask_format(model: PreTrainedModel, layer: nn.Module) -> MaskFormat:
    """The format of the mask that the model makes when it cannot do without one: a token is padding."""
    mask = _mask_of(model, layer, attention_mask=[0, 1, 1, 1])
    if mask is None or mask.dim() != 4:
        raise UnsupportedModelError(
            f"{type(model).__name__} with attention {model.config._attn_implementation!r} gives its layers no "
            "4-D attention mask; load it with attn_implementation='sdpa' or 'eager'."
        )
    if mask.dtype != torch.bool or uses_sdpa(model):
        return "additive"  # sdpa takes both, and turns a bool mask into this one in every layer
    return "masked" if bool(mask[0, 0, 1, -1]) else "attend"


def _static_until(config: Any) -> int | None:
    """RoPE of the kinds ``dynamic`` and ``longrope`` is static only within the original context."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)] or [parameters]
    limits = [
        rope.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or config.max_position_embeddings
        for rope in nested
        if rope.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(limits, default=None)
