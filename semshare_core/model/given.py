"""What was handed over as model and tokenizer: taken out of what wraps it, or refused with what to pass instead."""

from __future__ import annotations

import os
from typing import Any

from transformers import Pipeline, PreTrainedModel, PreTrainedTokenizerBase

from semshare_core.config import PoolConfig
from semshare_core.errors import ConfigError
from semshare_core.model.weights import without_wrapper


def given_model(model: Any) -> PreTrainedModel:
    """The transformers model inside of ``model``, which may be PEFT's wrapper or that of ``torch.compile``.

    Compiled code is left out: calls compute chosen rows, by hooks between the layers.

    Raises:
        ConfigError: it is none. UnsupportedModelError: its adapter works on prompts.
    """
    inside = without_wrapper(getattr(model, "_orig_mod", model))
    inside = without_wrapper(getattr(inside, "_orig_mod", inside))  # compiled, then adapted; or the other way round
    if isinstance(inside, PreTrainedModel):
        return inside
    raise ConfigError(f"model is {_named(model)}, not a transformers model: {_instead_of_model(model)}.")


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse what is no transformers tokenizer.

    Raises:
        ConfigError: with what to pass instead.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ConfigError(f"tokenizer is {_named(tokenizer)}, not a transformers tokenizer: {_instead_of(tokenizer)}.")


def check_pool(pool: Any) -> None:
    """Refuse what is no configuration of a pool.

    Raises:
        ConfigError: with what to pass instead.
    """
    if pool is not None and not isinstance(pool, PoolConfig):
        instead = (
            f"PoolConfig(path={os.fspath(pool)!r}) keeps it in that folder" if _is_place(pool) else "PoolConfig(...)"
        )
        raise ConfigError(f"pool is {_named(pool)}, not a PoolConfig: {instead}.")


def check_place(model_id: Any, gguf_file: Any, tokenizer: Any) -> None:
    """Refuse what names no place to load from.

    Raises:
        ConfigError: with what to pass instead.
    """
    if isinstance(model_id, PreTrainedModel):
        raise ConfigError("model_id names what is loaded, and this model is already: SemShareEngine(model, tokenizer).")
    if not _is_place(model_id):
        raise ConfigError(f"model_id is {_named(model_id)}: give a hub id, a folder, a .gguf file, or 'demo'.")
    if gguf_file is not None and not _is_place(gguf_file):
        raise ConfigError(f"gguf_file is {_named(gguf_file)}: give the name of a file.")
    if tokenizer is not None and not _is_place(tokenizer):
        check_tokenizer(tokenizer)


def _is_place(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


def _instead_of_model(model: Any) -> str:
    if isinstance(model, Pipeline):
        return "pass pipe.model and pipe.tokenizer"
    if _is_place(model):
        return f"load it with SemShareEngine.from_pretrained({os.fspath(model)!r})"
    if isinstance(model, PreTrainedTokenizerBase):
        return "the model comes first, then its tokenizer"
    if isinstance(getattr(model, "module", None), PreTrainedModel):
        return "pass what it wraps, model.module"
    return "pass what AutoModelForCausalLM.from_pretrained returns, or use SemShareEngine.from_pretrained"


def _instead_of(tokenizer: Any) -> str:
    if isinstance(getattr(tokenizer, "tokenizer", None), PreTrainedTokenizerBase):
        return "pass its .tokenizer"
    if _is_place(tokenizer):
        return f"load it with AutoTokenizer.from_pretrained({os.fspath(tokenizer)!r})"
    if type(tokenizer).__module__.partition(".")[0] == "tokenizers":
        return "wrap it, PreTrainedTokenizerFast(tokenizer_object=tokenizer)"
    return "pass what AutoTokenizer.from_pretrained returns for the model"


def _named(value: Any) -> str:
    if value is None or isinstance(value, str | bytes | int | float):
        return repr(value)
    return f"the class {value.__qualname__}" if isinstance(value, type) else f"a {type(value).__qualname__}"
