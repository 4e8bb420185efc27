"""README and docs: every Python block runs and prints what is shown, commands exist, links lead somewhere."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest

from semshare_core import SemShareEngine
from served import serving

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
ADDRESS = "127.0.0.1:8000"  # in the pages
_FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
_NOT_CODE = ("mermaid", "toml", "{include}", "{toctree}", "{eval-rst}", "{glossary}")


def blocks(page: Path) -> Iterator[tuple[str, str, int]]:
    """Language, content and line of each fenced block."""
    text = page.read_text()
    for found in _FENCE.finditer(text):
        yield found[1], found[2], text.count("\n", 0, found.start()) + 2


def repeatable(printed: str) -> str:
    """Less what the clock says, which no two runs share, and the digits of a KL, which no two kinds of CPU do."""
    return re.sub(r"\bKL \d+\.\d+", "KL …", re.sub(r"\d+(\.\d+)? (ms|s)\b", r"… \2", printed))


def names(pages: list[Path]) -> list[str]:
    return [page.name for page in pages]


@contextmanager
def started(page: Path) -> Iterator[str]:
    """What the page's reader has started: the server that its clients ask. Gives its address."""
    if page.name != "serving.md":
        yield ADDRESS
        return
    with serving(SemShareEngine.from_pretrained("demo"), model="demo") as served:
        yield served.url.removeprefix("http://")


RUNNABLE = [page for page in PAGES if any(language == "python" for language, _, _ in blocks(page))]


@pytest.mark.real
@pytest.mark.parametrize("page", RUNNABLE, ids=names(RUNNABLE))
def test_python_blocks_run_as_pasted(page: Path) -> None:
    """In the order of the page and in one namespace, as a reader would paste them; they print what the page shows."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed = io.StringIO()
    with started(page) as address:
        for language, code, line in blocks(page):
            if language == "python":
                code = code.replace(ADDRESS, address)  # a fixed port may be somebody else's
                with redirect_stdout(io.StringIO()) as printed:
                    exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)
            if language == "text":
                said = repeatable(printed.getvalue())
                assert said == repeatable(code), f"{page.name}:{line} is not what the code prints"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_blocks_say_what_they_are(page: Path) -> None:
    for language, code, line in blocks(page):
        assert language in ("python", "bash", "text", *_NOT_CODE), f"{page.name}:{line} is {language!r}"
        if language == "bash":
            for command in filter(None, (each.partition("#")[0].split() for each in code.splitlines())):
                assert shutil.which(command[0]) or (Path(sys.executable).parent / command[0]).exists(), command
                if command[0] == "make":
                    subprocess.run(["make", "-n", *command[1:]], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_pages_are_found() -> None:
    guides = (
        "langchain.md",
        "llamaindex.md",
        "weights.md",
        "generation.md",
        "extending.md",
        "structures.md",
        "canary.md",
        "pool.md",
        "security.md",
        "why.md",
        "agents.md",
        "engine.md",
        "serving.md",
    )
    runnable = {"README.md", *guides}
    assert runnable | {"paper.md"} <= set(names(PAGES))
    assert runnable == set(names(RUNNABLE))
