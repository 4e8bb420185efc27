"""Ours without the rule that the begin of the model's last answer is computed."""

from __future__ import annotations

from dataclasses import dataclass

from semshare_core.select.combined import CombinedSelection
from semshare_core.slots import SELECTIONS


@SELECTIONS.register("old_answers")
@dataclass(frozen=True)
class OldAnswers(CombinedSelection):
    """The last answer's rows are chosen as all others are."""

    computes_answer = False
