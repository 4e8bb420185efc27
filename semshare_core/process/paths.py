"""Paths that mean the same whatever the current folder becomes."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import platformdirs

from semshare_core.errors import ConfigError

CACHE_VARIABLE = "SEMSHARE_CACHE"


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
    """``path`` in absolute form, a ``~`` at its beginning included.

    Raises:
        ConfigError: there is no such user, or the current folder was deleted.
    """
    try:
        return at_home(path).absolute()
    except OSError as error:
        raise ConfigError(f"the current folder is gone ({error}): pass an absolute path.") from error


def located(name: object) -> object:
    """A path, or the name of a file or folder that is there, in absolute form; a hub id or an object as it is.

    What is named now and read later must not depend on ``os.chdir`` in between.
    """
    if isinstance(name, os.PathLike):
        return absolute(name)
    if isinstance(name, str) and name.strip() and at_home(name).exists():
        return str(absolute(name))
    return name


def cache_dir() -> Path:
    """The user's cache folder for SemShare, or the folder that ``SEMSHARE_CACHE`` names; it need not exist yet."""
    override = os.environ.get(CACHE_VARIABLE, "").strip()
    return _absolute_once(override) if override else platformdirs.user_cache_path("semshare", appauthor=False)


_absolute_once = functools.cache(absolute)
"""The cache folder does not move when the process changes its current folder."""
