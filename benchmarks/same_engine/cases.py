"""What is put to both engines: scenarios of prompts, each asked of a pool that the scenario filled.

Nothing here but public names, so that the file stays as it is whatever moves inside the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from benchmarks.same_engine import texts
from benchmarks.same_engine.probes import with_retention
from benchmarks.same_engine.texts import (
    BAKERY,
    BAKERY_RETOLD,
    GARDEN,
    HARBOUR,
    HARBOUR_OTHER_FACTS,
    LIGHTHOUSE,
    LIGHTHOUSE_OTHER_FACTS,
    MUSEUM,
    MUSEUM_OTHER_WORDS,
    OBSERVATORY,
    SCHOOL,
    UNRELATED,
    WEAVERS,
    WHAT_COSTS,
    WHEN_BUILT,
    WHO_KEEPS,
    prompt,
)
from semshare_core import PoolConfig, ReusePolicy

if find_spec("semshare_core.slots"):  # the ablations are no part of the core any more
    import_module("benchmarks.ablations")

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Ask:
    """One prompt.

    Attributes:
        name: within its scenario.
        outcome: what the report must say, so that no case quietly becomes another.
        zeros: fuzzy tokens are served by zeros.
        as_ids: the prompt's token ids are put instead of its text.
        answer: so many tokens are generated greedily besides.
        store: the prompt stays in the pool, for those after it.
    """

    name: str
    outcome: str
    prompt: str | Messages
    reuse: str | ReusePolicy = "balanced"
    namespace: str | None = None
    zeros: bool = False
    as_ids: bool = False
    answer: int = 0
    store: bool = False


@dataclass(frozen=True)
class Fill:
    """A prompt that the pool holds before the first is asked."""

    prompt: str | Messages
    namespace: str | None = None


@dataclass(frozen=True)
class Scenario:
    """An engine, what its pool holds, and what is asked of it in this order.

    Attributes:
        reopened: the pool lies in a folder, and another engine opens it between filling and asking.
    """

    name: str
    model: str
    asks: Sequence[Ask]
    fills: Sequence[Fill] = ()
    calibrated: bool = False
    reopened: bool = False
    pool: PoolConfig = field(default_factory=partial(PoolConfig, heal=False))


def ratio(share: float = 0.3, **settings: Any) -> ReusePolicy:
    """A fixed share is computed."""
    return ReusePolicy(recompute_ratio=share, **settings)


ISLAND = prompt(HARBOUR, MUSEUM, BAKERY, LIGHTHOUSE, WHEN_BUILT)
TOWN = prompt(SCHOOL, GARDEN, WEAVERS, WHO_KEEPS)
FILLS = (Fill(ISLAND), Fill(TOWN))
MOVED = prompt(LIGHTHOUSE, HARBOUR, BAKERY, MUSEUM, WHAT_COSTS)
HARBOUR_FIRST = prompt(HARBOUR, LIGHTHOUSE, BAKERY, MUSEUM, WHAT_COSTS)
EDITED = prompt(LIGHTHOUSE_OTHER_FACTS, MUSEUM_OTHER_WORDS, HARBOUR, BAKERY, WHO_KEEPS)
MIXED = prompt(HARBOUR, MUSEUM, LIGHTHOUSE, BAKERY_RETOLD, WHO_KEEPS)  # prefix, moved and fuzzy
SEVERAL = prompt(GARDEN, LIGHTHOUSE, OBSERVATORY, SCHOOL, HARBOUR_OTHER_FACTS, WEAVERS, WHAT_COSTS)
PREFIX = prompt(HARBOUR, MUSEUM, BAKERY, LIGHTHOUSE, WHAT_COSTS)
LITTLE = prompt(OBSERVATORY, UNRELATED, SCHOOL, texts.OBSERVATORY.upper(), UNRELATED[::-1], WHAT_COSTS)
RETOLD = prompt(BAKERY_RETOLD, MUSEUM_OTHER_WORDS, LIGHTHOUSE_OTHER_FACTS, WHO_KEEPS)

LEVELS = Scenario(
    "levels",
    "llama",
    fills=FILLS,
    asks=(
        Ask("nothing alike", "miss", UNRELATED),
        Ask("off", "bypass", MOVED, "off"),
        Ask("exact, prefix", "prefix", PREFIX, "exact", answer=8),
        Ask("exact, moved", "miss", MOVED, "exact"),
        Ask("balanced, prefix", "prefix", PREFIX),
        Ask("high, moved", "semantic", MOVED, "high"),
        Ask("balanced, moved", "semantic", MOVED, answer=8),
        Ask("fast, moved", "semantic", MOVED, "fast"),
        Ask("fast, edited", "semantic", EDITED, "fast"),
        Ask("fast, several references", "semantic", SEVERAL, "fast"),
        Ask("balanced, little in common", "bypass", LITTLE),
        Ask("token ids", "semantic", MOVED, "fast", as_ids=True),
    ),
)
METHODS = Scenario(
    "methods",
    "llama",
    fills=FILLS,
    asks=(
        Ask("combined", "semantic", EDITED, ratio(), answer=8),
        Ask("combined, decay", "semantic", EDITED, ratio(schedule="decay")),
        Ask("combined, much changed", "semantic", RETOLD, ratio(0.6)),
        Ask("combined, prefix and moved and fuzzy", "semantic", MIXED, ratio(0.4)),
        *(Ask(f"combined, {share} of moved", "semantic", MOVED, ratio(share)) for share in (0.06, 0.08, 0.1)),
        Ask("combined, little to spend", "semantic", EDITED, ratio(0.1)),
        Ask("deviation", "semantic", EDITED, ratio(0.5, selection="deviation")),
        Ask("deviation, decay", "semantic", EDITED, ratio(0.5, selection="deviation", schedule="decay", decay=0.7)),
        Ask("non-exact", "semantic", EDITED, ratio(selection="non_exact")),
        Ask("seams", "semantic", EDITED, ratio(selection="seams")),
        Ask("paper's selection", "semantic", EDITED, ratio(0.5, selection="paper")),
        Ask("random selection", "semantic", EDITED, ratio(selection="random", seed=3)),
        Ask("LSH matching", "semantic", EDITED, ratio(0.4, matching="lsh", selection="deviation")),
        Ask("runs alone", "semantic", MIXED, ratio(0.4, matching="runs")),
        Ask("random matching", "semantic", EDITED, ratio(0.4, matching="random", selection="seams", seed=5)),
        Ask("zeros for fuzzy rows", "semantic", MIXED, ratio(0.4), zeros=True),
        Ask("nothing but what must be", "semantic", EDITED, ratio(0.0)),
        Ask("everything", "semantic", EDITED, ratio(1.0)),
        Ask("one reference", "semantic", SEVERAL, ratio(0.5, max_references=1)),
        Ask("other halos, tail and runs", "semantic", EDITED, ratio(halo=0, seam_halo=9, fresh_tail=40, min_run=12)),
        Ask("no prompt is alike enough", "semantic", MIXED, ratio(0.4, min_similarity=1.0)),
        Ask("paper", "semantic", EDITED, ReusePolicy.paper(), answer=8),
        Ask("paper, half", "semantic", MIXED, ReusePolicy.paper(0.5)),
        Ask("CacheBlend", "semantic", EDITED, ReusePolicy.cacheblend(0.4), answer=8),
        Ask("retention", "semantic", MOVED, with_retention(ratio(), first=0.8, decay=0.8), answer=8),
    ),
)
CHUNKS = Scenario(
    "chunks",
    "llama",
    fills=[Fill(prompt(passage, WHEN_BUILT)) for passage in (HARBOUR, MUSEUM, BAKERY, LIGHTHOUSE, SCHOOL, GARDEN)],
    asks=(
        Ask("six references", "semantic", prompt(MUSEUM, BAKERY, LIGHTHOUSE, SCHOOL, GARDEN, WHO_KEEPS), ratio(0.4)),
        Ask(
            "two are allowed",
            "semantic",
            prompt(MUSEUM, SCHOOL, BAKERY_RETOLD, WHO_KEEPS),
            ratio(0.6, max_references=2),
        ),
        Ask(
            "a prefix costs a place",
            "semantic",
            f"The ferry Aurelia leaves {prompt(GARDEN, SCHOOL)}",
            ratio(max_references=2),
        ),
    ),
)
CHAIN = Scenario(
    "chain",
    "llama",
    fills=(Fill(ISLAND),),
    asks=(
        Ask("first", "semantic", MOVED, ratio(0.2), store=True, answer=8),
        Ask("approximate prefix", "semantic", prompt(MOVED, SCHOOL, MUSEUM, WHEN_BUILT), ratio(0.5), store=True),
        Ask("approximate rows", "semantic", prompt(SCHOOL, MOVED), ratio(0.3), store=True),
        Ask("more of them", "semantic", prompt(SCHOOL, MUSEUM, HARBOUR, WHEN_BUILT), ratio(0.4)),
        Ask("behind a prefix", "semantic", HARBOUR_FIRST, ratio(0.2), store=True, answer=8),
        Ask("exact behind approximate rows", "prefix", prompt(HARBOUR_FIRST, WHEN_BUILT), "exact"),
    ),
)
NAMESPACES = Scenario(
    "namespaces",
    "llama",
    pool=PoolConfig(public_namespace="everybody", heal=False),
    fills=(Fill(ISLAND, "alice"), Fill(TOWN, "everybody"), Fill(prompt(GARDEN, HARBOUR, WHO_KEEPS), "bob")),
    asks=(
        Ask("her own", "semantic", MOVED, "fast", namespace="alice"),
        Ask("another's", "semantic", EDITED, ratio(0.9), namespace="bob"),
        Ask("everybody's", "semantic", SEVERAL, ratio(0.5), namespace="alice"),
        Ask("nobody's", "bypass", MOVED, "fast"),
    ),
)
DISK = Scenario(
    "disk",
    "llama",
    fills=FILLS,
    reopened=True,
    asks=(
        Ask("moved", "semantic", MOVED, "fast"),
        Ask("several references", "semantic", SEVERAL, ratio(0.5)),
        Ask("prefix", "prefix", PREFIX, "exact"),
    ),
)
ARCHITECTURES = tuple(
    Scenario(
        name,
        name,
        fills=FILLS,
        asks=(
            Ask("exact, prefix", "prefix", PREFIX, "exact"),
            Ask("fast, moved", "semantic", MOVED, "fast", answer=8),
            Ask("several references", "semantic", SEVERAL, ratio(0.5)),
            Ask("prefix and moved and fuzzy", "semantic", MIXED, ratio(0.4, schedule="decay")),
            Ask("CacheBlend", "semantic", EDITED, ReusePolicy.cacheblend(0.4)),
        ),
    )
    for name in ("gemma3", "gpt_neox", "mpt")
)
PRECISION = Scenario(
    "bfloat16",
    "llama-bfloat16",
    fills=(Fill(prompt(ISLAND, TOWN)),),
    asks=(
        Ask("exact, whole blocks", "prefix", prompt(ISLAND, TOWN, WHAT_COSTS), "exact", answer=8),
        Ask("fast, moved", "semantic", MOVED, "fast"),
    ),
)
DYNAMIC = Scenario(
    "dynamic frequencies", "llama-dynamic", fills=(Fill(ISLAND),), asks=(Ask("too long", "bypass", MOVED, "fast"),)
)

_CHAT: Messages = [
    {"role": "system", "content": prompt("You answer from these texts.", HARBOUR, MUSEUM, LIGHTHOUSE)},
    {"role": "user", "content": "What does a ticket cost?"},
]
_CHAT_MOVED: Messages = [
    {"role": "system", "content": prompt("You answer from these texts.", LIGHTHOUSE, HARBOUR_OTHER_FACTS, MUSEUM)},
    {"role": "user", "content": "What does a ticket cost?"},
    {"role": "assistant", "content": "19 crowns."},
    {"role": "user", "content": "And who hangs the lantern?"},
]
DEMO = Scenario(
    "demo",
    "demo",
    calibrated=True,
    fills=(*FILLS, Fill(_CHAT, "chat")),
    asks=(
        Ask("balanced, prefix", "prefix", PREFIX),
        Ask("high, moved", "semantic", MOVED, "high"),
        Ask("balanced, moved", "semantic", MOVED, answer=8),
        Ask("fast, edited", "semantic", EDITED, "fast"),
        Ask("fast, several references", "semantic", SEVERAL, "fast"),
        Ask("high, retold", "semantic", RETOLD, "high"),
        Ask("high, little in common", "bypass", LITTLE, "high"),
        Ask("combined, prefix and moved and fuzzy", "semantic", MIXED, ratio()),
        Ask("combined, much changed", "semantic", RETOLD, ratio(0.5)),
        Ask("paper", "semantic", MIXED, ReusePolicy.paper()),
        Ask("CacheBlend", "semantic", MIXED, ReusePolicy.cacheblend()),
        Ask("chat", "semantic", _CHAT_MOVED, namespace="chat", answer=8, store=True),
        Ask("chat, the same system prompt", "prefix", [*_CHAT_MOVED[:1], *_CHAT_MOVED[-1:]], "fast", namespace="chat"),
    ),
)
DEMO_UNCALIBRATED = Scenario(
    "demo, uncalibrated", "demo", fills=FILLS[:1], asks=(Ask("balanced, edited", "semantic", EDITED, answer=8),)
)

SCENARIOS: tuple[Scenario, ...] = (
    LEVELS,
    METHODS,
    CHUNKS,
    CHAIN,
    NAMESPACES,
    DISK,
    *ARCHITECTURES,
    PRECISION,
    DYNAMIC,
    DEMO,
    DEMO_UNCALIBRATED,
)
