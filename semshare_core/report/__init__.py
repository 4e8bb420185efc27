"""What a call reports: :class:`ReuseReport`."""

from semshare_core.report.first_difference import FirstDifference
from semshare_core.report.report import Canary, Outcome, ReuseReport

__all__ = ["Canary", "FirstDifference", "Outcome", "ReuseReport"]
