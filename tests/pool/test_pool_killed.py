"""A whole pool killed -9 while it works: the next one holds entries that are whole, and nothing else.

The folder alone is killed 200 times by ``python -m benchmarks.pool kill``.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pool_writer import pool_at
from pooled import books_balance, rows_of

TESTS = Path(__file__).parents[1]
KILLS = 12


@pytest.mark.filterwarnings("error")
def test_every_entry_is_whole(tmp_path: Path) -> None:
    foreign = tmp_path / "notes.txt"
    foreign.write_text("not ours")
    survivors = 0
    command = [sys.executable, str(TESTS / "support" / "pool_writer.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **piped) as writers:
        assert writers.stdin is not None
        assert writers.stdout is not None
        for seed in range(KILLS):
            print(seed, file=writers.stdin, flush=True)
            writer = int(writers.stdout.readline())
            time.sleep(random.Random(seed).uniform(0, 0.2))
            os.kill(writer, signal.SIGKILL)
            assert writers.stdout.readline() == "-9\n", "it was at work to the end"
            pool = pool_at(tmp_path)
            assert books_balance(pool)
            for each in pool._entries.chosen(None):
                ((keys, values),) = rows_of(each)
                assert keys.flatten().tolist() == each.tokens.tolist()
                assert values.flatten().tolist() == list(range(len(each)))
                survivors += 1
            pool.close()
    assert survivors > KILLS
    assert foreign.read_text() == "not ours"
