"""Which models can be served. A model is refused before the first prompt instead of answering wrongly after it.

SemShare moves rows of a KV cache to other positions and recomputes some of them. That needs one key and one value row
per token and layer, made by causal attention that every later token may look back at. What breaks this is refused by
its configuration where that says so, and by one forward pass over a few tokens where it does not. Position schemes are
measured later (``model/rotary.py``).
"""

from __future__ import annotations

from typing import NoReturn

import torch
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from semshare_core.errors import TokenizerMismatchError, UnsupportedModelError
from semshare_core.model.cache_argument import with_cache

UNBOUNDED = 2**31 - 1
"""What :func:`max_context` returns for a model that declares no limit (ALiBi models often do not)."""

_LAYER_REASONS = {
    "chunked_attention": "chunked attention: a token cannot look back beyond its chunk, so moved rows change meaning",
    "linear_attention": "state-space or linear-attention layers: they keep one running state, not a row per token",
    "mamba": "state-space layers: they keep one running state, not a row per token",
    "conv": "convolution layers: they keep one running state, not a row per token",
    "hybrid": "layers that mix attention with a running state",
    "hybrid_sliding": "layers that mix attention with a running state",
    "dummy": "cross-layer KV sharing: some layers have no keys and values of their own",
}
_CONTEXT_NAMES = ("max_position_embeddings", "max_sequence_length", "max_seq_len", "n_positions", "n_ctx", "seq_length")
_UNSCALED_ROPE = {"default", "llama3", "longrope", "su", "mrope", "proportional"}
_PROBE_TOKENS = 8


def check_config(config: PreTrainedConfig, *, brings_code: bool = False) -> None:
    """Refuse what the configuration alone gives away, before any weight is read.

    Args:
        brings_code: the model may be a class of its own, whose code is run.

    Raises:
        UnsupportedModelError: with the reason.
    """
    _check_layers(config)
    if brings_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        _refuse(config, "it has no causal language-model head")
    classes = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if any(each._is_stateful for each in (classes if isinstance(classes, tuple) else (classes,))):
        _refuse(config, _LAYER_REASONS["linear_attention"])


def check_servable(model: PreTrainedModel) -> None:
    """Refuse a model whose KV cache cannot be rearranged.

    Raises:
        UnsupportedModelError: with the reason.
    """
    config = model.config
    _check_layers(config)
    if not model.can_generate() or model.get_output_embeddings() is None:
        _refuse(config, f"{type(model).__name__} has no causal language-model head")
    if model._is_stateful:
        _refuse(config, _LAYER_REASONS["linear_attention"])
    if away := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        _refuse(
            config,
            f"{len(away)} of its weights ({away[0]}, ...) are offloaded: every pass fetches them, and nobody could "
            "tell when they change. Keep it all on devices: quantise it (quantization_config), spread it (device_map "
            "without 'disk', nor 'cpu' beside an accelerator), use a smaller dtype or model, or undo accelerate's "
            "cpu_offload or disk_offload (accelerate.hooks.remove_hook_from_submodules)",
        )
    implementation = getattr(config.get_text_config(decoder=True), "_attn_implementation", None)
    if implementation not in ("sdpa", "eager"):
        _refuse(
            config,
            f"the attention implementation {implementation!r} takes no explicit mask; load the model with "
            "attn_implementation='sdpa' (or 'eager'), or call model.set_attn_implementation('sdpa')",
        )
    _probe(model)


def _check_layers(config: PreTrainedConfig) -> None:
    text = config.get_text_config(decoder=True)
    if config.is_encoder_decoder:
        _refuse(config, "it is an encoder-decoder: its keys depend on an encoder's output")
    if getattr(text, "kv_lora_rank", None):
        _refuse(config, "multi-latent attention (kv_lora_rank): its cache holds compressed latents, not plain keys")
    if getattr(text, "num_kv_shared_layers", 0) or getattr(text, "use_cla", False):
        _refuse(config, _LAYER_REASONS["dummy"])
    layer_types = list(getattr(text, "layer_types", None) or [])
    if not layer_types and getattr(text, "attention_chunk_size", None):
        layer_types = ["chunked_attention"]
    for layer_type in layer_types:
        if layer_type not in ("full_attention", "sliding_attention"):
            _refuse(config, _LAYER_REASONS.get(layer_type, f"layers of the kind {layer_type!r}"))


