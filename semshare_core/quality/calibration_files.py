"""Where calibrations are kept: a file per model, tokenizer and dtype, in the user's cache or shipped with us."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from pydantic import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core.budget.calibration import Calibration
from semshare_core.errors import ConfigError, QualityWarning
from semshare_core.pool.disk.fingerprint import fingerprint
from semshare_core.process.paths import cache_dir

_SHIPPED = Path(__file__).with_name("shipped")
_PARTS = ("architecture", "config", "weights", "tokenizer", "dtype")


def identity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What a calibration belongs to: model, tokenizer and dtype, however prompts are embedded or stored."""
    parts = fingerprint(model, tokenizer, embedding="").description
    return {name: parts[name] for name in _PARTS}


def calibration_file(parts: Mapping[str, str]) -> Path:
    """Where the calibration of a model is, or would be, in the user's cache."""
    return cache_dir() / "calibrations" / _name(parts)


def find_calibration(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Calibration | None:
    """The user's calibration of this very model, else the one that SemShare brings, else None."""
    places = [cache_dir() / "calibrations", _SHIPPED]
    if not any(place.is_dir() and any(place.glob("*.json")) for place in places):
        return None  # to look at the weights takes a moment
    parts = identity(model, tokenizer)
    for place in places:
        path = place / _name(parts)
        if path.is_file():
            try:
                return _checked(read_calibration(path), parts)
            except ConfigError as error:
                told = f"{error} The model counts as uncalibrated: it was looked for in {path}."
                warnings.warn(told, QualityWarning, stacklevel=2)
                return None
    return None


def calibration_for(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Calibration | str | None
) -> Calibration | None:
    """What an engine's ``calibration=`` asks for.

    Raises:
        ConfigError: it is no calibration, or another model's.
    """
    if asked is None:
        return None
    if isinstance(asked, Calibration):
        return _checked(asked, identity(model, tokenizer))
    if asked == "auto":
        return find_calibration(model, tokenizer)
    raise ConfigError(
        f"calibration={asked!r} is no calibration: pass what "
        "semshare_core.quality.calibration_files.read_calibration(path) gives, 'auto' or None."
    )


def read_calibration(path: Path | str) -> Calibration:
    """A calibration from a file.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    try:
        return Calibration.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise ConfigError(f"{path} is no calibration: {error} Make it again with `semshare calibrate`.") from error


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Through a neighbour, so that no half-written file is ever there.

    Raises:
        ConfigError: the folder cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(calibration.to_json(), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise ConfigError(f"the calibration cannot be written to {path}: {error}. Pass another --out.") from error


def _checked(calibration: Calibration, parts: Mapping[str, str]) -> Calibration:
    """The calibration, if it is that of the model whose identity is ``parts``; else raises ConfigError."""
    theirs = calibration.fingerprint
    other = [name for name in _PARTS if theirs.get(name) != parts[name]]
    if other:
        raise ConfigError(
            f"calibration {calibration.name} is that of another model ({theirs.get('architecture')}, "
            f"{theirs.get('dtype')}) than this one ({parts['architecture']}, {parts['dtype']}): {', '.join(other)} "
            "differ. Calibrate this model with `semshare calibrate`, in the dtype that it is served in."
        )
    return calibration


def _name(parts: Mapping[str, str]) -> str:
    told = "\n".join(f"{name} {parts[name]}" for name in _PARTS)
    return f"{blake2b(told.encode(), digest_size=12).hexdigest()}.json"
