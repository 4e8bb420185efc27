"""A look into a GGUF file before it is loaded, so that an error can say what is wrong with it."""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFReader

from semshare_core.errors import ModelError


def gguf_architecture(path: Path) -> str:
    """The architecture that a GGUF file declares (``llama``, ``qwen2``, ...).

    Raises:
        ModelError: the file is no GGUF, is cut short, or does not say.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    if magic != b"GGUF":
        raise ModelError(f"{path} is not a GGUF file (it does not start with 'GGUF'). Was the download complete?")
    try:
        field = GGUFReader(path).fields.get("general.architecture")
        architecture = field.contents() if field is not None else None
    except Exception as error:  # the reader trusts the file, so damage surfaces as any kind of error
        raise ModelError(
            f"{path} is a damaged GGUF file, or of a version that cannot be read ({type(error).__name__}: {error}). "
            "Download it again."
        ) from error
    if not isinstance(architecture, str) or not architecture:
        raise ModelError(f"{path} does not say which architecture it holds (general.architecture is missing).")
    return architecture
