"""An OpenAI-compatible server: ``semshare serve MODEL``, or :func:`make_app` around an engine.

Reading order: ``app`` puts it together; ``gate`` is what every request passes; ``requests`` and ``chat``,
``completions``, ``responses`` and ``messages`` are what clients send and get; ``answers`` runs the engine.
"""

from typing import TYPE_CHECKING, Any

from semshare_core.errors import MissingDependencyError
from semshare_core.process.lazy_import import import_alone

if TYPE_CHECKING:
    from semshare_integrations.serving.app import make_app
    from semshare_integrations.serving.keys import Keys
    from semshare_integrations.serving.run import DrainingServer
    from semshare_integrations.serving.settings import ServeSettings

__all__ = ["DrainingServer", "Keys", "ServeSettings", "make_app"]

_DEFINED_IN = {"DrainingServer": "run", "Keys": "keys", "ServeSettings": "settings", "make_app": "app"}
_NEEDED = ("fastapi", "starlette", "uvicorn", "prometheus_client")


def __getattr__(name: str) -> Any:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_alone(f"{__name__}.{_DEFINED_IN[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        raise MissingDependencyError(
            f"{error.name} is not installed, which the server needs. Install it in SemShare's clone: "
            "pip install '.[cpu,serve]'."
        ) from error
