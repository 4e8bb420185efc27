"""A process forks, as gunicorn --preload and multiprocessing do: the child answers, whatever its parent was doing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fork_situations import SITUATIONS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")

_SCRIPT = Path(__file__).parents[1] / "support" / "fork_situations.py"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the situations print. They share a process, for it takes seconds to import what they need."""
    paths = os.pathsep.join([str(_SCRIPT.parents[2]), str(_SCRIPT.parent)])
    # two threads of OpenMP, whatever the tests run with: with one nothing would hang
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": paths}
    environment.pop("TOKENIZERS_PARALLELISM", None)
    command = [sys.executable, "-W", "ignore", str(_SCRIPT), str(tmp_path_factory.mktemp("fork"))]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False
    )
    return done.stdout


@pytest.mark.parametrize("situation", [each.__name__ for each in SITUATIONS])
def test_a_forked_child_answers(situation: str, told: str) -> None:
    _, _, after = told.partition(f"=== {situation}\n")
    said = after.partition("=== ")[0]
    assert said == "answered\n", said
