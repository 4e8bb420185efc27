"""What runs on a GPU, on the CPU: kernels by Triton's interpreter, graphs as the passes that they would be.

Triton reads TRITON_INTERPRET when it is imported, so a test of kernels runs in a process of its own:
:func:`in_interpreter` says how. There is no Triton for some systems; then these tests are left out, and say so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="there is no Triton for this system")


def in_interpreter(test_file: str) -> None:
    """Run ``test_file`` (beside this folder) with the kernels interpreted; fail as it fails."""
    settings = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
    for name in [name for name in settings if name.startswith("PYTEST_XDIST")]:
        del settings[name]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", test_file]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let engines made from now on compute as they do on a GPU."""
    from semshare_core.model import spec
    from semshare_core.model.attention import by_rows
    from semshare_core.prefill import captured, rearrange
    from semshare_core.prefill.captured import CapturedPasses

    # the interpreter is slow: what the engine tries out is tried in kernels.py, and rows that nobody reads are few
    monkeypatch.setattr(spec, "try_kernel", lambda *shape: None)
    monkeypatch.setattr(captured, "_HOME_STEP", 32)
    for module in (by_rows, rearrange):
        monkeypatch.setattr(module, "kernels_run", lambda device: True)
    monkeypatch.setattr(CapturedPasses, "_capture", lambda self, taken, compute: None)
