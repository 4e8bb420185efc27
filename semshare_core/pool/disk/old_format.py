"""Folders of formats 1 to 3: a folder for each model, and in it files of JSON and of tensors. They are not converted.

Converting would mean to keep the readers of three formats for entries that are only a cache. Whoever has such a folder
is told what to do.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from semshare_core.errors import PoolFileError
from semshare_core.pool.disk.atomic import cannot, names_in

_MODEL = re.compile(r"[0-9a-f]{32}")


def models_of_old_formats(path: Path) -> list[Path]:
    """The folders of models that earlier versions wrote. Raises :class:`PoolFileError`."""
    folders = [path / name for name in names_in(path) if _MODEL.fullmatch(name)]
    return [folder for folder in folders if not folder.is_symlink() and (folder / "pool.json").is_file()]


def refuse_old_formats(path: Path) -> None:
    """Raises :class:`PoolFileError` where a folder has a pool of an earlier version in it."""
    if models_of_old_formats(path):
        raise PoolFileError(
            f"{path} holds a pool that an earlier version of SemShare wrote, in a format that this one does not read. "
            f"Its entries are only a cache: delete them with `semshare pool clear {path}`, or choose another folder."
        )


def remove_old_formats(path: Path) -> None:
    """Delete what earlier versions wrote. Raises :class:`PoolFileError`."""
    for folder in models_of_old_formats(path):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise cannot("delete", folder, error) from error
