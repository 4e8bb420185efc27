"""The README's picture: passages that move, and how long each system takes until the first token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from benchmarks.report.drawing import COLOURS

BARS = {
    "full prefill": ("full prefill", COLOURS["full prefill"]),
    "prefix cache": ("prefix cache", COLOURS["prefix cache"]),
    "SemShare, balanced": ("SemShare", COLOURS["ours"]),
}
"""System → its label and colour."""

_PASSAGES = ("#56b4e9", "#e69f00", "#7fbf9e", "#cc79a7", "#b9b04a", "#9a8fd0")
_COMPUTED = "#555555"
_EARLIER, _NEW, _HIGH = 1.0, 0.0, 0.3
_GAP, _QUESTION = 0.006, 0.155


def describe(told: Mapping[str, Any]) -> str:
    """What the picture shows, in a sentence."""
    seconds = told["seconds"]
    times = ", ".join(f"{label} {seconds[name]:.1f} s" for name, (label, _) in BARS.items())
    return (
        f"The same {len(told['order'])} passages in another order, {told['prompt_tokens']:,} tokens. "
        f"Time to the first token: {times} ({speed(told):.1f}×, KL {told['kl']:.3f})."
    )


def speed(told: Mapping[str, Any]) -> float:
    """How many times as fast as the full prefill."""
    return float(told["seconds"]["full prefill"] / told["seconds"]["SemShare, balanced"])


def first_screen(told: Mapping[str, Any]) -> Figure:
    """Above the earlier prompt's passages and where they go, below the times."""
    # Small for its letters, so that they can be read where a phone shrinks the picture.
    figure = Figure(figsize=(6.0, 3.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    moving, bars = figure.subplots(2, 1, height_ratios=(1.25, 1))
    _draw_passages(moving, told)
    _draw_bars(bars, told)
    return figure


def _draw_passages(axes: Axes, told: Mapping[str, Any]) -> None:
    order, names = told["order"], told["passages"]
    width = 1 / len(order)
    for place, passage in enumerate(order):
        colour = _PASSAGES[passage % len(_PASSAGES)]
        _box(axes, passage * width, _EARLIER, width, colour, names[passage])
        _box(axes, place * width, _NEW, width, colour, names[passage])
        _ribbon(axes, passage * width, place * width, width, colour)
    for height in (_EARLIER, _NEW):
        _box(axes, 1.0, height, _QUESTION, _COMPUTED, "question")
    axes.set_xlim(-0.005, 1.005 + _QUESTION)
    axes.set_ylim(_NEW - 0.05, _EARLIER + _HIGH + 0.05)
    axes.set_yticks([_EARLIER + _HIGH / 2, _NEW + _HIGH / 2], ["earlier prompt", "new prompt"], fontsize=10)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"Passages move: {told['prompt_tokens']:,} tokens, another order, another question", fontsize=10)


def _box(axes: Axes, left: float, bottom: float, width: float, colour: str, label: str) -> None:
    axes.add_patch(Rectangle((left + _GAP / 2, bottom), width - _GAP, _HIGH, facecolor=colour, edgecolor="none"))
    shade = "white" if colour == _COMPUTED else "black"
    axes.text(left + width / 2, bottom + _HIGH / 2, label, ha="center", va="center", fontsize=9, color=shade)


def _ribbon(axes: Axes, start: float, end: float, width: float, colour: str) -> None:
    """From below the earlier place to above the new one."""
    high, low = _EARLIER - 0.02, _NEW + _HIGH + 0.02
    middle = (high + low) / 2
    left, right = _GAP / 2, width - _GAP / 2
    points = [
        (start + left, high), (start + left, middle), (end + left, middle), (end + left, low),
        (end + right, low), (end + right, middle), (start + right, middle), (start + right, high),
        (start + left, high),
    ]  # fmt: skip
    curve = [Path.CURVE4] * 3
    path = Path(points, [Path.MOVETO, *curve, Path.LINETO, *curve, Path.CLOSEPOLY])
    axes.add_patch(PathPatch(path, facecolor=colour, edgecolor="none", alpha=0.45))


def _draw_bars(axes: Axes, told: Mapping[str, Any]) -> None:
    seconds = [told["seconds"][name] for name in BARS]
    for place, (name, (label, colour)) in enumerate(BARS.items()):
        taken = told["seconds"][name]
        axes.barh(place, taken, color=colour, height=0.66)
        note = f"{taken:.1f} s"
        if label == "SemShare":
            note += f" ({speed(told):.1f}× faster, KL to the full prefill {told['kl']:.3f})"
        weight = "bold" if label == "SemShare" else "normal"
        # Beside the bar by an offset: SVG drops spaces at the beginning of a text.
        axes.annotate(
            note, (taken, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=10, weight=weight
        )
    axes.set_yticks(range(len(BARS)), [label for label, _ in BARS.values()], fontsize=10)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(seconds))
    axes.set_xlabel("seconds of processor time to the first token (demo model, one CPU thread)", fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
