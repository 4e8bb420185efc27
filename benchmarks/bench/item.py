"""One system on one case: what out/bench.json holds, and all that tables, plots and figures are made of."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rouge_score.rouge_scorer import RougeScorer

from benchmarks.case import answers
from benchmarks.systems.system import Sample, Subject


@dataclass(frozen=True)
class Item:
    """Times in ms, divergences in nats; lists are per repetition (times) or per continued token (kl, agree).

    Attributes:
        tokens: of the prompt.
        full_ms: full prefills of the same prompt, timed before and after each call.
        kl: empty where a system gives no logits.
        rouge_l: F-measure of the text against the full prefill's; None where no text was asked for.
        answered, full_answered: whether the text holds the answer; None where nothing is looked up.
        stale, full_stale: whether it holds the reference's answer, which the target does not tell; None as above.
        full_lead: by how many nats the full prefill's token leads over the next best one, where it does so least on the
            way to the end of its answer: little means that a hair decides; None where no text was asked for.
        peak_bytes: the most resident memory of the process during such a call; None where it was not looked at.
        recompute_ratio: None where it is not known.
    """

    workload: str
    case: str
    setting: str
    system: str
    tokens: int
    ttft_ms: list[float]
    full_ms: list[float]
    kl: list[float]
    agree: list[int]
    text: str | None
    full_text: str | None
    rouge_l: float | None
    answered: bool | None
    full_answered: bool | None
    stale: bool | None
    full_stale: bool | None
    full_lead: float | None
    kv_bytes: int
    kv_bytes_full: int
    peak_bytes: int | None
    recompute_ratio: float | None
    outcome: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def make_item(
    subject: Subject, system: str, sample: Sample, ttft_seconds: Sequence[float], full_seconds: Sequence[float]
) -> Item:
    """Judge a sample's text and put it beside its case."""
    case, text = subject.case, sample.text
    full_text = None if text is None else subject.ending.text(subject.full_tokens)

    def tells(said: str | None, accepted: Sequence[str]) -> bool | None:
        return answers(said, accepted) if said is not None and accepted else None

    return Item(
        workload=case.workload,
        case=case.id,
        setting=case.setting,
        system=system,
        tokens=subject.base.ids.shape[1],
        ttft_ms=[round(1e3 * seconds, 2) for seconds in ttft_seconds],
        full_ms=[round(1e3 * seconds, 2) for seconds in full_seconds],
        kl=[round(value, 5) for value in sample.kl],
        agree=sample.agree,
        text=text,
        full_text=full_text,
        rouge_l=None if text is None or full_text is None else rouge_l(full_text, text),
        answered=tells(text, case.gold),
        full_answered=tells(full_text, case.gold),
        stale=tells(text, case.old),
        full_stale=tells(full_text, case.old),
        full_lead=None if full_text is None else round(subject.full_lead, 4),
        kv_bytes=sample.kv_bytes,
        kv_bytes_full=subject.full_kv_bytes,
        peak_bytes=sample.peak_bytes,
        recompute_ratio=sample.recompute_ratio,
        outcome=sample.outcome,
        reason=sample.reason,
    )


def rouge_l(expected: str, text: str) -> float:
    """F-measure of the longest common subsequence of words (rouge-score); two texts without a word are alike."""
    if expected == text:
        return 1.0
    return float(_scorer().score(expected, text)["rougeL"].fmeasure)


@functools.cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rougeL"])
