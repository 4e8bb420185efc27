"""What contributors and citers read: it parses, it agrees with the project, and it names commands that there are."""

from __future__ import annotations

import re
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_the_citation_is_of_this_version_and_names_the_paper() -> None:
    told = _yaml(ROOT / "CITATION.cff")
    assert told["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(told)
    assert told["authors"] == [{"name": "The SemShare contributors"}]
    assert told["version"] == PROJECT["version"]
    assert told["license"] == PROJECT["license"]
    date.fromisoformat(told["date-released"])
    [paper] = told["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert [each["value"] for each in paper["identifiers"]] == ["arXiv:2509.24832"]


def test_the_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[([^]]+)\](?: - (\S+))?$", text, re.M)
    assert versions[0] == ("Unreleased", "")
    assert versions[1][0] == PROJECT["version"]
    dates = [date.fromisoformat(day) for _, day in versions[1:]]
    assert dates == sorted(dates, reverse=True)
    kinds = set(re.findall(r"^### (.+)$", text, re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_hooks_run_the_tools_of_the_environment() -> None:
    [repository] = _yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["id"]: hook["entry"].split() for hook in repository["hooks"]}
    assert {"ruff", "ruff-format", "mypy"} == set(hooks)
    makefile = (ROOT / "Makefile").read_text()
    for entry in hooks.values():
        assert entry[0].startswith(".venv/bin/")
        assert f"$(BIN)/{Path(entry[0]).name}" in makefile


@pytest.mark.parametrize("path", FORMS, ids=[path.name for path in FORMS])
def test_issue_forms_are_what_github_reads(path: Path) -> None:
    told = _yaml(path)
    if path.name == "config.yml":
        assert set(told) <= {"blank_issues_enabled", "contact_links"}
        return
    assert {"name", "description", "body"} <= set(told)
    ids = [field["id"] for field in told["body"]]
    assert len(ids) == len(set(ids))
    for field in told["body"]:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"]["label"]


def test_every_command_that_contributors_are_told_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for command in re.findall(r"`make ([a-z -]+)`", text):
        assert set(command.split()) <= targets, command
    for module in re.findall(r"python -m (benchmarks[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for path in re.findall(r"`((?:tests|semshare_core|docs)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
