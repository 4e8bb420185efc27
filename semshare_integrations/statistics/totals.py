"""Totals of reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from semshare_core import ReuseReport
from semshare_integrations.statistics.prefill_cost import PrefillCost

_HITS = ("prefix", "semantic")


@dataclass(frozen=True)
class ReuseTotals:
    """Sums over calls, where an attribute does not say otherwise.

    Attributes:
        outcomes: the number of calls by outcome, for example ``{"miss": 1, "prefix": 3}``.
        mean_recompute_ratio: the mean over calls; None without calls.
        ttft_ms: the time from a prompt's arrival to its first token.
        kv_bytes: the size of keys and values when decoding began; ``kv_bytes_full``: without compression.
        prefill_seconds_saved_estimate: compared with full prefills (:class:`PrefillCost`); None if no call was a full
            prefill.
        healed_calls: calls whose stored rows have become lossless since; ``healed_tokens``: rows that were approximate.
        canary_checked: the number of measured calls; ``canary_broken``: of those beyond their level's bound.
        canary_mean_kl: the mean KL of the measured calls, in nats; ``canary_max_kl``: the largest; None without calls.
    """

    calls: int
    outcomes: dict[str, int]
    prompt_tokens: int
    prefix_tokens: int
    moved_tokens: int
    fuzzy_tokens: int
    new_tokens: int
    recomputed_tokens: int
    generated_tokens: int
    mean_recompute_ratio: float | None
    ttft_ms: float
    kv_bytes: int
    kv_bytes_full: int
    prefill_seconds_saved_estimate: float | None
    healed_calls: int = 0
    healed_tokens: int = 0
    canary_checked: int = 0
    canary_broken: int = 0
    canary_mean_kl: float | None = None
    canary_max_kl: float | None = None

    @classmethod
    def of(cls, reports: Sequence[ReuseReport]) -> ReuseTotals:
        """The totals of ``reports``."""
        calls = len(reports)
        cost = PrefillCost.fit(reports)
        canaries = [report.canary for report in reports if report.canary is not None]
        kls = [canary.kl for canary in canaries if canary.kl is not None]
        return cls(
            calls=calls,
            outcomes=dict(Counter(report.outcome for report in reports)),
            prompt_tokens=sum(report.prompt_tokens for report in reports),
            prefix_tokens=sum(report.prefix_tokens for report in reports),
            moved_tokens=sum(report.moved_tokens for report in reports),
            fuzzy_tokens=sum(report.fuzzy_tokens for report in reports),
            new_tokens=sum(report.new_tokens for report in reports),
            recomputed_tokens=sum(report.recomputed_tokens for report in reports),
            generated_tokens=sum(report.generated_tokens for report in reports),
            mean_recompute_ratio=sum(report.recompute_ratio for report in reports) / calls if calls else None,
            ttft_ms=sum(report.ttft_ms for report in reports),
            kv_bytes=sum(report.kv_bytes for report in reports),
            kv_bytes_full=sum(report.kv_bytes_full for report in reports),
            prefill_seconds_saved_estimate=None if cost is None else sum(map(cost.saved_ms, reports)) / 1e3,
            healed_calls=sum(report.healed_tokens > 0 for report in reports),
            healed_tokens=sum(report.healed_tokens for report in reports),
            canary_checked=len(kls),
            canary_broken=sum(bool(canary.broken) for canary in canaries),
            canary_mean_kl=sum(kls) / len(kls) if kls else None,
            canary_max_kl=max(kls, default=None),
        )

    @property
    def rates(self) -> dict[str, float]:
        """The share of calls by outcome."""
        return {outcome: count / self.calls for outcome, count in self.outcomes.items()}

    @property
    def share_served(self) -> float | None:
        """The share of prompt tokens whose rows were reused; None without calls."""
        return 1 - self.recomputed_tokens / self.prompt_tokens if self.prompt_tokens else None

    @property
    def hit_rate(self) -> float | None:
        """The share of calls that reused at least one token; None without calls. See also :attr:`share_served`."""
        return sum(self.outcomes.get(outcome, 0) for outcome in _HITS) / self.calls if self.calls else None

    def summary(self) -> str:
        """The totals in words."""
        if self.mean_recompute_ratio is None:
            return "no calls"
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        calls = "1 call" if self.calls == 1 else f"{self.calls} calls"
        text = (
            f"{calls} ({outcomes}; hit rate {self.hit_rate:.0%}, rows served {self.share_served:.0%}): "
            f"{self.prompt_tokens} prompt tokens = "
            f"{self.prefix_tokens} prefix + {self.moved_tokens} moved + {self.fuzzy_tokens} fuzzy + {self.new_tokens} "
            f"new; mean recompute ratio {self.mean_recompute_ratio:.2f}, total TTFT {self.ttft_ms:.0f} ms, "
            f"KV {self.kv_bytes / 2**20:.1f} of {self.kv_bytes_full / 2**20:.1f} MiB"
        )
        saved = self.prefill_seconds_saved_estimate
        if saved is not None:
            text += f", prefill time saved {saved:.1f} s (estimate)"
        if self.healed_calls:
            healed = "1 call" if self.healed_calls == 1 else f"{self.healed_calls} calls"
            text += f"; healed: {self.healed_tokens} rows of {healed}"
        if self.canary_mean_kl is not None:
            checked = "1 call" if self.canary_checked == 1 else f"{self.canary_checked} calls"
            text += (
                f"; canary: KL of {checked} mean {self.canary_mean_kl:.3f}, largest {self.canary_max_kl:.3f}, "
                f"{self.canary_broken} beyond the bound"
            )
        return text
