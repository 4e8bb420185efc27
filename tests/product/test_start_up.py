"""What starts fast: importing the package, and the command where it needs no model."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import semshare_core
from semshare_core import errors
from semshare_core.pool.disk import PoolFolder
from stored_entries import MODEL, keep

HEAVY = ("torch", "transformers", "faiss", "scipy", "numpy")


def loaded_by(code: str, *arguments: str) -> tuple[list[str], str]:
    """The heavy modules that are loaded after ``code`` has run in a fresh process, and what it printed before."""
    script = (
        f"import json, sys\ntry:\n    exec({code!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    printed, _, loaded = done.stdout.rstrip("\n").rpartition("\n")
    return json.loads(loaded), printed


def command(*arguments: str) -> tuple[list[str], str]:
    """As :func:`loaded_by`, of ``semshare`` with ``arguments``."""
    return loaded_by(f"from semshare_core.cli.main import main; main({list(arguments)!r})")


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert loaded_by("import semshare_core; dir(semshare_core)") == ([], "")


def test_settings_reports_and_errors_come_without_torch() -> None:
    names = "PoolConfig, ReusePolicy, ReuseReport, Canary, SemShareError"
    assert loaded_by(f"from semshare_core import {names}; PoolConfig(path='~/pool')") == ([], "")


def test_every_public_name_is_there_and_listed() -> None:
    for name in semshare_core.__all__:
        assert getattr(semshare_core, name).__name__ == name
        assert name in dir(semshare_core)
    namespace: dict[str, object] = {}
    exec("from semshare_core import *", namespace)
    assert set(semshare_core.__all__) <= set(namespace)


def test_threads_that_use_their_first_names_at_once() -> None:
    """As the threads of a web server do at its first requests."""
    code = """
import threading
import semshare_core
names = [name for name in semshare_core.__all__ for _ in range(2)]
together, failed = threading.Barrier(len(names)), []
def use(name):
    together.wait()
    try:
        if name == "ReusePolicy":
            semshare_core.ReusePolicy(selection="paper", matching="lsh", compress="retention")
        getattr(semshare_core, name)
    except BaseException as error:
        failed.append(f"{name}: {error}")
threads = [threading.Thread(target=use, args=(name,)) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(failed)
"""
    assert loaded_by(code)[1].splitlines()[-1] == "[]"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'semshare_core' has no attribute 'SemShareEngin'"):
        semshare_core.SemShareEngin  # noqa: B018
    assert semshare_core.errors is errors  # modules stay what they are


@pytest.mark.parametrize("name", ["SemShareEngine", "Prefill"])
def test_without_faiss_the_first_name_that_needs_it_says_which_extra_to_install(name: str) -> None:
    code = (
        "sys.modules['faiss'] = None\n"
        "import semshare_core\n"
        f"try:\n    semshare_core.{name}\n"
        "except semshare_core.SemShareError as error:\n    print(type(error).__name__, error)\n"
    )
    _, printed = loaded_by(code)
    assert printed.startswith("MissingDependencyError FAISS is not installed.")
    assert "pip install '.[cpu]'" in printed


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option: str) -> None:
    loaded, printed = command(option)
    assert loaded == []
    assert "semshare" in printed.lower()


def test_pool_ls_needs_no_torch(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),), "alice")
    loaded, printed = command("pool", "ls", str(tmp_path))
    assert not {"torch", "transformers", "faiss", "scipy"} & set(loaded)
    assert "alice" in printed


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["pool", "--help"]])
def test_they_take_little_processor_time(arguments: list[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1  # 0.2 to 0.4 s; torch alone takes 4
