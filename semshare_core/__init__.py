"""SemShare: prefill a prompt from the keys and values of prompts that were read before.

The names are imported when they are first used, so that settings, errors and reports cost no import of torch.
"""

from typing import TYPE_CHECKING, Any

from semshare_core.process.lazy_import import import_alone

if TYPE_CHECKING:
    from semshare_core.baselines.semsharekv import Retention
    from semshare_core.config import Heal, PoolConfig, ReusePolicy
    from semshare_core.decode.sampling import SamplingParams
    from semshare_core.engine import Prefill, SemShareEngine
    from semshare_core.errors import SemShareError
    from semshare_core.prompt.encode import Chat
    from semshare_core.report import Canary, FirstDifference, ReuseReport
    from semshare_core.streaming import Generation, Piece

__all__ = [
    "Canary",
    "Chat",
    "FirstDifference",
    "Generation",
    "Heal",
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

_DEFINED_IN = {
    "Canary": "report",
    "Chat": "prompt.encode",
    "FirstDifference": "report",
    "Generation": "streaming",
    "Heal": "config",
    "Piece": "streaming",
    "PoolConfig": "config",
    "Prefill": "engine",
    "Retention": "baselines.semsharekv",
    "ReusePolicy": "config",
    "ReuseReport": "report",
    "SamplingParams": "decode.sampling",
    "SemShareEngine": "engine",
    "SemShareError": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_alone(f"{__name__}.{_DEFINED_IN[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
