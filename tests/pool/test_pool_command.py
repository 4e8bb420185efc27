"""``semshare pool``: what it says, what it deletes, and what it refuses."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

import semshare_core
from semshare_core.cli.amounts import age, read_age, read_bytes
from semshare_core.cli.main import main
from semshare_core.pool.disk import PoolFolder
from stored_entries import (
    MODEL,
    OTHER_MODEL,
    all_rows,
    keep,
    make_record,
    make_rows,
    rows_bytes,
    segment_id,
    verify,
)

ENTRIES = {("alice", "one"): (("a", 3), ("b", 2)), ("alice", "two"): (("a", 3),), ("[bold]bob", "one"): (("a", 1),)}

pytestmark = pytest.mark.filterwarnings("error::semshare_core.errors.PoolWarning")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    path = tmp_path / "pool"
    with PoolFolder(path, MODEL) as folder:
        for (namespace, entry), segments in ENTRIES.items():
            keep(folder, entry, segments, namespace)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, output and errors of ``semshare pool`` with ``arguments``."""
    with pytest.raises(SystemExit) as ended:
        main(["pool", *map(str, arguments)])
    told = capsys.readouterr()
    assert "Traceback" not in told.out + told.err
    return int(ended.value.code or 0), told.out, told.err


def held(path: Path) -> set[tuple[str, str]]:
    with PoolFolder(path, MODEL) as folder:
        return {(record.namespace, record.id) for record in folder.records()}


def content(path: Path) -> dict[Path, bytes]:
    return {found: found.read_bytes() for found in path.rglob("*") if found.is_file()}


def damage(path: Path, pattern: str) -> Path:
    """Flip a bit of rows, or of the token ids of an entry."""
    found = sorted(path.rglob(pattern))[0]
    whole = bytearray(found.read_bytes())
    at = whole.index(make_record("one", ENTRIES["alice", "one"]).tokens.tobytes()) if pattern == "pool.db" else -1
    whole[at] ^= 1
    found.write_bytes(whole)
    return found


def verify_all(folder: PoolFolder) -> int:
    for record in folder.records():
        verify(folder, record, ENTRIES[record.namespace, record.id])
    return len(folder.records())


def age_entries(path: Path, ages: dict[tuple[str, str], float], pinned: tuple[str, str] | None = None) -> None:
    """Make entries so many seconds old."""
    with PoolFolder(path, MODEL) as folder:
        for (namespace, entry), seconds in ages.items():
            record = make_record(entry, ENTRIES[namespace, entry], namespace)
            pin = (namespace, entry) == pinned
            folder.write_record(replace(record, created=time.time() - seconds, pinned=pin))


