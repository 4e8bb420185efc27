"""What calls reused, gathered: free of the frameworks."""

from semshare_integrations.statistics.log import ReuseLog

__all__ = ["ReuseLog"]
