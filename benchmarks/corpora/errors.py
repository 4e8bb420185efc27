"""The one error of this package."""

from __future__ import annotations


class CorpusUnavailable(RuntimeError):
    """A text cannot be had on this machine; the message is the reason, fit to be shown when a benchmark is skipped."""