def test_ls_counts_what_is_there(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(pool)
    with PoolFolder(pool, MODEL) as owner:
        code, out, _ = run(capsys, "ls", pool, "--json")
        size = sum(map(rows_bytes, (1, 2, 3)))
        assert owner.records()
    assert code == 0
    namespaces = json.loads(out)["namespaces"]
    assert [(item["namespace"], item["entries"], item["tokens"]) for item in namespaces] == [
        ("[bold]bob", 1, 1),
        ("alice", 2, 8),
    ]
    assert sum(item["bytes"] for item in namespaces) == size
    assert {item["fingerprint"] for item in namespaces} == {MODEL.digest}
    code, out, _ = run(capsys, "ls", pool)
    assert code == 0
    assert "alice" in out
    assert "[bold]bob" in out
    assert content(pool) == before


def test_all_models_are_covered(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="foreign"):
        other = PoolFolder(pool, OTHER_MODEL)
    with other:
        keep(other, "one", (("a", 3),), "carol")
    _, out, _ = run(capsys, "ls", pool, "--json")
    assert len({item["fingerprint"] for item in json.loads(out)["namespaces"]}) == 2
    assert run(capsys, "verify", pool)[0] == 0
    damage(pool, f"{segment_id('a', 'carol')}.safetensors")
    code, out, _ = run(capsys, "verify", pool)
    assert code == 1
    assert "1 faults" in out


@pytest.mark.parametrize("pattern", ["*.safetensors", "pool.db"])
def test_verify_names_the_damaged_file(pool: Path, capsys: pytest.CaptureFixture[str], pattern: str) -> None:
    code, out, _ = run(capsys, "verify", pool)
    assert code == 0
    assert "0 faults" in out
    found = damage(pool, pattern)
    before = content(pool)
    code, out, _ = run(capsys, "verify", pool)
    assert code == 1
    assert str(found) in out
    assert content(pool) == before


@pytest.mark.parametrize("pattern", ["*.safetensors", "pool.db"])
def test_prune_damaged(pool: Path, capsys: pytest.CaptureFixture[str], pattern: str) -> None:
    found = damage(pool, pattern)
    before = content(pool)
    assert str(found) in run(capsys, "prune", pool, "--damaged", "--dry-run")[1]
    assert content(pool) == before
    assert run(capsys, "prune", pool, "--damaged")[0] == 0
    assert found.exists() == (pattern == "pool.db")
    assert run(capsys, "verify", pool)[0] == 0
    with PoolFolder(pool, MODEL) as folder:
        assert 1 <= verify_all(folder) < len(ENTRIES)


def test_prune_by_age_spares_the_pinned(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = 40 * 86400
    age_entries(pool, dict.fromkeys(ENTRIES, old) | {("alice", "two"): 60}, pinned=("[bold]bob", "one"))
    before = content(pool)
    code, out, _ = run(capsys, "prune", pool, "--older-than", "30d", "--dry-run")
    assert (code, content(pool)) == (0, before)
    assert "1 entries" in out
    assert "would go" in out
    assert run(capsys, "prune", pool, "--older-than", "30d")[0] == 0
    assert held(pool) == {("alice", "two"), ("[bold]bob", "one")}
    with PoolFolder(pool, MODEL) as folder:
        assert folder.rows(segment_id("a", "alice")).n_tokens == 3  # shared with the one that went
    assert len(all_rows(pool)) == 2


def test_prune_a_namespace(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "prune", pool, "--namespace", "alice")[0] == 0
    assert held(pool) == {("[bold]bob", "one")}
    assert b"alice" not in (pool / "pool.db").read_bytes()
    assert len(all_rows(pool)) == 1


def test_pruning_a_mistyped_namespace_says_that_it_is_not_there(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = held(pool)
    code, said, _ = run(capsys, "prune", pool, "--namespace", "allice")
    assert code == 0
    assert "Nothing of namespace 'allice' is there. Did you mean alice?" in said
    assert held(pool) == before


def test_prune_to_a_size_takes_the_oldest_first(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = list(ENTRIES)
    age_entries(pool, {keys[0]: 10, keys[1]: 30, keys[2]: 20})
    size = sum(map(rows_bytes, (1, 2, 3)))
    assert run(capsys, "prune", pool, "--max-bytes", size)[0] == 0
    assert held(pool) == set(keys)
    assert run(capsys, "prune", pool, "--max-bytes", size - 1)[0] == 0
    assert held(pool) == {keys[0]}, "the second oldest, too: the oldest shares all its rows"
    assert run(capsys, "prune", pool, "--max-bytes", "0")[0] == 0
    assert held(pool) == set()


@pytest.mark.parametrize(
    "options",
    [[], ["--older-than", "soon"], ["--max-bytes", "much"], ["--damaged", "--namespace", "alice"]],
    ids=["nothing", "age", "size", "damaged namespace"],
)
def test_prune_refuses_what_it_does_not_understand(
    pool: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    before = content(pool)
    assert run(capsys, "prune", pool, *options)[0] == 2
    assert content(pool) == before


def test_prune_and_import_need_the_lock(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "export", pool, tmp_path / "out.tar")[0] == 0
    with PoolFolder(pool, MODEL):
        for arguments in (["prune", pool, "--namespace", "alice"], ["import", pool, tmp_path / "out.tar"]):
            code, _, err = run(capsys, *arguments)
            assert code == 1
            assert "in use" in err
            assert err.count("\n") == 1
        assert run(capsys, "verify", pool)[0] == 0
    assert held(pool) == set(ENTRIES)


@pytest.mark.parametrize("command", ["ls", "verify", "prune", "export"])
def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    more = {"prune": ["--namespace", "a"], "export": [tmp_path / "out.tar"]}.get(command, [])
    code, _, err = run(capsys, command, tmp_path / "none", *more)
    assert code == 1
    assert "no pool folder" in err
    assert not list(tmp_path.iterdir())


def test_exported_entries_come_back(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, other = tmp_path / "out.tar", tmp_path / "other"
    assert run(capsys, "export", pool, archive, "--namespace", "alice")[0] == 0
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert run(capsys, "import", other, archive)[:2] == (0, "2 entries imported.\n")
    with PoolFolder(other, MODEL) as folder:
        assert verify_all(folder) == 2
    before = content(other)
    assert "2 were there already" in run(capsys, "import", other, archive)[1]
    assert content(other) == before
    assert {path.name for path in tmp_path.iterdir()} == {"pool", "other", "out.tar"}
    assert run(capsys, "export", pool, archive)[0] == 1  # it exists


def test_import_keeps_what_is_there(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    with PoolFolder(other, MODEL) as folder:
        folder.write_rows(segment_id("a", "alice"), make_rows("something else", 3))
        folder.write_record(make_record("own", (("a", 3),), "alice"))
    before = content(other)
    run(capsys, "export", pool, tmp_path / "out.tar")
    code, out, _ = run(capsys, "import", other, tmp_path / "out.tar")
    assert code == 1
    assert "1 entries imported" in out
    assert "2 left out: other rows" in out
    assert {path: data for path, data in content(other).items() if path.name != "pool.db"}.items() >= {
        path: data for path, data in before.items() if path.name != "pool.db"
    }.items()
    assert held(other) == {("alice", "own"), ("[bold]bob", "one")}


def test_damage_is_neither_exported_nor_imported(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "out.tar"
    run(capsys, "export", pool, archive)
    whole = bytearray(archive.read_bytes())
    with tarfile.open(archive) as tar:
        member = next(member for member in tar if member.name.endswith(".safetensors"))
    whole[member.offset_data + member.size - 1] ^= 1
    archive.write_bytes(whole)
    code, out, _ = run(capsys, "import", tmp_path / "other", archive)
    assert code == 1
    assert "left out: damaged" in out
    with PoolFolder(tmp_path / "other", MODEL) as folder:
        assert 1 <= verify_all(folder) < len(ENTRIES)
    damage(pool, "*.safetensors")
    code, out, _ = run(capsys, "export", pool, tmp_path / "more.tar")
    assert code == 1
    assert "left out: damaged" in out


def hostile(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, 4 if kind == tarfile.REGTYPE else 0
    return member


DIGEST = "0" * 32


@pytest.mark.parametrize(
    "member",
    [
        hostile("../evil"),
        hostile("rows/../../evil"),
        hostile("/tmp/evil"),
        hostile("rows/notes.txt"),
        hostile("pool.db", tarfile.SYMTYPE, "/etc/passwd"),
        hostile(f"rows/{DIGEST}.safetensors", tarfile.LNKTYPE, "/etc/passwd"),
        hostile(f"rows/{DIGEST}.safetensors", tarfile.FIFOTYPE),
    ],
    ids=["up", "up and down", "absolute", "other", "symbolic link", "hard link", "pipe"],
)
def test_import_refuses_members_that_no_export_has(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], member: tarfile.TarInfo
) -> None:
    archive = tmp_path / "out.tar"
    run(capsys, "export", pool, archive)
    with tarfile.open(archive, "a") as tar:
        tar.addfile(member, io.BytesIO(b"evil"))
    before = content(pool)
    code, _, err = run(capsys, "import", pool, archive)
    assert code == 1
    assert "no export of a pool" in err
    assert content(pool) == before
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_import_of_half_an_archive(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    archive = tmp_path / "out.tar"
    run(capsys, "export", pool, archive)
    archive.write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size) | 1])
    run(capsys, "import", tmp_path / "other", archive)
    with PoolFolder(tmp_path / "other", MODEL) as folder:
        verify_all(folder)


def test_amounts() -> None:
    assert [read_age(text) for text in ("90m", "12h", "1.5d", "2w")] == [5400, 43200, 129600, 1209600]
    assert [read_bytes(text) for text in ("0", "500MB", "2GiB")] == [0, 500_000_000, 2**31]
    assert [age(seconds) for seconds in (-5, 59, 3600, 93784)] == ["0s", "59s", "1h 0m", "1d 2h"]


# What is given by mistake


def test_arguments_in_the_wrong_order_are_told(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, there = tmp_path / "pool.tar", tmp_path / "there"
    code, _, said = run(capsys, "export", archive, pool)
    assert code == 1
    assert f"semshare pool export {pool} {archive}" in said
    assert run(capsys, "export", pool, archive)[0] == 0
    for folder in (pool, there):  # there already, and to be made
        before = content(tmp_path)
        code, _, said = run(capsys, "import", archive, folder)
        assert code == 1
        assert f"semshare pool import {folder} {archive}" in said
        assert content(tmp_path) == before
    assert not there.exists()


@pytest.mark.parametrize("command", [["ls"], ["ls", "--json"], ["verify"], ["prune", "--max-bytes", "1KB"], ["export"]])
def test_a_folder_that_is_no_pool_is_told(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents, file, archive = tmp_path / "documents", tmp_path / "file", tmp_path / "written.tar"
    documents.mkdir()
    (documents / "readme.txt").write_text("No pool.")
    file.write_text("No folder.")
    behind = [archive] if command == ["export"] else []
    for path, why in ((documents, "is no pool's folder"), (file, "is a file"), (tmp_path / "none", "There is no pool")):
        code, _, said = run(capsys, command[0], path, *behind, *command[1:])
        assert code == 1
        assert why in said
    assert sorted(tmp_path.iterdir()) == [documents, file]


def test_an_archive_that_is_none_is_told_and_no_folder_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new"
    for archive, why in ((tmp_path / "none.tar", "There is no archive"), (tmp_path, "is a folder")):
        code, _, said = run(capsys, "import", folder, archive)
        assert code == 1
        assert why in said
    assert not folder.exists()


def test_an_export_without_entries_is_imported(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "nobody.tar"
    code, said, _ = run(capsys, "export", pool, archive, "--namespace", "nobody")
    assert (code, said) == (0, "Nothing of namespace 'nobody' is there.\n0 entries exported.\n")
    code, said, _ = run(capsys, "import", tmp_path / "there", archive)
    assert (code, said) == (0, "0 entries imported.\n")


def test_a_pool_that_is_empty_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with PoolFolder(tmp_path, MODEL):
        pass
    assert run(capsys, "ls", tmp_path)[0] == 0


def test_calibrating_into_a_folder_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "demo", "--out", str(tmp_path)])
    assert ended.value.code == 1
    assert "is a folder: name a file" in capsys.readouterr().err


def test_the_command_and_what_it_reads_folders_with_need_no_torch(pool: Path) -> None:
    """In a process of its own, which imports no public name of ours: those need torch."""
    script = """
import sys, types
package = sys.modules["semshare_core"] = types.ModuleType("semshare_core")
package.__path__ = [sys.argv[1]]
import semshare_core.pool
from semshare_core.cli.contents import contents
from semshare_core.cli.pool import pool
print(sum(item["entries"] for item in contents(__import__("pathlib").Path(sys.argv[2]))[0]))
print([name for name in ("torch", "transformers", "safetensors.torch") if name in sys.modules])
"""
    package = str(Path(semshare_core.__file__).parent)
    told = subprocess.run(
        [sys.executable, "-c", script, package, str(pool)], capture_output=True, text=True, check=False
    )
    assert told.stdout.splitlines() == ["3", "[]"], told.stderr
