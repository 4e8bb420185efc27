"""The journal of a calibration that is being made: what is measured is written at once, and a later run reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from semshare_core.budget.calibration import RATIOS, Calibration, Observation
from semshare_core.errors import ConfigError


class Journal:
    """A JSONL file: the first line tells whose the observations are and how they were made, each other line is one.

    What stands behind the end of the last line was broken off, and is cut off.

    Args:
        path: of the file, which is begun if there is none.
        fingerprint: of the model, as its calibration will have it.

    Raises:
        ConfigError: the file is another model's or another version's, or cannot be read or written.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, str]) -> None:
        self._path = path
        made_by = {"format": Calibration.model_fields["format"].default, "ratios": RATIOS}
        head = f"{json.dumps(made_by | {'fingerprint': dict(fingerprint)})}\n".encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            held = path.read_bytes()
            if not held.startswith(head) and not head.startswith(held):
                raise ConfigError(
                    f"{path} holds what was measured of another model or dtype, or by another version of SemShare. "
                    "Pass another --out to keep it, or delete that file to measure anew."
                )
            os.truncate(path, held.rfind(b"\n") + 1)
            if not held.startswith(head):
                self._write(head)
        except OSError as error:
            raise ConfigError(f"what is measured cannot be kept in {path}: {error}. Pass another --out.") from error

    def read(self) -> list[Observation]:
        """All observations so far; lines that are none are passed over."""
        found = []
        for line in self._path.read_bytes().splitlines()[1:]:
            try:
                found.append(Observation.model_validate_json(line))
            except ValidationError:
                continue
        return found

    def append(self, item: Observation) -> None:
        """Keep one more, so that it is there even if the process dies."""
        self._write(f"{item.model_dump_json()}\n".encode())

    def remove(self) -> None:
        """Once the calibration is made, it has them all."""
        self._path.unlink()

    def _write(self, data: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
