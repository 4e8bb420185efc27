"""Does the pool's folder survive kill -9? A process writes to it and is killed at random moments, 200 times.

After each kill another process opens the folder: what was acknowledged before is there, every row and record is bit for
bit what its name says, leftovers are gone, other files are untouched, and it takes no longer than it may.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.sections.figure import Figure, Run
from semshare_core.errors import PoolFileError, PoolWarning
from semshare_core.pool.disk import Fingerprint, PoolFolder, Record, SegmentRef

KILLS, ENTRIES, SEED = 200, 8, 0
MODEL = Fingerprint({"benchmark": "kill"})
NAMESPACES = ("alice", "bob")
FOREIGN = ("notes.txt", "ours.safetensors", "0123456789abcdef0123456789abcdef.txt")
BYTES_PER_TOKEN = 2 * 2 * (4 + 2) * 8 * 64  # of four layers in two dtypes
LONGEST_WAIT = 0.06  # seconds from the first write to the kill
PATIENCE = 60.0  # seconds until something counts as hanging

Segments = tuple[SegmentRef, ...]
Key = tuple[str, int]  # namespace, number of the entry
State = dict[Key, int]  # which version of each entry is there


def kill(run: Run) -> Iterator[Figure]:
    """Targets: every time, with writes really cut short among them."""
    context = get_context("forkserver")  # a fresh process every time, without importing all that every time
    context.set_forkserver_preload([__name__, "benchmarks.pool"])
    kills = run.count(KILLS)
    outcomes: list[_Outcome] = []
    with tempfile.TemporaryDirectory() as place:
        state: State = {}
        foreign: set[Path] = set()
        started = time.perf_counter()
        for number in range(kills):
            history = _write_until_killed(context, place, number)
            leftovers = sum(path.suffix == ".part" or path.name == "pool.db-wal" for path in Path(place).rglob("*"))
            foreign.update(path for path in Path(place).rglob("*") if path.name in FOREIGN)
            outcome = _in_process(context, _look, place, _expected(state, history), history.pending, foreign)
            outcome.leftovers = leftovers
            outcomes.append(outcome)
            state = outcome.state
            for problem in outcome.problems:
                run.say(f"kill {number}: {problem}")
        seconds = time.perf_counter() - started
    sound = sum(not outcome.problems for outcome in outcomes)
    run.say(
        f"{seconds:.0f} s; {sum(len(outcome.state) for outcome in outcomes) / kills:.1f} entries verified each time"
    )
    yield Figure(
        "killed -9 while writing: all that was acknowledged is there and verifies, no other file touched, no hang",
        f"{sound} of {kills}",
        f"{kills} of {kills}",
        sound == kills,
        [vars(outcome) | {"state": len(outcome.state)} for outcome in outcomes],
    )
    cut = sum(outcome.leftovers > 0 for outcome in outcomes)
    yield Figure("of these, kills that cut a file short", f"{cut}", "> 0", cut > 0)


@dataclass
class _History:
    """What a writer said: changes that were done (version None: removed), and the one it was at."""

    done: list[tuple[Key, int | None]]
    pending: tuple[Key, int | None] | None


@dataclass
class _Outcome:
    state: State = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    leftovers: int = 0


def _write_until_killed(context: Any, place: str, number: int) -> _History:
    """Let a process write for a random while, kill it with SIGKILL, and read what it had said until then."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_write, args=(place, number, theirs))
    process.start()
    theirs.close()
    if not ours.poll(PATIENCE):
        process.kill()
        raise TimeoutError(f"The writer did not start within {PATIENCE:.0f} s.")
    ours.recv()
    time.sleep(random.Random(f"{SEED} {number}").uniform(0, LONGEST_WAIT))
    process.kill()
    process.join(PATIENCE)
    if process.exitcode != -9:
        raise RuntimeError(f"The writer ended by itself, with exit code {process.exitcode}.")
    history = _History([], None)
    with suppress(EOFError):
        while True:
            word, change = ours.recv()
            history.pending = change if word == "begin" else None
            if word == "done":
                history.done.append(change)
    return history


