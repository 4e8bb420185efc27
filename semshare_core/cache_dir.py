"""Where files that can be made again are kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "SEMSHARE_CACHE"


def cache_dir() -> Path:
    """The user's cache folder for SemShare, or the folder that ``SEMSHARE_CACHE`` names; it need not exist yet."""
    override = os.environ.get(CACHE_VARIABLE, "").strip()
    if override:
        return Path(override).expanduser().absolute()
    return platformdirs.user_cache_path("semshare", appauthor=False)
