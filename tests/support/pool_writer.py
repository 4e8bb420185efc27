"""For ``test_pool_killed.py``: a process that forks others, each of which works on a pool until it is killed."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from pooled import BYTES_PER_TOKEN, MODEL, entry, text
from semshare_core import PoolConfig
from semshare_core.pool import ReferencePool
from semshare_core.pool.disk import PoolFolder


def pool_at(path: Path) -> ReferencePool:
    """Room for a few entries in memory and for twice as many on disk, so that everything happens at once."""
    room = 150 * BYTES_PER_TOKEN
    config = PoolConfig(max_bytes=room, disk_bytes=2 * room, path=path, min_tokens=1, block_tokens=4)
    return ReferencePool(config, folder=PoolFolder(path, MODEL))


def work(path: Path, seed: int) -> None:
    """Add families of prompts, use, divide and drop them."""
    rng = random.Random(seed)
    pool = pool_at(path)
    pool.add(entry(text(seed), seed=seed))
    pool.flush()
    print(os.getpid(), flush=True)  # something is there by now, however slow the machine is
    while True:
        tokens = text(rng.randrange(3), 40)[: rng.randrange(5, 40)] + text(rng.randrange(50), rng.randrange(1, 40))
        pool.add(entry(tokens, str(rng.randrange(2)), seed=rng.randrange(9)))
        living = list(pool._entries.chosen(None))
        pool.touch(rng.sample(living, min(2, len(living))))
        if living and rng.random() < 0.2:
            pool.discard(rng.sample(living, 1))


if __name__ == "__main__":  # forking is safe here: nothing has started a thread yet
    for line in sys.stdin:
        child = os.fork()
        if not child:
            work(Path(sys.argv[1]), int(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
