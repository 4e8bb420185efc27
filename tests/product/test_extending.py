"""docs/extending.md: each method is one short file, and keeps what its family promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending.md"
FILES = {
    found[1]: found[0]
    for found in re.finditer(r"(?<=^```python\n)# (\w+)\.py\n.*?(?=^```$)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
}
MATRICES = {
    "same_token": ("tests/match/test_every_matcher.py", "same-token"),
    "most_read": ("tests/select/test_every_selection.py", "most-read"),
    "streaming": ("tests/compress/test_every_live_compressor.py", "streaming"),
    "byte_planes": ("tests/compress/test_every_codec.py", "byte-planes"),
    "int8": ("tests/compress/test_every_codec.py", "int8"),
}
MOST_LINES = 40


def test_there_is_one_file_for_each_family() -> None:
    assert FILES.keys() == MATRICES.keys()


@pytest.mark.parametrize("module", MATRICES)
def test_it_is_short_and_its_command_is_on_the_page(module: str) -> None:
    assert len(FILES[module].splitlines()) <= MOST_LINES
    assert f"python -m pytest {MATRICES[module][0]} -p {module}\n" in PAGE.read_text()


def test_each_keeps_what_its_family_promises(tmp_path: Path) -> None:
    for module, code in FILES.items():
        (tmp_path / f"{module}.py").write_text(code)
    plugins = [part for module in MATRICES for part in ("-p", module)]
    matrices, names = zip(*MATRICES.values(), strict=True)
    command = [sys.executable, "-m", "pytest", *plugins, *matrices, "-v", "-n", "0", "-p", "no:cacheprovider"]
    settings = {"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1", "COLUMNS": "250"}
    done = subprocess.run(
        [*command, "-k", " or ".join(names)], cwd=ROOT, env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    for name in names:
        passed = re.findall(rf"^\S+::test_\w+\[\S*\b{name}\b\S*\] PASSED", done.stdout, re.MULTILINE)
        assert len(passed) >= 5, f"{name} was run through its matrix: {done.stdout}"
