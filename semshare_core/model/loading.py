"""Which of transformers' loading settings are passed on, and what a quantised model must be spared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from semshare_core.errors import ConfigError
from semshare_core.suggestion import did_you_mean

_OF_THE_SOURCE = {
    "cache_dir",
    "code_revision",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
}
_OF_THE_WEIGHTS = {
    "adapter_kwargs",
    "adapter_name",
    "attn_implementation",
    "device_mesh",
    "disable_mmap",
    "experts_implementation",
    "generation_config",
    "kernel_config",
    "key_mapping",
    "low_cpu_mem_usage",
    "max_memory",
    "offload_buffers",
    "offload_folder",
    "quantization_config",
    "tp_plan",
    "tp_size",
    "use_kernels",
    "use_safetensors",
    "variant",
    "weights_only",
}
LOADING = _OF_THE_SOURCE | _OF_THE_WEIGHTS
"""Settings of transformers' ``from_pretrained`` that ``model_kwargs`` may hold; ``torch_dtype``, too, for ``dtype``."""


def unknown_loading(names: Mapping[str, Any], others: tuple[str, ...] = ()) -> ConfigError | None:
    """The error that names the settings which nobody takes, with the nearest ones that there are; None: all are known.

    Args:
        others: what may stand beside them.
    """
    known = sorted({*LOADING, *others})
    unknown = sorted(set(names) - set(known))
    if not unknown:
        return None
    return ConfigError(
        f"model_kwargs cannot hold {', '.join(unknown)}, only {', '.join(known)}. What has a name of its own is set "
        f"there: dtype, device, device_map, gguf_file, pool, ...{did_you_mean(unknown, known)}"
    )


def split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings that say where everything comes from (configuration, tokenizer and weights), and those of the weights.

    Raises:
        ConfigError: an unknown name.
    """
    error = unknown_loading(settings)
    if error is not None:
        raise error
    source = {name: value for name, value in settings.items() if name in _OF_THE_SOURCE}
    return source, {name: value for name, value in settings.items() if name not in source}


def is_quantised(config: PreTrainedConfig, settings: Mapping[str, Any]) -> bool:
    """Whether the weights are quantised as they are loaded, or were when they were saved."""
    asked = settings.get("quantization_config")
    return asked is not None or getattr(config, "quantization_config", None) is not None


def placed_by_loading(model: PreTrainedModel) -> bool:
    """Whether a model lies where it must be: ``.to`` would be refused, or undo what was spread over devices."""
    spread = getattr(model, "hf_device_map", None) is not None
    return spread or bool(getattr(model, "is_quantized", False)) or hasattr(model, "quantization_method")


def on_one_device(placement: torch.device) -> dict[str, torch.device]:
    """The ``device_map`` of a whole model on one device."""
    return {"": placement}
