"""Where files that can be made again are kept."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import platformdirs

from semshare_core.process.paths import absolute

CACHE_VARIABLE = "SEMSHARE_CACHE"


def cache_dir() -> Path:
    """The user's cache folder for SemShare, or the folder that ``SEMSHARE_CACHE`` names; it need not exist yet."""
    override = os.environ.get(CACHE_VARIABLE, "").strip()
    if override:
        return _absolute(override)
    return platformdirs.user_cache_path("semshare", appauthor=False)


@functools.cache
def _absolute(override: str) -> Path:
    """Once for all: the folder does not move when the process goes to another one."""
    return absolute(override)
