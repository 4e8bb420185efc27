"""Without a working FAISS, the error says which extra to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from semshare_core.errors import MissingDependencyError
from semshare_core.process.faiss_import import import_faiss


@pytest.fixture
def without_faiss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A place at the front of the path for a stand-in, with the real FAISS forgotten."""
    for name in [name for name in sys.modules if name.split(".")[0] == "faiss"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_returns_the_module() -> None:
    assert hasattr(import_faiss(), "IndexFlatIP")


def test_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[cpu\]'.*'\.\[gpu\]'"):
        import_faiss()


@pytest.mark.parametrize(
    "code",
    [
        "raise ImportError('libcublas.so.12: cannot open shared object file')",
        "raise OSError('undefined symbol')",
        "raise AttributeError('no attribute _swigfaiss')",
        "raise RuntimeError('illegal instruction set')",
        "import semshare_missing_part",
        "",
    ],
)
def test_broken(without_faiss: Path, code: str) -> None:
    package = without_faiss / "faiss"
    package.mkdir()
    (package / "__init__.py").write_text(code)
    with pytest.raises(MissingDependencyError, match=r"pip uninstall.*\.\[cpu\].*\.\[gpu\]"):
        import_faiss()
    sys.modules.pop("faiss", None)
