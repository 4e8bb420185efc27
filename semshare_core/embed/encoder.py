"""Prompt embeddings: the vectors that the pool is searched by, from the model's token table or from a text encoder."""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from semshare_core.errors import ConfigError, MissingDependencyError, ModelError
from semshare_core.match.token_table import TokenTable
from semshare_core.process.forking import free
from semshare_core.prompt.own_tokenizer import decode_ids, encode_text
from semshare_core.tokens import Tokens

Embed = Callable[[Tokens], NDArray[np.float32]]
"""From a prompt's ids, int64 [n], to float32 [m, dim]: at least one row, all of unit length."""

_REMEMBERED_PROMPTS = 8

SEGMENT_TOKENS = 192
"""Prompt tokens embedded as one text: about what an encoder of 256 word pieces, the smallest in wide use, can read."""


@runtime_checkable
class DocumentEmbeddings(Protocol):
    """LangChain's ``Embeddings``."""

    def embed_documents(self, texts: list[str], /) -> Any: ...


@runtime_checkable
class TextBatchEmbeddings(Protocol):
    """LlamaIndex's ``BaseEmbedding``."""

    def get_text_embedding_batch(self, texts: list[str], /) -> Any: ...


@runtime_checkable
class TextEncoder(Protocol):
    """sentence-transformers' ``SentenceTransformer``."""

    def encode(self, texts: list[str], /) -> Any: ...


EmbeddingSource = (
    str | os.PathLike[str] | DocumentEmbeddings | TextBatchEmbeddings | TextEncoder | Callable[[str], Sequence[float]]
)


def prompt_embedding(source: EmbeddingSource | None, tokenizer: PreTrainedTokenizerBase, table: TokenTable) -> Embed:
    """How prompts are embedded, as a function that is safe to call from several threads.

    A text encoder never sees a whole prompt, because it would cut off what it has no room for. It gets segments of
    about ``SEGMENT_TOKENS`` tokens, all in one batch, and shorter ones if it has a limit (``max_seq_length``,
    ``max_length``). A segment whose vector is all zero is left out, if there is another.

    Args:
        source: None: ``table``, one row for the whole prompt. A ``str`` or path: a sentence-transformers folder, loaded
            by the first request. Of any other object the first of these methods is used: ``embed_documents``
            (LangChain), ``get_text_embedding_batch`` (LlamaIndex), ``encode`` (sentence-transformers), or a call with
            one text that returns its vector.
        tokenizer: the served model's; it turns segments back into text.
        table: the served model's token embeddings.

    Raises:
        ConfigError: ``source`` is none of these; from the function: vectors that are not finite, all zero, of
            different lengths, or not one for each text.
        MissingDependencyError: a folder without sentence-transformers.
        ModelError: from the function: the folder cannot be loaded.
    """
    if source is None:
        return lambda tokens: np.atleast_2d(table.embed(tokens))
    if isinstance(source, str | os.PathLike):
        folder = _checked_folder(Path(source)).absolute()  # the current folder may be another one when it is loaded
        return _SegmentEmbedding(partial(_load, folder), tokenizer)
    encoder = _recognise(source)
    return _SegmentEmbedding(lambda: encoder, tokenizer)


@dataclass(frozen=True)
class _Encoder:
    """A text encoder.

    Attributes:
        embed: a vector for each text.
        limit: how many of its own tokens it reads of a text; None: it does not say.
        count: how many tokens it makes of a text; None: it does not say.
        lock: held while it runs, if its tokenizer does not bear two callers.
    """

    embed: Callable[[list[str]], Any]
    limit: float | None = None
    count: Callable[[str], int] | None = None
    lock: AbstractContextManager[Any] = field(default_factory=nullcontext)

    @property
    def segment_tokens(self) -> int:
        """Prompt tokens per segment. Where it cannot count, three of them are taken for four tokens of its own."""
        if self.limit is None or self.count is not None:
            return SEGMENT_TOKENS
        return max(1, int(min(SEGMENT_TOKENS, self.limit * 3 / 4)))


