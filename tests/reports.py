"""The report of a call, as LangChain hands it on."""

from __future__ import annotations

from typing import Any

from semshare_core import ReuseReport
from semshare_integrations.langchain import SemShareLLM


def report_of(llm: SemShareLLM, prompt: str, **settings: Any) -> ReuseReport:
    info = llm.generate([prompt], **settings).generations[0][0].generation_info
    assert info is not None
    return ReuseReport.model_validate(info["semshare"])
