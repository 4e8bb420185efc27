"""Store once what prompts begin with alike: divide a segment where a new prompt parts from it."""

from __future__ import annotations

from collections.abc import Collection

from semshare_core.pool.entry import Entry
from semshare_core.pool.segment import MemoryRows, Segment
from semshare_core.pool.tiers import Tiers


def reaching(partner: Entry, length: int) -> tuple[list[Segment], Segment | None]:
    """The segments of ``partner`` that lie within its first ``length`` tokens, and the one that reaches beyond."""
    segments = partner.segments
    whole = [segment for segment in segments if segment.end <= length]
    crossing = next((segment for segment in segments if segment.start < length < segment.end), None)
    return whole, crossing


def divided(segment: Segment, at: int, tiers: Tiers, keep: Collection[Segment]) -> tuple[Segment, Segment] | None:
    """Copies of a segment's rows before and from token ``at`` of its entries; None if memory has no room for them.

    Raises:
        DamagedFileError: the rows lie on disk and cannot be read.
    """
    if not isinstance(segment.rows, MemoryRows) and not tiers.to_device(segment, keep):
        return None
    rows = segment.rows
    if not isinstance(rows, MemoryRows):  # it was moved down again at once: the budget is tiny
        return None
    first, second = rows.divided(at - segment.start)
    return (
        Segment(segment.namespace, segment.start, at - segment.start, first, first.n_bytes, uses=segment.uses),
        Segment(segment.namespace, at, segment.end - at, second, second.n_bytes, uses=segment.uses),
    )


def own_rows(entry: Entry, start: int, *, copy: bool) -> Segment | None:
    """The rows of an entry that is not in the pool yet, from token ``start`` on; None if none are left."""
    if start == len(entry):
        return None
    rows = entry.segments[0].rows
    assert isinstance(rows, MemoryRows), "made by Entry.of_rows()"
    kept = rows.part(start, len(entry)) if start or copy else rows.snug()
    return Segment(entry.namespace, start, len(entry) - start, kept, kept.n_bytes)
