"""The process goes to another folder: what was named before by a relative path is still where it was."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pooled import MODEL
from semshare_core import PoolConfig, SemShareEngine
from semshare_core.embed.encoder import prompt_embedding
from semshare_core.errors import ConfigError
from semshare_core.match.token_table import TokenTable
from semshare_core.pool.disk import PoolFolder
from semshare_core.process.paths import CACHE_VARIABLE, cache_dir
from tiny_canary import TEXT
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to go to; the process is in the one above."""
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    return other


def test_a_relative_pool_folder(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changed between the config, the engine, the calls and the second process."""
    config = PoolConfig(path="pool")
    monkeypatch.chdir(elsewhere)
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), pool=config)
    engine.warm([TEXT])
    monkeypatch.chdir("/")
    engine.warm([TEXT[::-1]])
    engine.pool.close()
    monkeypatch.chdir(elsewhere.parent)
    again = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), pool=PoolConfig(path="pool"))
    assert again.pool.stats().entries == 2
    again.pool.close()
    assert sorted(path.name for path in elsewhere.parent.iterdir()) == ["other", "pool"]
    assert not list(elsewhere.iterdir())


def test_a_relative_folder_opened_by_hand(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PoolFolder("pool", MODEL) as folder:
        monkeypatch.chdir(elsewhere)
        assert folder.path == elsewhere.parent / "pool"


def test_a_pool_in_the_home_folder(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(elsewhere))
    assert PoolConfig(path="~/pool").path == elsewhere / "pool"


def test_a_pool_in_a_folder_that_is_gone(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(elsewhere)
    elsewhere.rmdir()
    with pytest.raises(ConfigError, match="absolute path"):
        PoolConfig(path="pool")


@pytest.mark.parametrize("framework", ["langchain", "llama_index"])
def test_a_model_that_is_loaded_by_the_first_call(
    framework: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model("llama").save_pretrained("model")
    tiny_tokenizer().save_pretrained("words")
    settings: dict[str, Any] = {"model_id": "model", "max_new_tokens": 2, "model_kwargs": {"tokenizer": "words"}}
    if framework == "langchain":
        from semshare_integrations.langchain import SemShareLLM

        ask = SemShareLLM(**settings).invoke
    else:
        from semshare_integrations.llama_index import SemShareLLM as LlamaIndexLLM

        ask = LlamaIndexLLM(**settings).complete
    monkeypatch.chdir(elsewhere)
    ask(TEXT)


def test_an_encoder_that_is_loaded_by_the_first_call(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    library = ModuleType("sentence_transformers")

    class SentenceTransformer:
        def __init__(self, folder: str, **settings: Any) -> None:
            loaded.append(folder)

        def encode(self, texts: list[str]) -> list[list[float]]:
            return [[1.0, 2.0] for _ in texts]

    library.SentenceTransformer = SentenceTransformer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: library)
    Path("encoder").mkdir()
    Path("encoder/config.json").write_text("{}")
    table = TokenTable(tiny_model("llama").get_input_embeddings().weight)
    embed = prompt_embedding("encoder", tiny_tokenizer(), table)
    monkeypatch.chdir(elsewhere)
    embed(np.arange(20))
    assert loaded == [str(elsewhere.parent / "encoder")]


def test_a_relative_cache_folder(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "a-cache-of-this-test")
    before = cache_dir()
    monkeypatch.chdir(elsewhere)
    assert cache_dir() == before == elsewhere.parent / "a-cache-of-this-test"
