"""Statistics of reports: totals, saved time, charts, OpenTelemetry. They need no framework.

Import ``charts`` (matplotlib) and ``telemetry`` (OpenTelemetry) by name. Each needs its extra.
"""

from semshare_integrations.statistics.log import ReuseLog
from semshare_integrations.statistics.operation import Operation
from semshare_integrations.statistics.prefill_cost import PrefillCost
from semshare_integrations.statistics.totals import ReuseTotals

__all__ = ["Operation", "PrefillCost", "ReuseLog", "ReuseTotals"]
