"""Earlier prompts with which a prompt is compared, to tell where it first departs from the nearest one."""

from __future__ import annotations

from collections.abc import Iterable

from semshare_core.lookup.search import Query
from semshare_core.pool.entry import Entry
from semshare_core.pool.pool import ReferencePool
from semshare_core.tokens import Tokens

_COUNT = 4  # of each kind: many prompts begin alike, and the first ones share most


def nearby(pool: ReferencePool, query: Query, found: Iterable[Entry]) -> tuple[Tokens, ...]:
    """The tokens of pooled prompts that resemble the query, int64 [m] each.

    Only those of the query's own namespace, because their text is quoted; nobody else's, and no public prompt's.

    Args:
        found: what the lookup has found already.
    """
    begin = pool.beginning_alike(query.namespace, query.tokens, _COUNT, weights=query.weights)
    entries = {entry.id: entry for entry in (*begin, *found) if entry.namespace == query.namespace}
    return tuple(entry.tokens for entry in entries.values())


def sharing_most(pool: ReferencePool, query: Query) -> list[Entry]:
    """Pooled prompts that share most text with the query, for a lookup that has searched nothing but a prefix."""
    return pool.sharing(query.namespace, query.tokens, _COUNT, weights=query.weights)
