"""Checks of what a caller passes as model, tokenizer and pool. Errors say what to pass instead."""

from __future__ import annotations

import os
from typing import Any

from transformers import Pipeline, PreTrainedModel, PreTrainedTokenizerBase

from semshare_core.config import PoolConfig
from semshare_core.errors import ConfigError
from semshare_core.model.weights import without_wrapper


def unwrap_model(model: Any) -> PreTrainedModel:
    """The transformers model inside of ``model``, which may be PEFT's wrapper or that of ``torch.compile``.

    Compiled code is not used: hooks between the layers compute chosen rows, which it cannot do.

    Raises:
        ConfigError: there is none. UnsupportedModelError: its adapter works on prompts.
    """
    inside = without_wrapper(getattr(model, "_orig_mod", model))
    inside = without_wrapper(getattr(inside, "_orig_mod", inside))  # adapted, then compiled; or the other way round
    if isinstance(inside, PreTrainedModel):
        return inside
    remedy = "pass what AutoModelForCausalLM.from_pretrained returns, or use SemShareEngine.from_pretrained"
    if isinstance(model, Pipeline):
        remedy = "pass pipe.model and pipe.tokenizer"
    elif _is_location(model):
        remedy = f"load it with SemShareEngine.from_pretrained({os.fspath(model)!r})"
    elif isinstance(model, PreTrainedTokenizerBase):
        remedy = "the model comes first, then its tokenizer"
    elif isinstance(getattr(model, "module", None), PreTrainedModel):
        remedy = "pass what it wraps, model.module"
    raise ConfigError(f"model is {_describe(model)}, not a transformers model: {remedy}.")


def check_tokenizer(tokenizer: Any) -> None:
    """Raises :class:`ConfigError` unless ``tokenizer`` is a transformers tokenizer."""
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return
    remedy = "pass what AutoTokenizer.from_pretrained returns for the model"
    if isinstance(getattr(tokenizer, "tokenizer", None), PreTrainedTokenizerBase):
        remedy = "pass its .tokenizer"
    elif _is_location(tokenizer):
        remedy = f"load it with AutoTokenizer.from_pretrained({os.fspath(tokenizer)!r})"
    elif type(tokenizer).__module__.partition(".")[0] == "tokenizers":
        remedy = "wrap it, PreTrainedTokenizerFast(tokenizer_object=tokenizer)"
    raise ConfigError(f"tokenizer is {_describe(tokenizer)}, not a transformers tokenizer: {remedy}.")


def check_pool(pool: Any) -> None:
    """Raises :class:`ConfigError` unless ``pool`` is a :class:`PoolConfig` or None."""
    if pool is not None and not isinstance(pool, PoolConfig):
        path = f"path={os.fspath(pool)!r}" if _is_location(pool) else "..."
        remedy = f"PoolConfig({path}){' keeps it in that folder' if _is_location(pool) else ''}"
        raise ConfigError(f"pool is {_describe(pool)}, not a PoolConfig: {remedy}.")


def check_location(model_id: Any, gguf_file: Any, tokenizer: Any) -> None:
    """Raises :class:`ConfigError` unless these can name a model, a file (or None) and a tokenizer (or be one)."""
    if isinstance(model_id, PreTrainedModel):
        raise ConfigError("model_id names what is loaded, and this model is already: SemShareEngine(model, tokenizer).")
    if not _is_location(model_id):
        raise ConfigError(f"model_id is {_describe(model_id)}: give a hub id, a folder, a .gguf file, or 'demo'.")
    if gguf_file is not None and not _is_location(gguf_file):
        raise ConfigError(f"gguf_file is {_describe(gguf_file)}: give the name of a file.")
    if tokenizer is not None and not _is_location(tokenizer):
        check_tokenizer(tokenizer)


def _is_location(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


def _describe(value: Any) -> str:
    if value is None or isinstance(value, str | bytes | int | float):
        return repr(value)
    return f"the class {value.__qualname__}" if isinstance(value, type) else f"a {type(value).__qualname__}"
