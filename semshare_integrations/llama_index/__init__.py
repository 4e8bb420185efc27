"""SemShare in LlamaIndex: a model that reuses earlier prompts, and events that report it.

>>> from semshare_integrations.llama_index import SemShareLLM, get_semshare_callback
>>> llm = SemShareLLM(model_id="demo", max_new_tokens=64)
>>> with get_semshare_callback() as reuse:
...     answer = index.as_query_engine(llm=llm).query("When was the lighthouse built?")
>>> print(reuse.summary())
"""

from __future__ import annotations

from semshare_core.errors import MissingDependencyError

try:
    import llama_index.core  # noqa: F401 - only to find out whether it is there
except ModuleNotFoundError as error:
    if error.name not in ("llama_index", "llama_index.core"):
        raise
    raise MissingDependencyError(
        "LlamaIndex is not installed. Install it in SemShare's clone: pip install '.[cpu,llamaindex]' "
        "(or '.[gpu,llamaindex]')."
    ) from error

from semshare_integrations.llama_index.events import (
    SemShareCanaryEvent,
    SemShareEventHandler,
    SemShareReuseEvent,
    get_semshare_callback,
)
from semshare_integrations.llama_index.llm import SemShareLLM

__all__ = ["SemShareCanaryEvent", "SemShareEventHandler", "SemShareLLM", "SemShareReuseEvent", "get_semshare_callback"]
