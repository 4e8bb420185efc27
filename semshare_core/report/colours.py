"""The colours of every picture of a report: in notebooks, in charts and on the demo's page.

The palette is Okabe and Ito's (https://jfly.uni-koeln.de/color/), which the colour-blind can tell apart, too.
"""

from __future__ import annotations

BLUE, SKY, ORANGE, VERMILLION, GREY = "#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#999999"
COMPUTED = "#222222"
"""Marks tokens that were computed afresh, beside the colour of their source."""

OUTCOMES = {"miss": VERMILLION, "bypass": GREY, "semantic": SKY, "prefix": BLUE}
"""What became of a call. ``bypass`` is a full prefill's, too."""

STEPS = {"waiting": "#cccccc", "lookup": ORANGE, "matching": VERMILLION, "prefill": BLUE, "decoding": "#9ad0f0"}
"""What a call's time was spent on, in order."""