class _SegmentEmbedding:
    """Embeds prompts by segments, in several threads at once unless the encoder has a lock.

    It remembers the vectors of the last few prompts, because a prompt that is kept comes again soon, with its answer.
    """

    def __init__(self, open_encoder: Callable[[], _Encoder], tokenizer: PreTrainedTokenizerBase) -> None:
        self._open = open_encoder
        self._tokenizer = tokenizer
        self._loading = free(threading.Lock())
        self._encoder: _Encoder | None = None
        self._dim: int | None = None
        self._recent: tuple[dict[str, NDArray[np.float64]], ...] = ()

    def __call__(self, tokens: Tokens) -> NDArray[np.float32]:
        with self._loading:
            encoder = self._encoder = self._encoder or self._open()
        with encoder.lock:
            parts = segments(tokens, encoder.segment_tokens)
            texts = [text for part in parts for text in self._fitting(part, encoder)]
            known = {text: vector for prompt in self._recent for text, vector in prompt.items()}
            if new := [text for text in dict.fromkeys(texts) if text not in known]:
                known |= zip(new, _vectors(encoder.embed(new), len(new)), strict=True)
        rows = _unit_rows([known[text] for text in texts])
        if self._dim not in (None, rows.shape[1]):
            raise ConfigError(
                f"embedding= gave vectors of {rows.shape[1]} numbers after {self._dim}: one length for all."
            )
        self._dim = rows.shape[1]
        self._recent = (*self._recent[1 - _REMEMBERED_PROMPTS :], {text: known[text] for text in texts})
        return rows

    def _fitting(self, tokens: Tokens, encoder: _Encoder) -> list[str]:
        """The text of ``tokens``, halved as often as the encoder would otherwise cut something off."""
        text = decode_ids(self._tokenizer, tokens.tolist(), special=True)
        fits = encoder.limit is None or encoder.count is None or encoder.count(text) <= encoder.limit
        if len(tokens) <= 1 or fits:
            return [text]
        half = len(tokens) // 2
        return self._fitting(tokens[:half], encoder) + self._fitting(tokens[half:], encoder)


def segments(tokens: Tokens, size: int) -> list[Tokens]:
    """Consecutive parts of ``size`` tokens that cover all of ``tokens`` [n].

    The last one overlaps the one before if it were shorter than half of ``size``: a few words resemble everything and
    nothing. Prompts that begin alike have their first segments in common.
    """
    last = (len(tokens) - 1) // size * size
    start = max(0, min(last, len(tokens) - size // 2))
    return [*(tokens[at : at + size] for at in range(0, last, size)), tokens[start:]]


def _vectors(answer: Any, count: int) -> list[NDArray[np.float64]]:
    """What an encoder returned, as arrays. NumPy reads neither bfloat16, nor GPU memory, nor what has a gradient."""
    try:
        plain = [each.detach().double().cpu() if isinstance(each, Tensor) else each for each in answer]
        vectors = [np.asarray(vector, np.float64).ravel() for vector in plain]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"embedding= must give a vector of numbers for each text: {error}.") from error
    if len(vectors) != count:
        raise ConfigError(f"embedding= gave {len(vectors)} vectors for {count} texts: one for each, in order.")
    return vectors


def _unit_rows(vectors: list[NDArray[np.float64]]) -> NDArray[np.float32]:
    if len(sizes := {len(vector) for vector in vectors}) > 1:
        raise ConfigError(f"embedding= gave vectors of {sorted(sizes)} numbers: one length for all.")
    matrix = np.stack(vectors)
    lengths = np.linalg.norm(matrix, axis=1)
    if not np.isfinite(lengths).all() or not lengths.any():
        raise ConfigError("embedding= must give finite vectors that are not all zero.")
    nonzero = lengths > 0
    return np.asarray(matrix[nonzero] / lengths[nonzero, None], np.float32)


def _recognise(source: object) -> _Encoder:
    """Methods come before calls: LlamaIndex's and sentence-transformers' objects can be called, but not with a text."""
    if isinstance(source, type):
        raise ConfigError(f"embedding={source.__name__} is a class: pass an object of it.")
    limit = next((value for name in ("max_seq_length", "max_length") if (value := getattr(source, name, None))), None)
    tokenizer = getattr(source, "tokenizer", None)
    settings: dict[str, Any] = {"limit": limit if isinstance(limit, int | float) else None}
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        settings["count"] = lambda text: len(encode_text(tokenizer, text, special=True))
    if "count" in settings or isinstance(source, TextEncoder):
        settings["lock"] = free(threading.Lock())
    if isinstance(source, DocumentEmbeddings):
        return _Encoder(source.embed_documents, **settings)
    if isinstance(source, TextBatchEmbeddings):
        return _Encoder(source.get_text_embedding_batch, **settings)
    if isinstance(source, TextEncoder):
        return _Encoder(source.encode, **settings)
    if callable(source):
        return _Encoder(lambda texts: [source(text) for text in texts], **settings)
    raise ConfigError(
        f"embedding={source!r} cannot embed: pass a sentence-transformers folder, a SentenceTransformer, a LangChain "
        "Embeddings, a LlamaIndex BaseEmbedding, or a function from a text to a vector."
    )


def _checked_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(
            f"embedding={str(folder)!r} is no folder. A model from the hub is passed as an object: "
            "embedding=SentenceTransformer(...)."
        )
    if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
        raise ConfigError(f"embedding={str(folder)!r} holds no sentence encoder: neither modules.json nor config.json.")
    if importlib.util.find_spec("sentence_transformers") is None:
        raise MissingDependencyError(
            f"embedding={str(folder)!r} needs sentence-transformers. In SemShare's clone: pip install '.[embeddings]'."
        )
    return folder


def _load(folder: Path) -> _Encoder:
    library = importlib.import_module("sentence_transformers")
    try:
        return _recognise(library.SentenceTransformer(str(folder), local_files_only=True))
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"embedding={str(folder)!r} cannot be loaded ({type(error).__name__}: {error}).") from error
