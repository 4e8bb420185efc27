"""Encoders are told apart, and known again in another process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from llama_index.core import MockEmbedding
from pydantic import BaseModel, SecretStr

from semshare_core.embed.identity import UNKNOWN_EMBEDDING, embedding_identity


class Named(BaseModel, Embeddings):
    """As LangChain's partners write their embeddings."""

    model_name: str = "text-1"
    dimensions: int = 8
    settings: dict[str, Any] = {}
    token: SecretStr | None = None
    openai_api_key: str = ""
    client: Any = None

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[1.0] * self.dimensions for _ in texts]

    def embed_query(self, text: str) -> list[float]:
        return [1.0] * self.dimensions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "encoder"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "modules.json").write_text("[]")
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


def test_a_folder_is_its_content(folder: Path, tmp_path: Path) -> None:
    before = embedding_identity(folder)
    assert before == "folder:e8ce979e751682d90f381a3541090b4d", "another process has to say the same"
    copied = shutil.copytree(folder, tmp_path / "moved")
    (copied / ".cache").mkdir()
    (copied / ".cache" / "lock").touch()
    assert embedding_identity(str(copied)) == before
    (folder / "1_Pooling" / "config.json").write_text("[]")
    changed = embedding_identity(folder)
    (folder / "modules.json").rename(folder / "module.json")
    assert len({before, changed, embedding_identity(folder)}) == 3


def test_an_object_is_its_fields() -> None:
    same = [
        Named(),
        Named(model_name="text-1"),
        Named(token=SecretStr("a")),
        Named(openai_api_key="b"),
    ]
    pinned = "test_embedding_identity.Named:2ca5c04c0f9d88a5319753f291504deb"
    assert {embedding_identity(each) for each in same} == {pinned}
    others = [Named(model_name="text-2"), Named(dimensions=4), Named(settings={"normalize": True})]
    assert len({embedding_identity(each) for each in [*same, *others]}) == 4


def test_an_object_named_by_a_folder_is_the_folders_content(folder: Path) -> None:
    source = Named(model_name=str(folder))
    before = embedding_identity(source)
    (folder / "modules.json").write_text("[1]")
    assert embedding_identity(source) != before


def test_a_module_is_its_weights_and_settings() -> None:
    class Toy(torch.nn.Module):
        def __init__(self, seed: int, max_seq_length: int = 256, dtype: torch.dtype = torch.float32) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(seed)
            self.weight = torch.nn.Parameter(torch.randn(3, 3, generator=generator, dtype=dtype))
            self.register_buffer("scale", torch.tensor(1.0))
            self.max_seq_length = max_seq_length

    assert embedding_identity(Toy(0)) == embedding_identity(Toy(0))
    rescaled = Toy(0)
    rescaled.scale.fill_(2.0)
    others = [Toy(1), Toy(0, 128), Toy(0, dtype=torch.bfloat16), rescaled]
    assert len({embedding_identity(each) for each in [Toy(0), *others]}) == 5


def test_the_token_table_is_the_models_own() -> None:
    assert embedding_identity(None) == "token-table"


@pytest.mark.parametrize(
    "source",
    [
        len,
        lambda text: [1.0],
        Named(client=object()),
        Named(model_name=""),
        DeterministicFakeEmbedding(size=3),
        MockEmbedding(embed_dim=3),
    ],
    ids=["built-in", "function", "opaque field", "empty name", "no name", "LlamaIndex's default name"],
)
def test_what_tells_nothing_is_unknown(source: Any) -> None:
    assert embedding_identity(source) == UNKNOWN_EMBEDDING
