"""Adapters (LoRA and its kin), as PEFT builds them into a model: which of them take part in what is computed now.

PEFT is not imported: its layers are known by their attributes. A layer wraps the one that it adapts and keeps its own
parts in dicts by adapter's name. The parts of an adapter that is off compute nothing. So a model's rows are the same
before the adapter was added, while it is off, and while another one is on.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from semshare_core.errors import UnsupportedModelError

OFF = ""
"""The :func:`state` of a layer whose adapters take no part."""

WRAPPED = ("base_layer", "original_module")
"""Under which name a layer keeps the one that it adapts."""

_SWITCHES = ("_active_adapter", "_disable_adapters", "merged_adapters")


def is_layer(module: nn.Module) -> bool:
    """Whether a module adapts another one."""
    return hasattr(type(module), "adapter_layer_names")


def settings(layer: nn.Module) -> list[str]:
    """Attributes of an adapting layer that say what it computes: switches, and settings by adapter's name."""
    names = (*_SWITCHES, *_of_adapters(layer))
    return [name for name in names if isinstance(getattr(layer, name), str | bool | list | dict)]


def state(module: nn.Module) -> str | None:
    """What an adapting layer adds now, as a text that is equal for equal settings; None: it adapts nothing.

    For example ``"['a'] {'lora_alpha': {'a': 8}, 'r': {'a': 4}, 'scaling': {'a': 2.0}}"``.
    """
    if not is_layer(module):
        return None
    active = _active(module)
    if not active:
        return OFF
    tables = {name: table for name in _of_adapters(module) if isinstance(table := getattr(module, name), dict)}
    chosen = {
        name: {key: table[key] for key in active if isinstance(table.get(key), str | bool | int | float)}
        for name, table in sorted(tables.items())
    }
    return f"{active} {chosen}"


def parts(module: nn.Module) -> tuple[tuple[str, ...], frozenset[str]]:
    """Names of an adapting layer's dicts of adapters' parts, and of the adapters that are on."""
    if not is_layer(module):
        return (), frozenset()
    return _of_adapters(module), frozenset(_active(module))


def _of_adapters(layer: Any) -> tuple[str, ...]:
    return tuple(name for name in (*layer.adapter_layer_names, *layer.other_param_names) if hasattr(layer, name))


def _active(layer: Any) -> list[str]:
    """The adapters that are on and have parts here. Merged ones are in the weights and counted there."""
    if layer._disable_adapters or layer.merged_adapters:
        return []
    active = layer._active_adapter
    active = [active] if isinstance(active, str) else list(active)
    dicts = [getattr(layer, name, None) for name in layer.adapter_layer_names]
    present = {key for each in dicts if isinstance(each, nn.ModuleDict | nn.ParameterDict) for key in each}
    return [name for name in active if name in present]


def without_wrapper(model: Any) -> PreTrainedModel:
    """The transformers model inside of PEFT's ``PeftModel``, adapters included; any other model as it is.

    Raises:
        UnsupportedModelError: the adapter works on prompts instead of in the layers.
    """
    configs = getattr(model, "peft_config", None)
    if isinstance(model, PreTrainedModel) or not isinstance(configs, dict) or not hasattr(model, "get_base_model"):
        return model
    for name, config in configs.items():
        if getattr(config, "is_prompt_learning", False):
            raise UnsupportedModelError(
                f"the adapter {name!r} ({config.peft_type}) cannot be served: it puts learned rows in front of every "
                "prompt instead of changing the model's layers. LoRA and other adapters of layers can."
            )
    return model.get_base_model()
