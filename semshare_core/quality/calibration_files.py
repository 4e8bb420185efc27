"""Calibration files: one per model, tokenizer and dtype, in the user's cache folder or in this package."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from pydantic import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core.budget.calibration import Calibration
from semshare_core.errors import ConfigError, QualityWarning
from semshare_core.model.fingerprint import fingerprint
from semshare_core.process.paths import cache_dir
from semshare_core.process.whole_file import written_whole

_SHIPPED = Path(__file__).with_name("shipped")
_PARTS = ("architecture", "config", "weights", "tokenizer", "dtype")


def identity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The model, tokenizer and dtype that a calibration belongs to. Embedding and storage do not matter."""
    parts = fingerprint(model, tokenizer, embedding="").description
    return {name: parts[name] for name in _PARTS}


def calibration_file(parts: Mapping[str, str]) -> Path:
    """The path of a model's calibration in the user's cache folder. The file need not exist."""
    return cache_dir() / "calibrations" / _name(parts)


def find_calibration(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Calibration | None:
    """The user's calibration of this model, else the one in this package, else None."""
    places = [cache_dir() / "calibrations", _SHIPPED]
    if not any(place.is_dir() and any(place.glob("*.json")) for place in places):
        return None  # before the weights are read, which takes time
    parts = identity(model, tokenizer)
    for place in places:
        path = place / _name(parts)
        if path.is_file():
            try:
                return _checked(read_calibration(path), parts)
            except ConfigError as error:
                message = f"{error} The model counts as uncalibrated. The file is {path}."
                warnings.warn(message, QualityWarning, stacklevel=2)
                return None
    return None


def calibration_for(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, setting: Calibration | str | None
) -> Calibration | None:
    """The calibration for an engine's ``calibration=`` setting.

    Raises:
        ConfigError: the setting is no calibration, or another model's.
    """
    if setting is None:
        return None
    if isinstance(setting, Calibration):
        return _checked(setting, identity(model, tokenizer))
    if setting == "auto":
        return find_calibration(model, tokenizer)
    raise ConfigError(
        f"calibration={setting!r} is not a calibration: pass 'auto', None, or the result of "
        "semshare_core.quality.calibration_files.read_calibration(path)."
    )


def read_calibration(path: Path | str) -> Calibration:
    """Read a calibration from a file.

    Raises:
        ConfigError: the file cannot be read, or is not a calibration.
    """
    try:
        return Calibration.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise ConfigError(f"{path} is not a calibration: {error} Make it again with `semshare calibrate`.") from error


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration to a file. An interruption leaves no half-written file.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.write(calibration.to_json().encode())
    except OSError as error:
        raise ConfigError(f"the calibration cannot be written to {path}: {error}. Pass another --out.") from error


def _checked(calibration: Calibration, parts: Mapping[str, str]) -> Calibration:
    """The calibration if it belongs to the model with the identity ``parts``; otherwise raises ConfigError."""
    theirs = calibration.fingerprint
    different = [name for name in _PARTS if theirs.get(name) != parts[name]]
    if different:
        raise ConfigError(
            f"calibration {calibration.name} belongs to another model ({theirs.get('architecture')}, "
            f"{theirs.get('dtype')}) than this one ({parts['architecture']}, {parts['dtype']}): {', '.join(different)} "
            "differ. Calibrate this model with `semshare calibrate`, in the dtype in which you serve it."
        )
    return calibration


def _name(parts: Mapping[str, str]) -> str:
    text = "\n".join(f"{name} {parts[name]}" for name in _PARTS)
    return f"{blake2b(text.encode(), digest_size=12).hexdigest()}.json"
