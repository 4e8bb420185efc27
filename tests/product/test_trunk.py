"""The trunk can be read: its files are listed and there, and no function of it is longer than a screen or two."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.lines import CORE, LONGEST_FUNCTION, code_lines, core_files, functions, main, trunk_files

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
