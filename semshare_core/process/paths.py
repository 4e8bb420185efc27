"""Paths that mean the same whatever the current folder becomes."""

from __future__ import annotations

import os
from pathlib import Path

from semshare_core.errors import ConfigError


def at_home(path: str | os.PathLike[str]) -> Path:
    """``path`` with the folder that a ``~`` at its beginning stands for.

    Raises:
        ConfigError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{os.fspath(path)} begins with no user's folder: pass an absolute path.") from error


def absolute(path: str | os.PathLike[str]) -> Path:
    """``path`` as it is meant now, whatever the current folder becomes.

    Raises:
        ConfigError: there is no such user, or the current folder was deleted.
    """
    try:
        return at_home(path).absolute()
    except OSError as error:
        raise ConfigError(f"the current folder is gone ({error}): pass an absolute path.") from error


def located(named: object) -> object:
    """A path, or the name of a file or folder that is there, in absolute form; a hub id or an object as it is.

    What is read later than it is named must not depend on ``os.chdir`` in between.
    """
    if isinstance(named, os.PathLike):
        return absolute(named)
    if isinstance(named, str) and named.strip() and at_home(named).exists():
        return str(absolute(named))
    return named
