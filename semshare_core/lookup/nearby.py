"""Earlier prompts with which a prompt is compared, to tell where it first departs from the nearest one."""

from __future__ import annotations

from collections.abc import Iterable

from semshare_core.lookup.search import Candidates, Query
from semshare_core.pool.entry import Entry
from semshare_core.pool.pool import ReferencePool
from semshare_core.tokens import Tokens

_COUNT = 4  # of each kind: many prompts begin alike, and the first ones share most


def nearby(
    pool: ReferencePool, query: Query, chosen: Iterable[Entry], candidates: Candidates | None
) -> tuple[Tokens, ...]:
    """The tokens of pooled prompts that resemble the query, int64 [m] each.

    Only those of the query's own namespace, because their text is quoted; nobody else's, and no public prompt's.

    Args:
        chosen: the entries that serve.
        candidates: what the search has found; None if nothing but a prefix was searched.
    """
    alike = pool.beginning_alike(query.namespace, query.tokens, _COUNT, weights=query.weights)
    if candidates is None:
        found = pool.sharing(query.namespace, query.tokens, _COUNT, weights=query.weights)
    else:
        found = [*candidates.sharing, *(entry for entry, _ in candidates.similar)]
    entries = {entry.id: entry for entry in (*alike, *chosen, *found) if entry.namespace == query.namespace}
    return tuple(entry.tokens for entry in entries.values())
