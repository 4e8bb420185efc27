"""Real texts, fetched from package registries or rendered on the spot; the repository holds builders, never texts."""

from benchmarks.corpora.errors import CorpusUnavailable
from benchmarks.corpora.row import Row, read_rows, write_rows

__all__ = ["CorpusUnavailable", "Row", "read_rows", "write_rows"]
