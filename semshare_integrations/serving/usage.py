"""Token counts and reports, as responses have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from semshare_core import ReuseReport
from semshare_integrations.adapter import token_usage
from semshare_integrations.statistics.recent import brief


def openai_usage(reports: Sequence[ReuseReport], prompts: int = 1) -> dict[str, Any]:
    """The usage of a request with several answers to ``prompts`` prompts, each of which counts once."""
    firsts = reports[:: max(1, len(reports) // prompts)]
    return {
        **token_usage(
            sum(report.prompt_tokens for report in firsts), sum(report.generated_tokens for report in reports)
        ),
        "prompt_tokens_details": {"cached_tokens": sum(report.lossless_prefix_tokens for report in firsts)},
    }


def semshare_object(report: ReuseReport) -> dict[str, Any]:
    """The object ``semshare`` of a response: the report without a number for each token, and without quoted text."""
    return brief(report)
