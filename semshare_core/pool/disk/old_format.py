"""Folders of formats 1 to 3: a folder for each model, and in it files of JSON and of tensors. They are not converted.

Converting would mean to keep the readers of three formats for entries that are only a cache. Whoever has such a folder
is told what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from semshare_core.errors import PoolFileError
from semshare_core.pool.disk.atomic import PART, names_in, remove

_FOLDER = re.compile(rf"[0-9a-f]{{32}}({PART})?")
_FILE = re.compile(rf"(pool\.json|namespace\.json|[0-9a-f]{{32}}\.(entry|rows))({PART})?")


def refuse_old_format(path: Path) -> None:
    """Raises :class:`PoolFileError` where a folder has a pool of an earlier version in it."""
    if next(_models(path), None) is not None:
        raise PoolFileError(
            f"{path} holds a pool that an earlier version of SemShare wrote, in a format that this one does not read. Its "
            f"entries are only a cache: delete them with `semshare pool clear {path}`, or choose another folder."
        )


def remove_old_format(path: Path) -> int:
    """Delete the files that earlier versions wrote, and no others; returns how many. Raises :class:`PoolFileError`."""
    count = 0
    for model in _models(path):
        inside = [model / name for name in names_in(model) if _FOLDER.fullmatch(name)]
        for folder in (*(each for each in inside if each.is_dir() and not each.is_symlink()), model):
            for name in names_in(folder):
                if _FILE.fullmatch(name) and not (folder / name).is_dir():
                    remove(folder / name)
                    count += 1
            with suppress(OSError):  # someone else's file is in it
                folder.rmdir()
    return count


def _models(path: Path) -> Iterator[Path]:
    for name in names_in(path):
        folder = path / name
        if _FOLDER.fullmatch(name) and folder.is_dir() and not folder.is_symlink() and (folder / "pool.json").exists():
            yield folder
