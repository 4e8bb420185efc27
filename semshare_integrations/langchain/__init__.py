"""SemShare in LangChain: a text model and a chat model that reuse earlier prompts, and a callback that reports it.

>>> from semshare_integrations.langchain import SemShareLLM, get_semshare_callback
>>> llm = SemShareLLM(model_id="demo", max_new_tokens=64)
>>> with get_semshare_callback() as reuse:
...     answer = llm.invoke("The capital of France is")
>>> print(reuse.summary())
"""

from __future__ import annotations

from semshare_core.errors import MissingDependencyError

try:
    import langchain_core  # noqa: F401 - only to find out whether it is there
except ModuleNotFoundError as error:
    if error.name != "langchain_core":
        raise
    raise MissingDependencyError(
        "LangChain is not installed. Install it in SemShare's clone: pip install '.[cpu,langchain]' "
        "(or '.[gpu,langchain]')."
    ) from error

from semshare_integrations.langchain.callbacks import SemShareCallbackHandler, get_semshare_callback
from semshare_integrations.langchain.chat import ChatSemShare
from semshare_integrations.langchain.llm import SemShareLLM
from semshare_integrations.statistics import ReuseTotals

__all__ = ["ChatSemShare", "ReuseTotals", "SemShareCallbackHandler", "SemShareLLM", "get_semshare_callback"]
