"""What the notebooks' stored outputs say is what their code set: they were executed after it was last changed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

_COOKBOOK = Path(__file__).parents[2] / "cookbook"
_LEVELS = {"off", "exact", "high", "balanced", "fast"}
_DEFAULT = "balanced"


def cells(notebook: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return found


def words(cell: dict[str, Any]) -> str:
    """All that a cell put out as text."""
    shown = [each.get("text") or each.get("data", {}).get("text/plain") or [] for each in cell.get("outputs", [])]
    return "\n".join("".join(part) for part in shown)


def levels_set(source: str) -> set[str]:
    """The levels that code sets; the default where it sets none."""
    return {level for level in re.findall(r"[\"'](\w+)[\"']", source) if level in _LEVELS} or {_DEFAULT}


@pytest.mark.parametrize("notebook", sorted(_COOKBOOK.glob("*.ipynb")), ids=lambda path: path.stem)
def test_stored_outputs_have_the_levels_that_the_code_sets(notebook: Path) -> None:
    code = [cell for cell in cells(notebook) if cell["cell_type"] == "code"]
    wanted = levels_set("\n".join("".join(cell["source"]) for cell in code))
    for cell in code:
        said = set(re.findall(r"\blevel='(\w+)'", words(cell)))
        assert said <= wanted, f"run {notebook.name} again: its outputs have {said}, and its code sets {wanted}"


@pytest.mark.parametrize("notebook", sorted(_COOKBOOK.glob("*.ipynb")), ids=lambda path: path.stem)
def test_words_speak_of_the_levels_that_the_code_sets(notebook: Path) -> None:
    code = "\n".join("".join(cell["source"]) for cell in cells(notebook) if cell["cell_type"] == "code")
    for cell in cells(notebook):
        if cell["cell_type"] == "markdown":
            for level in re.findall(r"(?<!\w)[Ll]evel `(\w+)`", "".join(cell["source"])):
                assert level in levels_set(code), f"{notebook.name} speaks of {level!r}, its code sets another"


@pytest.mark.parametrize("notebook", sorted(_COOKBOOK.glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_output_names_a_folder_of_the_machine_it_ran_on(notebook: Path) -> None:
    for cell in cells(notebook):
        assert not re.search(r"(?<![\w.])/(?:home|root|Users|tmp|work)/", words(cell))
