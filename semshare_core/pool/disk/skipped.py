"""What is passed over in a pool's folder, said once for each kind."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from semshare_core.errors import DamagedFileError, ForeignFileError, NewerFileError, PoolFileError, PoolWarning

_KINDS: dict[type[PoolFileError], tuple[str, str]] = {
    DamagedFileError: ("damaged", "cannot be used; whoever opens the folder for writing deletes them"),
    NewerFileError: ("newer", "need a later version of SemShare or a codec that is not here, and stay where they are"),
    ForeignFileError: ("foreign", "belong to another model, tokenizer or dtype, and stay while disk_bytes has room"),
}


def kind(error: PoolFileError) -> str:
    """One word for what is the matter."""
    return _KINDS.get(type(error), ("unreadable", ""))[0]


def warn_of(skipped: Sequence[PoolFileError]) -> None:
    """One :class:`PoolWarning` for each kind, with the first of them."""
    for each, (name, consequence) in _KINDS.items():
        errors = [error for error in skipped if type(error) is each]
        if errors:
            message = f"{len(errors)} {name} part(s) of the pool {consequence}. The first: {errors[0]}"
            warnings.warn(message, PoolWarning, stacklevel=3)
