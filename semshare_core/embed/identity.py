"""The identity of an encoder: vectors of two encoders must never be compared."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from pydantic import BaseModel, SecretBytes, SecretStr

UNKNOWN_EMBEDDING = "unknown"
"""Of an encoder that cannot be told from another one: do not mix its vectors with those of another process."""


def embedding_identity(source: object) -> str:
    """A string that is the same, in any process, for encoders that give the same vectors.

    None is the served model's token table, which that model's own identity covers. The identity of a folder comes from
    its content (read once, about a second per gigabyte), that of a ``SentenceTransformer`` or other torch module from
    its weights and settings, that of a LangChain or LlamaIndex object from its fields without secrets, if one of them
    names the model. If that name is a local folder, its content counts. A service that changes a model behind its name
    is not noticed. All others, such as functions, are ``UNKNOWN_EMBEDDING``.

    Two identities may differ for equal vectors (another batch size), never the other way round as far as fields and
    weights tell.
    """
    if source is None:
        return "token-table"
    if isinstance(source, str | os.PathLike):
        return f"folder:{_folder_digest(Path(source))}"
    if isinstance(source, torch.nn.Module):
        return f"{_class(source)}:{_module_digest(source)}"
    if isinstance(source, BaseModel):
        return _of_fields(source)
    return UNKNOWN_EMBEDDING


def _of_fields(source: BaseModel) -> str:
    fields = {
        name: getattr(source, name)
        for name, field in type(source).model_fields.items()
        if not field.exclude and not name.endswith("api_key")
    }
    plain = {name: value for name, value in fields.items() if not isinstance(value, SecretStr | SecretBytes | None)}
    key = next((name for name in ("model_name", "model") if isinstance(plain.get(name), str)), None)
    if key is None or plain[key] in ("", "unknown"):  # "unknown" is LlamaIndex's default
        return UNKNOWN_EMBEDDING
    if Path(plain[key]).is_dir():
        plain[key] = _folder_digest(Path(plain[key]))
    try:
        description = json.dumps(plain, sort_keys=True)
    except TypeError:  # a field holds an object that cannot be described
        return UNKNOWN_EMBEDDING
    return f"{_class(source)}:{_hexdigest(description.encode())}"


def _class(source: object) -> str:
    return f"{type(source).__module__}.{type(source).__qualname__}"


def _hexdigest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _folder_digest(folder: Path) -> str:
    """A digest of the names and contents of all files but hidden ones."""
    parts = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            digest = hashlib.blake2b()
            with path.open("rb") as file:
                while chunk := file.read(2**20):
                    digest.update(chunk)
            parts += [name.as_posix().encode(), digest.digest()]
    return _hexdigest(*parts)


def _module_digest(module: torch.nn.Module) -> str:
    names = ("max_seq_length", "truncate_dim", "prompts", "default_prompt_name")
    settings = {name: getattr(module, name, None) for name in names}
    parts = [repr(module).encode(), repr(settings).encode()]
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        described = f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        parts += [described, hashlib.blake2b(flat.numpy().data).digest()]
    return _hexdigest(*parts)
