"""What came of the demo's questions, in numbers and in words: the same on the console and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from cookbook.demo_chain import Answered

MEANING = (
    "The model is SmolLM2-135M-Instruct: small, so judge how close two answers are, not how good they are. The times "
    "hold for this machine and this run. Moved and fuzzy tokens are reused approximately, and so is a prefix whose own "
    "rows were approximate: where two answers differ, trust the full prefill's."
)


@dataclass(frozen=True)
class KeyNumber:
    """One number of the summary, and what it says."""

    value: str
    meaning: str


def key_numbers(answered: Sequence[Answered]) -> list[KeyNumber]:
    """The three numbers that matter: how much sooner, how much was computed, how close the answers are."""
    reused = _reused(answered)
    if not reused:
        return [KeyNumber("0", f"of {questions(answered)} found half of their prompt in earlier ones")]
    computed = sum(done.report.recomputed_tokens for done in reused)
    return [
        KeyNumber(
            f"{median(done.speed_up for done in reused):.1f}×",
            f"sooner to the first token: the median of {len(reused)} of {questions(answered)}, those whose passages "
            "stood in earlier prompts",
        ),
        KeyNumber(
            f"{computed / sum(done.report.prompt_tokens for done in reused):.0%}",
            f"of the prompt tokens of these {len(reused)} were computed, the rest was reused",
        ),
        _closeness(answered),
    ]


def notes(answered: Sequence[Answered]) -> list[str]:
    """How far the numbers may be trusted."""
    return [clock, MEANING] if (clock := _clock(answered)) else [MEANING]


def numbers(done: Answered) -> dict[str, str]:
    """Every number of one question, by its name."""
    report = done.report
    return {
        "question": done.ask.kind,
        "outcome": report.outcome,
        "prompt": f"{report.prompt_tokens:,} tokens",
        "prefix": f"{report.prefix_tokens:,}",
        "moved": f"{report.moved_tokens:,}",
        "fuzzy": f"{report.fuzzy_tokens:,}",
        "new": f"{report.new_tokens:,}",
        "rows computed": f"{report.recompute_ratio:.0%}",
        "first token": seconds(report.ttft_ms),
        "full prefill": seconds(done.full_report.ttft_ms),
        "speed-up": f"{done.speed_up:.1f}×",
        "KL": closeness(done),
        "same tokens": f"{done.agree} of {done.compared}",
    }


def closeness(done: Answered) -> str:
    """The KL of one answer to the full prefill's. The demo checks every call, so what needed no check is lossless."""
    canary = done.report.canary
    if canary is None:
        return "0"
    return canary.status if canary.kl is None else f"{canary.kl:.4f}"


def promise(done: Answered) -> str:
    """What is known of an answer's KL beforehand: that it is lossless, or what its level promises."""
    canary = done.report.canary
    if canary is None:
        return "lossless"
    return "" if canary.bound is None else f"promised at most {canary.bound:g}"


def questions(answered: Sequence[Answered]) -> str:
    """So many questions, in words."""
    return "1 question" if len(answered) == 1 else f"{len(answered)} questions"


def seconds(milliseconds: float) -> str:
    """A time as people read it: two digits that count."""
    return f"{milliseconds / 1e3:.1f} s" if milliseconds >= 1e3 else f"{milliseconds / 1e3:.2f} s"


def _reused(answered: Sequence[Answered]) -> list[Answered]:
    """Those that reused more than half of their prompt."""
    return [done for done in answered if done.report.reused_tokens > done.report.prompt_tokens / 2]


def _clock(answered: Sequence[Answered]) -> str:
    """How steady the clock was, by the questions that had next to nothing to reuse; empty if there were none."""
    reused = _reused(answered)
    fresh = [done.speed_up for done in answered if done not in reused]
    if not fresh:
        return ""
    spread = " to ".join(sorted({f"{min(fresh):.1f}×", f"{max(fresh):.1f}×"}))
    return (
        f"{len(fresh)} of {questions(answered)} had next to nothing to reuse. With these the speed-up tells how steady "
        f"the clock was: {spread}, where a quiet machine says 1.0×."
    )


def _closeness(answered: Sequence[Answered]) -> KeyNumber:
    checks = [done.report.canary for done in answered if done.report.canary is not None]
    measured = [canary for canary in checks if canary.kl is not None]
    if not checks:
        return KeyNumber("KL 0", "every answer is lossless: only rows of a full prefill were used")
    if not measured:
        return KeyNumber("KL ?", "no answer could be compared with the full prefill's")
    worst = max(measured, key=lambda canary: canary.kl or 0.0)
    bound = "" if worst.bound is None else f"; the level {worst.level} promises at most {worst.bound:g}"
    return KeyNumber(f"{worst.kl:.3f}", f"KL to the full prefill, in nats, at the worst question{bound}")
