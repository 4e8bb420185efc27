"""What the tests of SemShareLLM ask, and the report of a call, as LangChain hands it on."""

from __future__ import annotations

from typing import Any

from semshare_core import ReuseReport
from semshare_integrations.langchain import SemShareLLM

NO_LETTERS = [token for token in range(259) if not ord("a") <= token <= ord("z")]
"""Suppressed, they leave an answer of small letters: one character per token, and a piece per token when streamed."""

PROMPT = "The river ran past the old mill and under the bridge, where two boys were fishing. What did they catch?"
OTHER = "Snow had fallen all night on the mountain road, and the bus to the village was late. Who was waiting for it?"


def report_of(llm: SemShareLLM, prompt: str, **settings: Any) -> ReuseReport:
    info = llm.generate([prompt], **settings).generations[0][0].generation_info
    assert info is not None
    return ReuseReport.model_validate(info["semshare"])
