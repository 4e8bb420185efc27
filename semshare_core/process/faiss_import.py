"""The one place that imports FAISS, so that its absence is explained instead of merely reported."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from semshare_core.errors import MissingDependencyError

_REMEDY = (
    "Install exactly one build, in SemShare's clone: pip install '.[cpu]' (any machine) or pip install '.[gpu]' "
    "(Linux with an NVIDIA GPU)."
)


def import_faiss() -> ModuleType:
    """The ``faiss`` module, or an error that says which extra to install.

    Two distributions (``faiss-cpu`` and ``faiss-gpu``) unpack into the same folder. Installed together, or removed one
    after the other, they leave a package that fails to import, or one that is empty. The remedy then differs from that
    for a missing package.
    """
    try:
        faiss = importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        if error.name == "faiss":
            raise MissingDependencyError(f"FAISS is not installed. {_REMEDY}") from error
        raise _broken(str(error)) from error
    except Exception as error:  # a broken native library raises OSError, AttributeError, SystemError, ...
        raise _broken(f"{type(error).__name__}: {error}") from error
    if not hasattr(faiss, "IndexFlatIP"):
        raise _broken("the package is there but empty")
    return faiss


def one_thread() -> None:
    """FAISS, if it was imported, computes in the calling thread alone from now on: some builds bring an OpenMP."""
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(1)


def _broken(reason: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"FAISS is installed but cannot be imported ({reason}). Remove what is there "
        f"(pip uninstall -y faiss-cpu faiss-gpu faiss-gpu-cu12 faiss-gpu-cu11). {_REMEDY}"
    )
