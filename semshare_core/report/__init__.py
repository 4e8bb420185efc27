"""What a call reports: :class:`ReuseReport`."""

from semshare_core.report.report import Canary, Outcome, ReuseReport

__all__ = ["Canary", "Outcome", "ReuseReport"]
