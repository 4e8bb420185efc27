"""What calls reused, gathered: totals, time saved, charts, OpenTelemetry. Free of the frameworks.

``charts`` (matplotlib) and ``telemetry`` (OpenTelemetry) are imported by name, for each needs an extra of its own.
"""

from semshare_integrations.statistics.log import ReuseLog
from semshare_integrations.statistics.operation import Operation
from semshare_integrations.statistics.prefill_cost import PrefillCost
from semshare_integrations.statistics.totals import ReuseTotals

__all__ = ["Operation", "PrefillCost", "ReuseLog", "ReuseTotals"]
