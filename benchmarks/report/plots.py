"""The plots: each says in its title, axes and legend all that it takes to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.bench.figures import KEPT_SHARE, NEVER_BELOW, SPEEDS, is_peer
from benchmarks.bench.item import Item
from benchmarks.bench.metrics import (
    KEPT,
    KL,
    KV_SHARE,
    RATIO,
    ROUGE_L,
    SPEED,
    Metric,
    by_system,
    common_cases,
    grouped,
    promised_kl,
)
from benchmarks.bench.plan import BALANCED
from benchmarks.report.drawing import COLOURS, Dot, label_dots, new_figure
from semshare_core.budget.levels import BOUNDS, MEASURED_TOKENS

KL_FLOOR = 1e-3
"""Where a logarithmic axis ends: less is as good as none."""
_WIDE = 15
"""Speeds that differ more than so many times stand on a logarithmic axis."""
LINES = {
    "ours": "ours, by recompute ratio",
    "paper": "SemShareKV (paper), by ratio",
    "cacheblend": "CacheBlend, by ratio",
}
KINDS = {"level": ("*", 13, "ours, by level"), "peer": ("D", 6, "other projects"), "other": ("s", 6, "others")}
_LEFT_OUT = ("zero rows", "random")


def frontier(items: Sequence[Item], workload: str, about: str) -> Figure | None:
    """Speed against divergence: every system and setting that was measured on the same cases of a workload."""
    chosen = {
        name: group
        for name, group in by_system(items, workload).items()
        if not is_peer(name) and not any(word in name for word in _LEFT_OUT)
    }
    return _speed_and_quality(chosen, f"Speed against quality: {workload}", about)


def peers(items: Sequence[Item], workload: str, about: str) -> Figure | None:
    """The same for the peers, beside ours by level, on the peers' cases."""
    groups = by_system(items, workload)
    chosen = {name: group for name, group in groups.items() if is_peer(name)}
    if not chosen:
        return None
    chosen |= {name: group for name, group in groups.items() if _kind(name) == "level" or name == "prefix cache"}
    return _speed_and_quality(chosen, f"Ours and other projects: {workload}", about)


