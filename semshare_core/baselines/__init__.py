"""Published methods to compare with. Importing this package registers their parts in the slots."""

from semshare_core.baselines import cacheblend, semsharekv

__all__ = ["cacheblend", "semsharekv"]
