"""The journal of a calibration run. It is written after each measurement, so that a later run can go on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from semshare_core.budget.calibration import RATIOS, Calibration, Observation
from semshare_core.errors import ConfigError


class Journal:
    """A JSONL file. The first line names the model and the format; each other line is an observation.

    An incomplete last line is cut off.

    Args:
        path: the file. A missing file is created.
        fingerprint: of the model, as in its calibration.

    Attributes:
        path: the file.

    Raises:
        ConfigError: the file belongs to another model or version, or cannot be read or written.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, str]) -> None:
        self.path = path
        head = _head(fingerprint)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            content = path.read_bytes()
            if not content.startswith(head) and not head.startswith(content):
                raise ConfigError(
                    f"{path} has measurements of another model or dtype, or of another version of SemShare. "
                    "Pass another --out to keep it, or delete that file to measure again."
                )
            os.truncate(path, content.rfind(b"\n") + 1)
            if not content.startswith(head):
                self._write(head)
        except OSError as error:
            raise ConfigError(f"the measurements cannot be written to {path}: {error}. Pass another --out.") from error

    def read(self) -> list[Observation]:
        """All observations. Damaged lines are skipped."""
        return _observations(self.path.read_bytes())

    def append(self, items: Sequence[Observation]) -> None:
        """Write observations that belong together, such as a chain's. They survive the process."""
        self._write("".join(f"{item.model_dump_json()}\n" for item in items).encode())

    def remove(self) -> None:
        """Delete the file, once the calibration has all observations."""
        self.path.unlink()

    def _write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def read_journal(path: Path, fingerprint: Mapping[str, str]) -> list[Observation]:
    """The observations of a journal that another run wrote, or still writes. Damaged lines are skipped.

    Raises:
        ConfigError: the file belongs to another model or version, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the measurements {path} cannot be read: {error}.") from error
    if not content.startswith(_head(fingerprint)):
        raise ConfigError(f"{path} has no measurements of this model, dtype and version of SemShare.")
    return _observations(content)


def _head(fingerprint: Mapping[str, str]) -> bytes:
    version = {"format": Calibration.model_fields["format"].default, "ratios": RATIOS}
    return f"{json.dumps(version | {'fingerprint': dict(fingerprint)})}\n".encode()


def _observations(content: bytes) -> list[Observation]:
    observations = []
    for line in content.splitlines()[1:]:
        with suppress(ValidationError):
            observations.append(Observation.model_validate_json(line))
    return observations
