"""What `make bench` found, as a part of docs/benchmarks.md: what was measured, how, and what came out."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.bench.figures import is_peer, must_hold
from benchmarks.bench.item import Item
from benchmarks.bench.metrics import CLEAR_LEAD, RESAMPLES, by_system, common_cases, grouped, same_cases
from benchmarks.bench.plan import PEERS_PART
from benchmarks.bench.record import Record
from benchmarks.bench.workloads import ABOUT
from benchmarks.report.tables import figures_table, levels_table, peers_table, sweep_table, systems_table
from semshare_core.budget.levels import MEASURED_TOKENS

Plots = Mapping[str, str]
"""Name of a plot → its title for those who cannot see it."""

SWEEPS = {
    "length sweep": "tokens",
    "similarity sweep": "share of the sentences",
    "drift": "turn",
    "retention sweep": "",
    "misses": "",
}
"""Workloads whose settings are told apart, by what the settings are; empty: the systems are what is swept."""
OURS_BESIDE_PEERS = ("ours high", "ours balanced", "ours fast", "full prefill", "prefix cache")

BEGIN = "<!-- From here to the end mark python -m benchmarks.report writes. Edits in between are lost. -->"
END = "<!-- End of what python -m benchmarks.report writes. -->"

HEAD = """## One run of `make bench`

This part of the page is written by `python -m benchmarks.report`; `make bench` measures (at most 75 minutes on two
threads), `make bench-quick` shows in ten minutes that all of it runs. `python -m benchmarks.bench --rows FILE.jsonl`
measures prompts of your own: one JSON object a line with `id`, `reference`, `target` and, where something is looked up,
`question`, `gold` (the answer) and `old` (the answer that only the reference gives).

Every number comes from the same run on the same prompts: the full prefill is timed beside each system, again and
again, and everything that a system does between the prompt and the first token counts, lookup and matching
included. Speeds are ratios of times to first token (TTFT), as geometric means over prompts; they hold for this
machine and model. KL (nats) and agreement (do both choose the same token?) are those of the next-token
distributions along the full prefill's greedy continuation. ROUGE-L compares a system's own greedy answer with the
full prefill's. An answer counts as *kept* where the full prefill gives the right one and the system does, too; as
*stale* where the system gives the reference's answer, which the target does not hold. Some answers hang by a hair:
*lead ≥ {lead}* counts only those on the way to whose end each token leads the next best one by so many nats in the full
prefill (alternatives at even odds that move apart by as much are a KL of 0.02 away, which even `high` allows). The
intervals in brackets are 95 % intervals over prompts, by the bootstrap ({resamples} resamples) and, for shares of yes
and no (kept, stale, answered, above a bound), Wilson's: a number without one is that of a single prompt, which says
nothing of others, or is as uncertain as its neighbours. KV bytes are those of the prompt while decoding, as a share of
the full cache; peak memory is the process's, with the model and, for ours, the pool of references.

