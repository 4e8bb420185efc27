"""A RAG prompt whose chunks come from as many earlier prompts: what is found of them, speed-up and divergence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from statistics import mean, median

from benchmarks.corpora.bible import chapter_texts
from benchmarks.measure import Measured, baseline, full_prefill, measure
from benchmarks.sections.figure import Figure, Run, item, means
from benchmarks.workloads.rag_chunks import RagChunks, rag_chunks
from semshare_core import ReusePolicy

SEEDS = range(20, 28)
CHUNK_TOKENS, LEAST_TOKENS, REPEATS = 300, 80, 3  # a last message of few tokens is a question as a whole
EXACT, SPEEDUP, KL = 0.95, 6.0, 0.04
POLICIES = {level: ReusePolicy(level=level) for level in ("balanced", "fast")} | {
    f"ratio {ratio}": ReusePolicy(recompute_ratio=ratio) for ratio in (0.05, 0.065, 0.075, 0.1, 0.13)
}


def chunks(run: Run) -> Iterator[Figure]:
    """As chat messages; every policy on the same prompts, between two full prefills."""
    tokens = max(run.tokens(CHUNK_TOKENS), LEAST_TOKENS)
    workload = rag_chunks(
        chapter_texts("web"),
        run.count_tokens,
        seeds=SEEDS[: run.count(len(SEEDS))],
        chunk_tokens=(tokens - 15, tokens + 15),
    )
    found: dict[str, list[Measured]] = defaultdict(list)
    for one in workload:
        for name, measured in _beside_full(run, one).items():
            found[name].append(measured)
            run.say(f"{one.id}, {name}: {means([measured])}")
    yield from _shares(run, workload, found["balanced"])
    for name, several in found.items():
        speedup, kl = median(m.speedup for m in several), median(m.kl for m in several)
        met = mean(m.speedup for m in several) >= SPEEDUP and mean(m.kl for m in several) <= KL
        yield Figure(
            f"chunks, {name}",
            f"{means(several)}; medians {speedup:.2f}x, KL {kl:.3f}; TTFT {median(_ttft(several)):.0f} ms",
            f">= {SPEEDUP}x at KL <= {KL}",
            met,
            [item(one.id, measured) for one, measured in zip(workload, several, strict=True)],
        )


def _beside_full(run: Run, one: RagChunks) -> dict[str, Measured]:
    engine, prompt = run.engine, list(one.target_prompt)
    engine.pool.clear()
    engine.warm([list(earlier) for earlier in one.earlier_prompts])
    base = baseline(engine, prompt)
    found = {name: measure(engine, prompt, policy, base, repeats=REPEATS) for name, policy in POLICIES.items()}
    seconds = mean((base.seconds, full_prefill(engine.model, base.ids)[0]))
    return {name: replace(measured, full_seconds=seconds) for name, measured in found.items()}


def _shares(run: Run, workload: list[RagChunks], found: list[Measured]) -> Iterator[Figure]:
    """How much of the chunks, and of the whole prompt, identical runs and the prefix serve."""
    of_prompt, of_chunks, references = [], [], []
    for one, measured in zip(workload, found, strict=True):
        report = measured.report
        exact = report.moved_tokens + report.prefix_tokens
        of_prompt.append(exact / report.prompt_tokens)
        of_chunks.append(_share_of_chunks(run, one, report.token_sources))
        references.append(len(report.reference_ids))
    for name, shares in (("chunks' tokens", of_chunks), ("prompt", of_prompt)):
        told = f"mean {mean(shares):.3f}, least {min(shares):.3f}"
        yield Figure(f"chunks: exact share of the {name}", told, f">= {EXACT}", min(shares) >= EXACT, shares)
    told = f"{min(references)} to {max(references)}"
    yield Figure("chunks: references that serve a prompt", told, items=references)
    sizes = [m.report.prompt_tokens for m in found]
    yield Figure("chunks: tokens in a prompt", f"{min(sizes)} to {max(sizes)}", items=sizes)


def _share_of_chunks(run: Run, one: RagChunks, sources: list[int]) -> float:
    """Of the tokens that touch a chunk's text, those in identical runs or the prefix."""
    tokenizer = run.engine.tokenizer
    text = tokenizer.decode(run.engine.token_ids(list(one.target_prompt)))
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    spans = [(text.index(chunk), text.index(chunk) + len(chunk)) for chunk in one.chunks]
    inside = [any(a < end and b > begin for begin, end in spans) for a, b in offsets]
    held = [source >= 2 for source, within in zip(sources, inside, strict=True) if within]
    return sum(held) / len(held)


def _ttft(found: list[Measured]) -> list[float]:
    return [median(m.ttft_ms) for m in found]
