"""What all plots share: the colours of the systems, and labels that stand beside their dots and not on each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

COLOURS = {
    "ours": "#0b6e4f",
    "level": "#0b6e4f",
    "paper": "#c8553d",
    "cacheblend": "#7b5ea7",
    "prefix cache": "#3d6fb6",
    "full prefill": "#333333",
    "peer": "#b8860b",
}
Dot = tuple[float, float, str, str]
"""x, y, label, colour."""
_OFFSETS = [
    (x * step, y * step)
    for step in (1.0, 1.9, 3.0, 4.2, 6.0)
    for x, y in ((7, 5), (7, -9), (-7, 5), (-7, -9), (0, 9), (0, -13), (10, -2), (-10, -2))
]


def new_figure(width: float = 8.0, height: float = 5.0, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure, in inches, of panels side by side that share their vertical axis."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    for each in axes:
        each.grid(visible=True, alpha=0.25, linewidth=0.6)
        each.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def save(figure: Figure, path: Path, letters: str = "path") -> None:
    """As SVG, or what the suffix says; the same figure gives the same file.

    ``letters`` as "path" look alike everywhere; "none" leaves them to the reader's fonts, in a tenth of the bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {"Date": None} if path.suffix == ".svg" else {}
    with rc_context({"svg.hashsalt": "semshare", "svg.fonttype": letters}):
        figure.savefig(path, metadata=plain, dpi=110)


def label_dots(axes: Axes, dots: Sequence[Dot], crossed: Sequence[tuple[float, float]] = ()) -> None:
    """Write labels beside the dots: at the nearest place that no dot, no other label and no place ``crossed`` takes.

    Dots of one colour that lie on each other share a label.

    A label that had to go farther than its neighbourhood is tied to its dot by a thin line. Call it when the axes have
    their limits.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.canvas.draw()
    taken = [_around(axes, x, y) for x, y, _, _ in dots]
    taken += [_around(axes, x, y, radius=1.5) for x, y in crossed]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent())
    for x, y, label, colour in _merged(axes, dots):
        taken.append(_place(axes, x, y, label, colour, taken))


def _merged(axes: Axes, dots: Sequence[Dot]) -> list[Dot]:
    """From left to right."""
    merged: list[Dot] = []
    for x, y, label, colour in sorted(dots, key=lambda dot: (dot[0], dot[1])):
        here = _around(axes, x, y)
        for place, (u, v, others, other_colour) in enumerate(merged):
            if colour == other_colour and here.overlaps(_around(axes, u, v)):
                merged[place] = (u, v, f"{others}, {label}", colour)
                break
        else:
            merged.append((x, y, label, colour))
    return merged


def _place(axes: Axes, x: float, y: float, label: str, colour: str, taken: Sequence[Bbox]) -> Bbox:
    inside = axes.get_window_extent()
    fallback: tuple[int, tuple[float, float]] | None = None
    for dx, dy in _OFFSETS:
        note = _annotate(axes, x, y, label, colour, dx, dy)
        box = note.get_window_extent()
        clashes = sum(box.overlaps(other) for other in taken)
        outside = not (inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1)
        if not clashes and not outside:
            return box
        note.remove()
        if fallback is None or clashes + 3 * outside < fallback[0]:
            fallback = (clashes + 3 * outside, (dx, dy))
    assert fallback is not None
    return _annotate(axes, x, y, label, colour, *fallback[1]).get_window_extent()


def _annotate(axes: Axes, x: float, y: float, label: str, colour: str, dx: float, dy: float) -> Annotation:
    side = "left" if dx > 0 else "right" if dx < 0 else "center"
    far = max(abs(dx), abs(dy)) > 14
    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.7} if far else None
    return axes.annotate(
        label,
        (x, y),
        xytext=(dx, dy),
        textcoords="offset points",
        ha=side,
        fontsize=8,
        color=colour,
        arrowprops=line,
    )


def _around(axes: Axes, x: float, y: float, radius: float = 5.0) -> Bbox:
    at = axes.transData.transform((x, y))
    return Bbox([[at[0] - radius, at[1] - radius], [at[0] + radius, at[1] + radius]])