Systems: *full prefill* and *prefix cache* are plain transformers. *ours high / balanced / fast* are the levels,
where the governor chooses; *ours 0.1* and its like fix the recompute ratio. *paper* is SemShareKV as published,
*cacheblend* is CacheBlend, both in our engine ([what that means](paper.md)); at fixed ratios the paper's method
keeps all rows for decoding, because to drop rows moves the answer by itself. *served as* is what a call came to:
`semantic` is reuse, `bypass` and `miss` are full prefills. The rows of a table stand on the same prompts: where some
systems were measured on fewer than others, there is a table of these and one of those.
"""

PEERS_HEAD = """The peers run in environments of their own, with the same number of threads, on the first prompt of
each workload: each peer's full prefill and its reusing call are timed three times in turn, its cache emptied and the
references read again before each, and the medians count (fewer where its time was up). Their speed is against the full
prefill of their own library, their KL and agreement against its distributions, their KV bytes against its full cache
(llama.cpp keeps 16 bits a number, the others 32); their text is compared with that of transformers. vLLM reserves the
room for its cache beforehand: its peak memory is what it was given, 4 GiB, and not what it needs. **Bold**: a peer is
best in that column. Libraries that only ever reuse what is identical compute the rest in full: their KL is 0 and their
speed near 1 wherever there is no common prefix."""

OPEN = "*Open*: too little was measured to say so, or nothing that the target is about.\n"
QUICK = "> Made by a `--quick` run of a case or two: it shows the form of this page, and not what holds.\n"
EMPTY = "> Nothing has been measured yet: run `make bench`, then `python -m benchmarks.report out/bench.json`.\n"


def with_new_part(whole: str, part: str) -> str:
    """The page with ``part`` between its marks, and all around them as it was; raises `ValueError` without marks."""
    marked = f"{BEGIN}\n\n{part.strip()}\n\n{END}"
    if not whole:
        return f"# Benchmarks\n\n{marked}\n"
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"it has no marks to write between: put {BEGIN!r} and {END!r} where the run's part belongs")
    return f"{before}{marked}{after}"


def page(record: Record[Item], plots: Plots) -> str:
    """The part's Markdown; ``plots`` are those that exist in ``plots/``."""
    parts = [HEAD.format(resamples=f"{RESAMPLES:,}", lead=CLEAR_LEAD)]
    if not record.items:
        return "\n".join([*parts, EMPTY])
    if record.about.get("settings", {}).get("quick"):
        parts.append(QUICK)
    parts += [_measured_on(record), "## What must hold\n", OPEN, figures_table(must_hold(record.items)), ""]
    parts += [f"![{title}](plots/{name}.svg)\n" for name, title in plots.items()]
    parts += _levels(record) + _peers(record)
    for workload in dict.fromkeys(item.workload for item in record.items):
        parts += _workload(record, workload)
    if record.notes:
        parts += ["## What could not be measured\n", *(f"- {note}" for note in record.notes), ""]
    return "\n".join(parts)


def _measured_on(record: Record[Item]) -> str:
    machine, versions, settings = (record.about.get(key, {}) for key in ("machine", "versions", "settings"))
    told = {
        "command": f"`{record.about.get('command', '')}`".replace("``", ""),
        "machine": f"{machine.get('platform')}, {machine.get('cores')} cores, Python {machine.get('python')}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "settings": ", ".join(f"{name} {value}" for name, value in settings.items()),
    }
    return "\n".join(f"- {name}: {value}" for name, value in told.items() if value) + "\n"


def _levels(record: Record[Item]) -> list[str]:
    found = [item for item in record.items if item.system in OURS_BESIDE_PEERS[:3] and item.kl]
    if not found:
        return []
    about = (
        f"Share of prompts whose KL, the mean over the first {MEASURED_TOKENS} tokens, exceeds the level's bound. "
        "*Of those reused* counts only prompts served as `semantic`: the others cannot break a promise.\n"
    )
    return ["## The levels' promises\n", about, levels_table(found), ""]


def _peers(record: Record[Item]) -> list[str]:
    told: list[str] = []
    for workload in PEERS_PART.workloads:
        groups = by_system(record.items, workload)
        asked = {name: group for name, group in groups.items() if is_peer(name)}
        if asked:
            ours = {name: groups[name] for name in OURS_BESIDE_PEERS if name in groups}
            told += [f"### Peers: {workload}\n", peers_table(common_cases({**ours, **asked})), ""]
    return ["## Peers\n", PEERS_HEAD, "", *told] if told else []


def _workload(record: Record[Item], workload: str) -> list[str]:
    items = [item for item in record.items if item.workload == workload and not is_peer(item.system)]
    if not items:
        return []
    head = [f"## {workload[:1].upper()}{workload[1:]}\n", f"{_sentence(ABOUT.get(workload, 'your own prompts'))}\n"]
    if SWEEPS.get(workload):
        return [*head, sweep_table(items, SWEEPS[workload]), ""]
    by_setting = grouped(items, lambda item: item.setting)
    for setting, several in by_setting.items():
        for groups in same_cases(by_system(several, workload)):
            count = len(next(iter(groups.values())))
            on = f"the same {count} prompts" if count > 1 else "one prompt"
            head += [f"On {on}{f', {setting}' * (len(by_setting) > 1)}:\n", systems_table(groups), ""]
    return head


def _sentence(told: str) -> str:
    return f"{told[:1].upper()}{told[1:]}."
