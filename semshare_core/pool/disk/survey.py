"""All models that a pool's folder has something of, without loading any of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semshare_core.errors import PoolFileError, PoolWarning
from semshare_core.pool.disk.checked_file import damaged
from semshare_core.pool.disk.fingerprint import Fingerprint
from semshare_core.pool.disk.folder import MANIFEST, PoolFolder
from semshare_core.pool.disk.lock import LOCK_NAME
from semshare_core.pool.disk.manifest import PoolManifest, read_manifest
from semshare_core.pool.disk.shelf import FOLDER_NAME, sizes_in
from semshare_core.pool.disk.skipped import Skipped


def survey(path: Path) -> tuple[list[Fingerprint], list[Skipped]]:
    """The models, as their manifests describe them, and the manifests that cannot be used.

    Raises:
        PoolFileError: there is no such folder, or no pool has ever been in it.
    """
    if path.is_file():
        raise PoolFileError(
            f"{path} is a file and no pool's folder. The entries of an export are looked at in the folder "
            "that they were imported to (semshare pool import FOLDER ARCHIVE)."
        )
    if not path.is_dir():
        raise PoolFileError(f"There is no pool folder {path}: name one that a pool has written to.")
    inside = sizes_in(path)
    names = sorted(name for name in inside if FOLDER_NAME.match(name))
    if not names and LOCK_NAME not in inside:
        raise PoolFileError(f"{path} is no pool's folder: name the one that PoolConfig(path=...) has.")
    models, skipped = [], []
    for name in names:
        manifest = path / name / MANIFEST
        try:
            model = Fingerprint(read_manifest(PoolManifest, manifest).fingerprint)
            if model.digest != name:
                raise damaged(manifest, "it describes another model than its folder's name")
            models.append(model)
        except PoolFileError as error:
            skipped.append(Skipped.of(manifest, error))
    return models, skipped


@contextmanager
def quietly(path: Path, model: Fingerprint, *, read_only: bool) -> Iterator[PoolFolder]:
    """A :class:`PoolFolder` opened without warnings, for those who read :meth:`PoolFolder.skipped` themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PoolWarning)
        folder = PoolFolder(path, model, read_only=read_only)
    with folder:
        yield folder
