"""Paths that mean the same whatever the current folder becomes."""

from __future__ import annotations

import os
from pathlib import Path


def located(named: object) -> object:
    """A path, or the name of a file or folder that is there, in absolute form; a hub id or an object as it is.

    What is read later than it is named must not depend on ``os.chdir`` in between.
    """
    if isinstance(named, os.PathLike):
        return Path(named).expanduser().absolute()
    if isinstance(named, str) and named.strip() and Path(named).expanduser().exists():
        return str(Path(named).expanduser().absolute())
    return named
