"""What runs on a GPU, tried without one: see ``pretended_gpu``. ``benchmarks/gpu/matrix.py`` tries it on one."""

from __future__ import annotations

import pytest

from pretended_gpu import in_interpreter, needs_triton

pytestmark = needs_triton


@pytest.mark.parametrize("what", ["kernels", "engine"])
def test_as_without_a_gpu(what: str) -> None:
    in_interpreter(f"tests/interpreted/{what}.py")
