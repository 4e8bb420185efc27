"""The trunk can be read: its files are listed and there, and no function of it is longer than a screen or two."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType

import pytest

from benchmarks.lines import CORE, LONGEST_FUNCTION, code_lines, core_files, functions, main, trunk_files
from semshare_core import PoolConfig, ReusePolicy, SemShareEngine
from tiny_models import tiny_model, tiny_tokenizer

SOURCE = '''"""A module."""

import re  # a remark


# a comment
def name(text: str) -> str:
    """What is said of it.

    At length.
    """
    long = """a text

    # of three lines"""

    def inner() -> None:
        pass

    return (
        text
    )
'''


def test_every_file_of_the_trunk_is_there_and_listed_once() -> None:
    listed = trunk_files()
    assert CORE / "engine.py" in listed
    assert [path for path in listed if not path.is_file()] == []
    assert len(set(listed)) == len(listed)
    assert set(listed) < set(core_files())


def test_what_a_request_runs_through_is_listed_or_named_beside_the_list() -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), pool=PoolConfig(min_tokens=8))
    lamp, boat = "The keeper lit the lamp at dusk. " * 6, "A boat leaves the harbour at ten. " * 6
    engine.warm([f"{lamp}\n\n{boat}\n\nWhen?"])
    passed: set[Path] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        passed.add(Path(frame.f_code.co_filename))

    sys.setprofile(note)
    try:
        reused = engine.generate(f"{boat}\n\n{lamp}\n\nWho?", max_new_tokens=2, reuse=ReusePolicy(recompute_ratio=0.3))
    finally:
        sys.setprofile(None)
    assert reused.report.outcome == "semantic"
    page = (CORE.parent / "docs" / "structures.md").read_text()
    _, _, section = page.partition("## The trunk, in reading order")
    named = re.findall(r"`([\w/]+(?:/|\.py))`", section.partition("<!-- trunk -->")[0])
    listed = set(trunk_files())
    unnamed = [
        path.relative_to(CORE).as_posix()
        for path in sorted(passed - listed)
        if path.is_relative_to(CORE) and path.name != "__init__.py"
    ]
    assert [path for path in unnamed if not path.startswith(tuple(named))] == []
    assert {"prompt/encode.py", "decode/generate.py"} <= set(unnamed)  # the net is not empty


def test_no_function_of_the_trunk_is_too_long() -> None:
    assert [function for function in functions(trunk_files()) if function.lines > LONGEST_FUNCTION] == []


def test_code_lines_leave_out_blank_lines_comments_and_docstrings(tmp_path: Path) -> None:
    assert code_lines(SOURCE) == 10
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    assert {function.name: function.lines for function in functions([path])} == {"name": 15, "inner": 2}


def test_without_the_marks_nothing_is_listed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("- `engine.py`\n<!-- trunk -->\n- `request.py`: the stages\n1. `pool/pool.py`\nand `errors.py`\n")
    assert trunk_files(page) == []
    page.write_text(f"{page.read_text()}<!-- end of trunk -->\n- `config.py`\n")
    assert trunk_files(page) == [CORE / "request.py", CORE / "pool/pool.py"]


def test_the_command_prints_trunk_core_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    said = capsys.readouterr().out
    for row in ("trunk", "core without calibrate, cli, baselines", "core and integrations", "Longest function"):
        assert row in said
