"""SemShare: prefill a prompt from the keys and values of prompts that were read before."""

from semshare_core.process.faiss_import import import_faiss

import_faiss()  # fail here, with the extra to install, rather than in the middle of a call

from semshare_core.config import PoolConfig, Retention, ReusePolicy  # noqa: E402
from semshare_core.decode.sampling import SamplingParams  # noqa: E402
from semshare_core.engine import Generation, Piece, Prefill, SemShareEngine  # noqa: E402
from semshare_core.errors import SemShareError  # noqa: E402
from semshare_core.prompt.encode import Chat  # noqa: E402
from semshare_core.report import Canary, ReuseReport  # noqa: E402

__all__ = [
    "Canary",
    "Chat",
    "Generation",
    "Piece",
    "PoolConfig",
    "Prefill",
    "Retention",
    "ReusePolicy",
    "ReuseReport",
    "SamplingParams",
    "SemShareEngine",
    "SemShareError",
]
