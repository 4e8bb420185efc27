"""Matching: line the tokens of a target prompt up with those of the references. Knows tokens, not models."""

from semshare_core.match.facts import FactTokens
from semshare_core.match.matcher import build_plan
from semshare_core.match.plan import ReferenceTokens, ReusePlan, Source
from semshare_core.match.runs import find_runs, kgram_hashes
from semshare_core.match.token_table import TokenTable

__all__ = [
    "FactTokens",
    "ReferenceTokens",
    "ReusePlan",
    "Source",
    "TokenTable",
    "build_plan",
    "find_runs",
    "kgram_hashes",
]