def check_pair(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that can produce ids for which the model has no embedding.

    The opposite, more embeddings than tokens, is common (tables are padded) and fine.

    Raises:
        TokenizerMismatchError: naming the first tokens without a row.
    """
    rows = vocabulary_size(model)
    beyond = sorted((index, token) for token, index in tokenizer.get_vocab().items() if index >= rows)
    if beyond:
        shown = ", ".join(f"{token!r} = {index}" for index, token in beyond[:3])
        raise TokenizerMismatchError(
            f"The tokenizer does not fit the model: {len(beyond)} of its tokens have no embedding ({shown}; the model "
            f"has {rows} rows). Use the model's own tokenizer, or call model.resize_token_embeddings(len(tokenizer))."
        )


def vocabulary_size(model: PreTrainedModel) -> int:
    """How many token ids have an embedding. The weight tells it also where adapters wrap the table in a module."""
    return int(model.get_input_embeddings().weight.shape[0])


def max_context(model: PreTrainedModel) -> int:
    """The largest number of tokens the model is made for, prompt and answer together.

    Configurations name it differently: the largest declared value wins, ``UNBOUNDED`` if there is none. For some kinds
    of RoPE scaling the declared value may be the length before it, which is scaled here.
    """
    config = model.config.get_text_config(decoder=True)
    declared = [value for name in _CONTEXT_NAMES if isinstance(value := getattr(config, name, None), int) and value > 0]
    if not declared:
        return UNBOUNDED
    length = max(declared)
    rope = getattr(config, "rope_parameters", None) or {}
    kind, factor = rope.get("rope_type", "default"), rope.get("factor")
    if kind in _UNSCALED_ROPE or not isinstance(factor, int | float):
        return length
    return max(length, int((rope.get("original_max_position_embeddings") or length) * factor))


@torch.no_grad()
def _probe(model: PreTrainedModel) -> None:
    """Run two prompts that differ in the last token: are there rows per layer, and is attention causal?"""
    config = model.config
    n_layers, rows = config.get_text_config(decoder=True).num_hidden_layers, vocabulary_size(model)
    first = torch.arange(_PROBE_TOKENS, device=model.get_input_embeddings().weight.device)[None] % rows
    second = first.clone()
    second[0, -1] = (_PROBE_TOKENS + 1) % rows
    cache = DynamicCache()
    try:
        before = model(input_ids=first, **with_cache(model, cache), use_cache=True).logits
        after = model(input_ids=second, **with_cache(model, DynamicCache()), use_cache=True).logits
    except Exception as error:  # the model's own code, which may fail in any way
        raise UnsupportedModelError(
            f"{_name(config)} cannot be served: a forward pass over {_PROBE_TOKENS} tokens with a KV cache "
            f"failed ({type(error).__name__}: {error})."
        ) from error
    kept = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None and layer.keys.dim() == 4]
    full = [layer for layer in kept if layer.keys.shape[-2] == layer.values.shape[-2] == _PROBE_TOKENS]
    if len(full) != n_layers:
        _refuse(
            config,
            f"only {len(full)} of its {n_layers} layers keep one key and value row per token in the KV "
            "cache (cross-layer KV sharing, a cache of its own, or layers without attention)",
        )
    change = (before[0, :-1] - after[0, :-1]).abs().max()
    if change > 1e-2 * before.abs().max().clamp(min=1e-6):
        _refuse(config, "its attention is not causal: a later token changes what earlier ones predict")


def _name(config: PreTrainedConfig) -> str:
    return str(getattr(config, "model_type", None) or type(config).__name__)


def _refuse(config: PreTrainedConfig, reason: str) -> NoReturn:
    raise UnsupportedModelError(f"{_name(config)} cannot be served: {reason}.")
