"""The settings of transformers' ``from_pretrained`` that ``model_kwargs`` may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semshare_core.errors import ConfigError
from semshare_core.suggestion import did_you_mean

_SOURCE = "cache_dir code_revision force_download local_files_only proxies revision subfolder token trust_remote_code"
_WEIGHTS = (
    "adapter_kwargs adapter_name attn_implementation device_mesh disable_mmap experts_implementation generation_config "
    "kernel_config key_mapping low_cpu_mem_usage max_memory offload_buffers offload_folder quantization_config tp_plan "
    "tp_size use_kernels use_safetensors variant weights_only"
)
OF_THE_SOURCE = frozenset(_SOURCE.split())
"""They hold for configuration, tokenizer and weights; all others for the weights alone."""


def unknown_loading(names: Mapping[str, Any], others: tuple[str, ...] = ()) -> ConfigError | None:
    """An error about the ``names`` that are neither loading settings nor ``others``, with similar ones; None if none.

    ``torch_dtype`` is not among them: ``load_model`` takes it for ``dtype`` before.
    """
    known = sorted({*OF_THE_SOURCE, *_WEIGHTS.split(), *others})
    unknown = sorted(set(names) - set(known))
    if not unknown:
        return None
    return ConfigError(
        f"model_kwargs cannot hold {', '.join(unknown)}, only {', '.join(known)}. What has a name of its own is set "
        f"there: dtype, device, device_map, gguf_file, pool, ...{did_you_mean(unknown, known)}"
    )
