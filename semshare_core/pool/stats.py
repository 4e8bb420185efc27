"""What a pool holds and has done, in figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PoolStats:
    """What a pool, or one namespace of it, holds and has done.

    Attributes:
        bytes: of keys and values in memory; ``device_bytes`` and ``host_bytes`` are its parts.
        disk_bytes: of keys and values on disk, copies of the above and what memory has no room for.
        evictions: entries that had to leave for want of room.
        rejected: entries that were too short or too large to be kept.
        approximate: entries with approximate rows.
        healed: entries whose approximate rows were replaced by lossless ones; ``healed_tokens``: how many rows.
    """

    entries: int
    tokens: int
    bytes: int
    max_bytes: int
    evictions: int
    rejected: int
    device_bytes: int = 0
    host_bytes: int = 0
    disk_bytes: int = 0
    approximate: int = 0
    healed: int = 0
    healed_tokens: int = 0
