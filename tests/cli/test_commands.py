"""Commands of installed packages: listed without being imported, imported when called, and explained when they fail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from semshare_core.cli.commands import Commands, LazyCommand
from semshare_core.cli.main import main

MODULE = '''
import typer

print("imported")
app = typer.Typer()


@app.command()
def start(port: int = 80) -> None:
    """Start it."""
    print("started at", port)


@app.command()
def stop() -> None:
    """Stop it."""


def shine(times: int) -> None:
    """Shine so many times."""
    print("shone", times)


number = 7
'''


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, for packages that add commands."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("lighthouse")]:
        del sys.modules[name]


def install(site: Path, name: str, commands: dict[str, str], code: str = MODULE) -> None:
    """A package ``name`` as pip leaves it, with entry points for ``commands``."""
    (site / f"{name}.py").write_text(code)
    info = site / f"{name}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\nSummary: A lamp [red].\n")
    lines = [f"{command} = {place}" for command, place in commands.items()]
    (info / "entry_points.txt").write_text("\n".join(["[semshare.commands]", *lines, ""]))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of ``semshare`` with ``arguments``."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return int(ended.value.code or 0), said.out, said.err


def test_help_lists_a_packages_command_without_importing_it(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "lighthouse", {"lamp": "lighthouse:app", "shine": "lighthouse:shine"})
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "A lamp [red]. (the package lighthouse 1.5)" in out
    assert out.index(" pool ") < out.index(" calibrate ") < out.index(" lamp ") < out.index(" shine ")
    assert "imported" not in out
    assert "lighthouse" not in sys.modules


def test_a_packages_commands_run(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "lighthouse", {"lamp": "lighthouse:app", "shine": "lighthouse:shine"})
    assert run(capsys, "lamp", "start", "--port", "8000") == (0, "imported\nstarted at 8000\n", "")
    assert run(capsys, "shine", "3") == (0, "shone 3\n", "")
    assert "Start it." in run(capsys, "lamp", "--help")[1]
    assert "Shine so many times." in run(capsys, "shine", "--help")[1]
    assert run(capsys, "shine", "often")[0] == 2
    assert "Did you mean 'shine'?" in run(capsys, "shin")[2]


@pytest.mark.parametrize(
    ("place", "code", "why"),
    [
        (
            "lighthouse:app",
            "import lighthouse_oil",
            "ModuleNotFoundError: No module named 'lighthouse_oil'",
        ),
        ("lighthouse:app", "raise RuntimeError('no oil')", "RuntimeError: no oil"),
        ("lighthouse:lamp", MODULE, "has no attribute 'lamp'"),
        ("lighthouse:number", MODULE, "neither a function nor a typer.Typer, but a int"),
    ],
    ids=["import", "error", "name", "no command"],
)
def test_a_command_that_fails_to_load_names_its_package_and_leaves_the_others_alone(
    site: Path, capsys: pytest.CaptureFixture[str], place: str, code: str, why: str
) -> None:
    install(site, "lighthouse", {"lamp": place}, code)
    ended, _, said = run(capsys, "lamp", "start")
    assert ended == 1
    assert "the command 'lamp' of the package lighthouse 1.5" in said
    assert why in said
    assert "uninstall" in said
    assert said.count("\n") == 1
    assert run(capsys, "--help")[0] == 0
    assert run(capsys, "--version")[0] == 0


def test_two_packages_with_one_command_are_both_named(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("lighthouse_north", "lighthouse_south"):
        install(site, name, {"lamp": f"{name}:app"})
    code, out, said = run(capsys, "lamp", "start")
    assert (code, out) == (1, "")
    assert "lighthouse_north 1.5 and the package lighthouse_south 1.5 both add a command 'lamp'" in said


def test_a_package_cannot_replace_a_command_of_our_own(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "lighthouse", {"pool": "lighthouse:app"})
    assert "lighthouse" not in run(capsys, "--help")[1]
    assert "Look after the folder of a pool" in run(capsys, "pool", "--help")[1]
    assert "lighthouse" not in sys.modules


def test_what_help_says_of_our_own_commands_is_what_they_say_themselves() -> None:
    for command in Commands(name="semshare").commands.values():
        assert isinstance(command, LazyCommand)
        assert command.load().help.startswith(command.help.rstrip(".")), command.name


def test_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"semshare {metadata.version('semshare')}\n", "")