def _speed_and_quality(chosen: Mapping[str, Sequence[Item]], title: str, about: str) -> Figure | None:
    groups = common_cases({name: list(group) for name, group in chosen.items() if KL.estimate(group)})
    points = {name: (SPEED.value(group), max(KL.value(group), KL_FLOOR)) for name, group in groups.items() if group}
    if len(points) < 3:
        return None
    figure, (axes,) = new_figure(8.5, 5.6)
    dots: list[Dot] = []
    crossed: list[tuple[float, float]] = []
    for method, legend in LINES.items():
        swept = sorted((_ratio(name), at) for name, at in points.items() if name.startswith(method) and _is_ratio(name))
        if swept:
            xs, ys = zip(*(at for _, at in swept), strict=True)
            axes.plot(xs, ys, "o-", color=COLOURS[method], markersize=5, linewidth=1, alpha=0.85, label=legend)
            dots += [(*at, f"{ratio:g}", COLOURS[method]) for ratio, at in swept]
            crossed += _between(list(zip(xs, ys, strict=True)))
    for kind, (marker, size, legend) in KINDS.items():
        others = {name: at for name, at in points.items() if not _is_ratio(name) and _kind(name) == kind}
        for place, (name, at) in enumerate(others.items()):
            colour = COLOURS.get(kind, COLOURS.get(name, "#555555"))
            axes.plot(*at, marker, color=colour, markersize=size, linestyle="none", label=None if place else legend)
            dots.append((*at, name.removeprefix("ours "), colour))
    speeds = [speed for speed, _ in points.values()]
    if max(speeds) > _WIDE * min(speeds):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.set_yscale("log")
    axes.set_ylim(KL_FLOOR * 0.75, max(0.1, 2.5 * max(kl for _, kl in points.values())))
    axes.margins(x=0.12)
    axes.axvline(1, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_title(f"{title} (prompts: {len(next(iter(groups.values())))})\n{about}", fontsize=11)
    axes.set_xlabel("speed: TTFT of the full prefill / TTFT (×)   → better")
    axes.set_ylabel(f"KL to the full prefill (nats, from {KL_FLOOR:g} on)   ↓ better")
    figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    label_dots(axes, dots, crossed)
    return figure


def _between(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Places along a line on a logarithmic axis, which labels had better not cover."""
    return [
        (x + (u - x) * part, y * (v / y) ** part)
        for (x, y), (u, v) in pairwise(line)
        for part in np.linspace(0.1, 0.9, 9)
    ]


def lengths(items: Sequence[Item]) -> Figure | None:
    """Speed against the prompt's length, beside the targets."""
    groups = by_system(items, "length sweep")
    if BALANCED not in groups:
        return None
    figure, (axes,) = new_figure()
    found = grouped(groups[BALANCED], lambda item: item.setting)
    by_length = {float(setting): group for setting, group in found.items()}
    _line_with_intervals(axes, by_length, SPEED, BALANCED, "ours, level balanced")
    axes.axhline(1, color=COLOURS["full prefill"], linewidth=1, linestyle=":", label="full prefill")
    axes.plot(
        [int(setting) for setting in SPEEDS],
        list(SPEEDS.values()),
        "_",
        color="#c8553d",
        markersize=22,
        markeredgewidth=2,
        linestyle="none",
        label="aimed at, at least",
    )
    axes.set_xscale("log")
    ticks = sorted(by_length)
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_title("Speed against prompt length\npassages in another order, 5 % of the words changed", fontsize=11)
    axes.set_xlabel("prompt length (tokens)")
    axes.set_ylabel("speed: TTFT of the full prefill / TTFT (×)   ↑ better")
    axes.legend(fontsize=8, loc="upper left")
    return figure


def similarity(items: Sequence[Item]) -> Figure | None:
    """Speed and divergence against how much of the reference is left, at level balanced."""
    found = by_system(items, "similarity sweep").get(BALANCED, [])
    if not found:
        return None
    figure, (axes,) = new_figure()
    for edit, colour in (("removed", COLOURS["ours"]), ("replaced", COLOURS["prefix cache"])):
        by_share = {
            100 * float(setting.split(" ")[0]): group
            for setting, group in grouped(found, lambda item: item.setting).items()
            if setting.endswith(edit)
        }
        if by_share:
            _line_with_intervals(axes, by_share, SPEED, "ours", f"sentences {edit}", colour)
    axes.axhline(
        NEVER_BELOW, color="#c8553d", linewidth=1, linestyle="--", label=f"promised: never below {NEVER_BELOW}×"
    )
    axes.set_title(
        "Speed against similarity, level balanced\nwhere reuse would not pay or not hold, all is computed", fontsize=11
    )
    axes.set_xlabel("sentences of the reference removed or replaced (%)   ← more alike")
    axes.set_ylabel("speed: TTFT of the full prefill / TTFT (×)   ↑ better")
    axes.legend(fontsize=8)
    return figure


def retention(items: Sequence[Item]) -> Figure | None:
    """ROUGE-L against the bytes kept for decoding; the labels are the shares that a layer keeps of the one before."""
    groups = by_system(items, "retention sweep")
    if len(groups) < 2:
        return None
    figure, (axes,) = new_figure()
    colour, dots = COLOURS["ours"], []
    for name, group in groups.items():
        found, kept_bytes = ROUGE_L.estimate(group), 100 * KV_SHARE.value(group)
        if found is not None:
            spread = [[found.value - found.low], [found.high - found.value]]
            axes.errorbar(kept_bytes, found.value, yerr=spread, fmt="o", color=colour, capsize=2, elinewidth=0.8)
            dots.append(
                (kept_bytes, found.value, name.rpartition(" ")[2] if "retention" in name else "all rows", colour)
            )
    axes.axvline(58, color="#c8553d", linewidth=1, linestyle="--", label="the paper's saving: 42 %")
    axes.margins(0.1)
    axes.set_title(
        "Quality against KV bytes while decoding, ours at ratio 0.25\nlabels: retention's decay by layer", fontsize=11
    )
    axes.set_xlabel("KV bytes of the prompt while decoding (% of the full cache)   ← better")
    axes.set_ylabel("ROUGE-L against the full prefill's text   ↑ better")
    axes.legend(fontsize=8, loc="upper left")
    label_dots(axes, dots)
    return figure


def kept_answers(items: Sequence[Item], workload: str, about: str) -> Figure | None:
    """The share of answers that stay, against what is recomputed."""
    groups = {
        name: group
        for name, group in by_system(items, workload).items()
        if not is_peer(name) and KEPT.estimate(group) is not None and RATIO.estimate(group) is not None
    }
    if not any(_is_ratio(name) for name in groups):
        return None
    figure, (axes,) = new_figure()
    for method, legend in LINES.items():
        swept = {
            RATIO.value(group): group
            for name, group in groups.items()
            if name.startswith(f"{method} ") and _is_ratio(name)
        }
        if swept:
            _line_with_intervals(axes, swept, KEPT, method, legend)
    levels = {name: group for name, group in groups.items() if _kind(name) == "level"}
    dots: list[Dot] = []
    for place, (name, group) in enumerate(levels.items()):
        x, y = RATIO.value(group), KEPT.value(group)
        axes.plot(
            x,
            y,
            "*",
            color=COLOURS["level"],
            markersize=13,
            linestyle="none",
            label="ours, by level" if not place else None,
        )
        dots.append((x, y, name.removeprefix("ours "), COLOURS["level"]))
    axes.axhline(KEPT_SHARE, color="#999999", linewidth=1, linestyle="--", label=f"aimed at: {KEPT_SHARE}")
    answered = max(found.count for group in groups.values() if (found := KEPT.estimate(group)))
    axes.set_ylim(top=1.05)
    axes.set_xlim(0, 1.0)
    axes.set_title(f"Kept answers against recomputation: {workload}\n{about}", fontsize=11)
    axes.set_xlabel("recompute ratio: rows computed / all rows   ← cheaper")
    axes.set_ylabel(f"answers kept, of the {answered} or fewer\nthat the full prefill gives   ↑ better")
    axes.legend(fontsize=8, loc="lower right")
    label_dots(axes, dots)
    return figure


def levels(items: Sequence[Item]) -> Figure | None:
    """Every prompt's divergence under each level, beside the level's bound."""
    served = [item for item in items if _kind(item.system) == "level" and item.kl]
    if not served:
        return None
    workloads = list(grouped(served, lambda item: item.workload))
    figure, panels = new_figure(11, 0.32 * len(workloads) + 2.4, columns=len(BOUNDS))
    rng = np.random.default_rng(0)
    for axes, (level, bound) in zip(panels, BOUNDS.items(), strict=True):
        found = [item for item in served if item.system == f"ours {level}"]
        kls = np.array([max(promised_kl(item) or 0.0, KL_FLOOR) for item in found])
        rows = np.array([workloads.index(item.workload) for item in found]) + rng.uniform(-0.25, 0.25, len(found))
        beyond = kls > bound.kl
        axes.plot(
            kls[~beyond], rows[~beyond], "o", color=COLOURS["ours"], markersize=3, alpha=0.6, label="a prompt within"
        )
        axes.plot(kls[beyond], rows[beyond], "o", color="#c8553d", markersize=4, alpha=0.9, label="a prompt beyond")
        axes.axvline(bound.kl, color="#c8553d", linewidth=1.2, linestyle="--", label="the bound")
        axes.set_xscale("log")
        axes.set_xlim(KL_FLOOR * 0.7, 3)
        share = f"{beyond.sum()} of {len(found)} beyond ({beyond.mean():.1%})" if len(found) else "not measured"
        axes.set_title(f"{level}: KL ≤ {bound.kl} for 95 of 100\n{share}", fontsize=10)
        axes.set_yticks(range(len(workloads)), workloads)
    panels[0].set_ylim(len(workloads) - 0.5, -0.5)
    panels[1].set_xlabel(f"KL to the full prefill, mean of the first {MEASURED_TOKENS} tokens (nats)   ← better")
    figure.suptitle("What the levels promise, and every prompt that was measured", fontsize=11)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _line_with_intervals(
    axes: Axes, groups: Mapping[float, Sequence[Item]], metric: Metric, name: str, legend: str, colour: str = ""
) -> None:
    made = sorted((at, found) for at, group in groups.items() if (found := metric.estimate(group)) is not None)
    values = np.array([found.value for _, found in made])
    spread = np.abs(np.array([[found.low, found.high] for _, found in made]).T - values)
    axes.errorbar(
        [at for at, _ in made],
        values,
        yerr=spread,
        fmt="o-",
        color=colour or COLOURS.get("ours" if name == BALANCED else name, "#555555"),
        capsize=2,
        elinewidth=0.8,
        linewidth=1.2,
        markersize=4,
        label=legend,
    )


def _is_ratio(name: str) -> bool:
    """As in "ours 0.25": a fixed ratio and nothing else."""
    method, _, ratio = name.partition(" ")
    return method in LINES and ratio.replace(".", "", 1).isdigit()


def _ratio(name: str) -> float:
    return float(name.split(" ")[1])


def _kind(name: str) -> str:
    return "level" if name.removeprefix("ours ") in BOUNDS else "peer" if is_peer(name) else "other"