def _in_process(context: Any, check: Any, *arguments: Any) -> _Outcome:
    """Run ``check`` in a process of its own, which may hang or crash."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=check, args=(*arguments, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(PATIENCE) else _Outcome(problems=[f"opening hangs for {PATIENCE:.0f} s"])
    except EOFError:
        process.join(PATIENCE)
        return _Outcome(problems=[f"opening crashed with exit code {process.exitcode}"])
    finally:
        process.kill()
        process.join()


def _expected(state: State, history: _History) -> State:
    """``state`` after what was done."""
    after: dict[Key, int | None] = {**state, **dict(history.done)}
    return {key: version for key, version in after.items() if version is not None}


def _write(place: str, number: int, pipe: Connection) -> None:
    """Write, replace and remove entries for ever.

    Every other writer does not flush to the disk. What is killed loses nothing that the system has taken over already,
    and flushing takes nearly all the time: without it the kills fall between the other steps.
    """
    dice = random.Random(number)
    if number % 2:
        os.fsync = lambda fd: None
    with PoolFolder(place, MODEL) as folder:
        live = {_key(record): record.uses for record in folder.records()}
        _place_foreign(Path(place))
        pipe.send("open")
        for version in range(10_000 * number, 10_000 * (number + 1)):
            key = (dice.choice(NAMESPACES), dice.randrange(ENTRIES))
            if key in live and dice.random() < 0.4:
                pipe.send(("begin", (key, None)))
                del live[key]
                _remove(folder, key, live)
                pipe.send(("done", (key, None)))
            else:
                pipe.send(("begin", (key, version)))
                for segment in _segments(key):
                    if key not in live or dice.random() < 0.5:
                        folder.write_rows(segment.id, _rows(segment.id, segment.tokens))
                folder.write_record(_record(key, version))
                live[key] = version
                pipe.send(("done", (key, version)))


def _remove(folder: PoolFolder, key: Key, live: State) -> None:
    """The record first, then the rows that no other record of the namespace names."""
    named = {segment for other in live for segment in _segments(other)}
    folder.remove([(key[0], str(key[1]))], [segment.id for segment in _segments(key) if segment not in named])


def _look(
    place: str, expected: State, pending: tuple[Key, int | None] | None, foreign: set[Path], pipe: Connection
) -> None:
    """Open the folder as the next process does and send what is there, and everything that is wrong with it."""
    outcome = _Outcome()
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PoolWarning)
            with PoolFolder(place, MODEL) as folder:
                for record in folder.records():
                    outcome.state[_key(record)] = record.uses
                    outcome.problems += _faults(folder, record)
    except (PoolFileError, PoolWarning) as error:
        outcome.problems.append(f"{type(error).__name__}: {error}")
    else:
        outcome.problems += _differences(outcome.state, expected, pending)
        outcome.problems += _strays(Path(place), outcome.state, foreign)
    outcome.seconds = time.perf_counter() - started
    pipe.send(outcome)


def _faults(folder: PoolFolder, record: Record) -> Iterator[str]:
    key = _key(record)
    wanted = _record(key, record.uses)
    arrays = ("tokens", "depth", "embedding")
    if any(not np.array_equal(getattr(record, name), getattr(wanted, name)) for name in arrays):
        yield f"record {key} has other arrays"
    if (record.segments, record.created) != (wanted.segments, wanted.created):
        yield f"record {key} has other fields"
    for segment in record.segments:
        stored = folder.rows(segment.id)
        for layer, pair in enumerate(_rows(segment.id, segment.tokens)):
            for found, made in zip(stored.layer(layer), pair, strict=True):
                if found.dtype != made.dtype or not torch.equal(found.view(torch.uint8), made.view(torch.uint8)):
                    yield f"rows {segment.id} of {key} differ in layer {layer}"


def _differences(state: State, expected: State, pending: tuple[Key, int | None] | None) -> Iterator[str]:
    """Entries that are not as acknowledged; the one being changed may be as before or as after."""
    for key in state.keys() | expected.keys():
        allowed = {expected.get(key)}
        if pending is not None and pending[0] == key:
            allowed.add(pending[1])
        if state.get(key) not in allowed:
            yield f"entry {key} is {state.get(key)}, not one of {allowed}"


def _strays(place: Path, state: State, foreign: set[Path]) -> Iterator[str]:
    """Files that should be gone, and foreign ones that were touched."""
    if left := [path for path in place.rglob("*") if path.suffix == ".part" or path.name.startswith("pool.db-")]:
        yield f"left: {left}"
    rows = {path.stem for path in place.rglob("*.safetensors") if path.name not in FOREIGN}
    named = {segment.id for key in state for segment in _segments(key)}
    if rows != named:
        yield f"rows of {len(rows - named)} segments are left, and of {len(named - rows)} are missing"
    for path in foreign:
        if not path.is_file() or path.read_text() != path.name:
            yield f"{path} was touched"


def _place_foreign(place: Path) -> None:
    """Files of others in the folder, and in the one for rows."""
    for folder in [place, *(path for path in place.rglob("*") if path.is_dir())]:
        for name in FOREIGN:
            (folder / name).write_text(name)


def _key(record: Record) -> Key:
    return record.namespace, int(record.id)


def _segments(key: Key) -> Segments:
    """Each shares its beginning with every other entry of its namespace."""
    lengths = {f"{key[0]} {key[1] % 2}": 48, f"{key[0]} own {key[1]}": 32 + key[1]}
    return tuple(
        SegmentRef(blake2b(name.encode(), digest_size=16).hexdigest(), tokens, tokens * BYTES_PER_TOKEN)
        for name, tokens in lengths.items()
    )


def _record(key: Key, version: int) -> Record:
    segments = _segments(key)
    dice = _dice(f"{key} {version}")
    n = sum(segment.tokens for segment in segments)
    return Record(
        model=MODEL.digest,
        namespace=key[0],
        id=str(key[1]),
        tokens=dice.integers(0, 50_000, n),
        approximate=(approximate := dice.integers(0, 2, n).astype(bool)),
        embedding=dice.standard_normal((1, 64), np.float32),
        segments=segments,
        created=float(version),
        uses=version,
        account=0.01 * bool(approximate.any()),
    )


@cache
def _rows(segment: str, tokens: int) -> list[tuple[Tensor, Tensor]]:
    """Four layers of half a megabyte together, in two dtypes."""
    dice = _dice(segment)
    made = []
    for dtype in (torch.float32, torch.bfloat16) * 2:
        shape = (1, 8, tokens, 64)
        key, value = (
            torch.from_numpy(dice.integers(0, 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)).view(dtype)
            for _ in range(2)
        )
        made.append((key.reshape(shape), value.reshape(shape)))
    return made


def _dice(text: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big"))
