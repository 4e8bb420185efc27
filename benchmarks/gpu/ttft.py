"""TTFT with reuse beside the full prefill, on a random-weight model of an 8B Llama's shape; and where the time goes.

Ours is the time that the report gives: from the token ids to the first token, with everything counted. The full prefill
is ``model.generate`` with the attention that transformers chooses, from the token ids to the first token. Both are
warmed, and repeated in turn.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks.gpu.model import Prompts, llama, tokenizer
from benchmarks.gpu.part import Options, Record, options, settle
from semshare_core import PoolConfig, ReusePolicy, ReuseReport, SemShareEngine

_TOKENS, _TINY_TOKENS = (5_000, 16_000, 2_000, 32_000), (600, 300)
_RATIOS = (0.1, 0.05, 0.2)
_REPEATS = 5
_PREFIX, _BEHIND = 4_000, 60
_STEPS = 32
_KERNELS = 12
_POOL_BYTES = 12 * 2**30


def main(argv: Sequence[str] | None = None) -> None:
    """Every figure in turn."""
    chosen = options("ttft", __doc__, argv)
    record = Record("ttft", chosen)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    bench = Bench(record, chosen)
    record.add(
        "model",
        f"{bench.model.num_parameters() / 1e9:.2f} billion parameters, {bench.model.dtype}, "
        f"made in {time.perf_counter() - began:.0f} s, by rows: {bench.engine._prefill.spec.by_rows}",
    )
    sizes = _TINY_TOKENS if chosen.tiny else _TOKENS
    for tokens in sizes[:2]:
        record.attempt(f"shuffled {tokens}", bench.shuffled, tokens)
    record.attempt("prefix", bench.prefix, 200 if chosen.tiny else _PREFIX)
    for tokens, ratio in zip(sizes, (0.1, 0.05), strict=False):
        record.attempt(f"profile {tokens}", bench.profile, tokens, ratio)
    record.attempt("miss", bench.miss, sizes[1])
    for tokens in sizes[2:]:
        record.attempt(f"shuffled {tokens}", bench.shuffled, tokens)
    record.attempt("ways", bench.ways, sizes[0])
    record.finish()


class Bench:
    """The model, its engine, and what is measured on them."""

    def __init__(self, record: Record, chosen: Options) -> None:
        self.device = chosen.device
        self.model: PreTrainedModel = llama(chosen.device, tiny=chosen.tiny)
        pool = PoolConfig(max_bytes=_POOL_BYTES, heal=False)
        self.engine = SemShareEngine(self.model, tokenizer(self.model.config.vocab_size), pool=pool)

    def full(self, tokens: list[int], steps: int = 1) -> float:
        """Milliseconds of a full prefill and ``steps`` tokens by transformers alone."""
        settle(self.device)
        began = time.perf_counter()
        ids = torch.tensor([tokens], device=self.device)
        with torch.no_grad():
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=steps,
                do_sample=False,
                pad_token_id=0,
            )
        settle(self.device)
        return 1000 * (time.perf_counter() - began)

    def ours(self, tokens: list[int], ratio: float | None) -> ReuseReport:
        """The report of a call that stores nothing."""
        policy = "exact" if ratio is None else ReusePolicy(recompute_ratio=ratio, canary=0.0)
        settle(self.device)
        return self.engine.generate(tokens, max_new_tokens=1, reuse=policy, store=False).report

    def shuffled(self, record: Record, tokens: int) -> None:
        """Shuffled and edited passages at every ratio. The first calls with new shapes are told apart."""
        prompts = self._stored(tokens)
        self.full(prompts.shuffled())
        full_peak, full = self._peak(lambda: self.full(prompts.shuffled()))
        fulls = [full]
        for ratio in _RATIOS:
            first = [self.ours(prompts.shuffled(), ratio).ttft_ms for _ in range(3)]
            reports, peaks = [], []
            for _ in range(_REPEATS):
                peak, report = self._peak(partial(self.ours, prompts.shuffled(), ratio))
                reports.append(report)
                peaks.append(peak)
                fulls.append(self.full(prompts.shuffled()))
            self._tell(record, f"{tokens} tokens, ratio {ratio}", reports, fulls, first)
            extra = (max(peaks) - full_peak) / 2**30
            record.add(
                f"memory of {tokens} tokens, ratio {ratio}",
                f"peak {full_peak / 2**30:.2f} GiB in full, "
                f"{extra:+.2f} with reuse (pool {self.engine.pool.stats().device_bytes / 2**30:.2f})",
            )

    def prefix(self, record: Record, tokens: int) -> None:
        """An exact prefix and a few tokens behind it, in decoding steps of transformers."""
        prompts = self._stored(tokens, seed=1)
        calls = [prompts.continued(_BEHIND) for _ in range(_REPEATS + 3)]
        first = [self.ours(call, None).ttft_ms for call in calls[:3]]
        reports = [self.ours(call, None) for call in calls[3:]]
        fulls = [self.full(call) for call in calls]
        self._tell(record, f"a prefix of {tokens} and {_BEHIND} tokens", reports, fulls[1:], first)
        long = min(self.full(calls[0], _STEPS + 1) for _ in range(2))
        step = (long - float(np.median(fulls[1:]))) / _STEPS
        ttft = float(np.median([report.ttft_ms for report in reports]))
        record.add(
            "a decoding step of transformers", f"{step:.1f} ms; the prefix took {ttft / step:.2f} of them", ms=step
        )
        sampled = [
            self.engine.generate(calls[0], max_new_tokens=_STEPS + 1, store=False, reuse="exact") for _ in range(3)
        ]
        ours = min(sample.report.decode_ms for sample in sampled) / _STEPS
        record.add("a decoding step of ours", f"{ours:.1f} ms", ms=ours)

    def miss(self, record: Record, tokens: int) -> None:
        """A prompt with nothing in common with the pool."""
        prompts = self._stored(tokens, seed=2)
        reports, fulls = [], []
        for _ in range(_REPEATS):
            reports.append(self.ours(prompts.fresh(), 0.1))
            fulls.append(self.full(prompts.fresh()))
        self._tell(record, f"a miss of {tokens} tokens", reports, fulls, [])

    def profile(self, record: Record, tokens: int, ratio: float) -> None:
        """One call's kernels, and what the processor waited for."""
        prompts = self._stored(tokens)
        for _ in range(4):
            self.ours(prompts.shuffled(), ratio)
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        call = prompts.shuffled()
        with torch.profiler.profile(activities=activities) as profiled:
            self.ours(call, ratio)
        events = [event for event in profiled.key_averages() if _device_us(event)]
        total, count = sum(map(_device_us, events)) / 1000, sum(event.count for event in events)
        name = f"{tokens} tokens, ratio {ratio}"
        record.add(f"kernels, {name}", f"{total:.1f} ms on the device in {count} kernels", ms=total, kernels=count)
        for event in sorted(events, key=_device_us, reverse=True)[:_KERNELS]:
            ms = _device_us(event) / 1000
            record.add(f"{name}: {event.key[:64]}", f"{ms:.2f} ms in {event.count}", ms=ms, count=event.count)

    def ways(self, record: Record, tokens: int) -> None:
        """The same calls without graphs, and without attention by rows."""
        prompts = self._stored(tokens)
        prefill: Any = self.engine._prefill
        self._way(record, "captured", prompts)
        prefill.captured = None
        self._way(record, "step by step, by rows", prompts)

    def _stored(self, tokens: int, seed: int = 0) -> Prompts:
        """Prompts of so many tokens, whose reference alone is in the pool."""
        prompts = Prompts(tokens, self.model.config.vocab_size, seed)
        self.engine.pool.clear()
        self.engine.warm([prompts.reference])
        return prompts

    def _way(self, record: Record, name: str, prompts: Prompts) -> None:
        for _ in range(3):
            self.ours(prompts.shuffled(), 0.1)
        took = [self.ours(prompts.shuffled(), 0.1).ttft_ms for _ in range(_REPEATS)]
        record.add(f"way: {name}", f"{np.median(took):.1f} ms", ms=took)

    def _peak(self, call: Callable[[], Any]) -> tuple[int, Any]:
        """The most bytes of device memory during ``call``, and what it returned."""
        if self.device.type != "cuda":
            return 0, call()
        torch.cuda.reset_peak_memory_stats(self.device)
        result = call()
        return torch.cuda.max_memory_allocated(self.device), result

    def _tell(
        self, record: Record, name: str, reports: list[ReuseReport], fulls: list[float], first: list[float]
    ) -> None:
        ttft, full = (float(np.median(took)) for took in ([report.ttft_ms for report in reports], fulls))
        parts = {
            key: float(np.median([getattr(r, key) for r in reports])) for key in ("lookup_ms", "match_ms", "prefill_ms")
        }
        rest = ttft - sum(parts.values())
        told = (
            f"{full / ttft:.2f}x: {ttft:.1f} ms ({min(r.ttft_ms for r in reports):.1f} to "
            f"{max(r.ttft_ms for r in reports):.1f}), full {full:.1f} ({min(fulls):.1f} to {max(fulls):.1f}); "
            f"look-up {parts['lookup_ms']:.1f}, match {parts['match_ms']:.1f}, prefill {parts['prefill_ms']:.1f}, "
            f"rest {rest:.1f}; {reports[-1].outcome}, ratio {reports[-1].recompute_ratio:.3f}; first calls "
            f"{', '.join(f'{ms:.0f}' for ms in first) or 'none'}"
        )
        record.add(name, told, ttft_ms=[r.ttft_ms for r in reports], full_ms=fulls, first_ms=first, **parts)


def _device_us(event: Any) -> float:
    return float(getattr(event, "self_device_time_total", 0.0))


if __name__ == "__main__":
    main()
