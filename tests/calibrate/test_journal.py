"""What an interrupted calibration has measured is found again by the same model and version, and by no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from made_up_calibration import PARTS, observations
from semshare_core.calibrate import journal
from semshare_core.calibrate.journal import Journal, read_journal
from semshare_core.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "one.jsonl"
    kept = Journal(path, PARTS)
    for item in observations(3):
        kept.append([item])
    return path


def test_what_was_kept_is_read_again(path: Path) -> None:
    assert Journal(path, PARTS).read() == observations(3)
    assert json.loads(path.read_text().splitlines()[0])["fingerprint"] == PARTS
    Journal(path, PARTS).remove()
    assert not path.exists()


@pytest.mark.parametrize("part", ["weights", "dtype"])
def test_another_models_is_not_read_and_not_lost(path: Path, part: str) -> None:
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"another model or dtype.*another --out.*delete that file"):
        Journal(path, PARTS | {part: "another"})
    assert path.read_bytes() == before


def test_what_was_measured_in_another_way_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(path.read_text().replace('"format": ', '"format": 1', 1))
    with pytest.raises(ConfigError, match="another version"):
        Journal(path, PARTS)
    path.unlink()
    Journal(path, PARTS)
    monkeypatch.setattr(journal, "RATIOS", (0.1, 0.2))
    with pytest.raises(ConfigError, match="another version"):
        Journal(path, PARTS)


@pytest.mark.parametrize("held", ['{"id": "order-0"}\n', "something else"], ids=["of old", "no journal"])
def test_a_file_that_does_not_tell_whose_it_is_stays_as_it_is(tmp_path: Path, held: str) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text(held)
    with pytest.raises(ConfigError, match="another version"):
        Journal(path, PARTS)
    assert path.read_text() == held


@pytest.mark.parametrize("gone", [1, 40, 200])
def test_a_line_that_was_broken_off_does_not_spoil_the_next(path: Path, gone: int) -> None:
    path.write_bytes(path.read_bytes()[:-gone])
    again = Journal(path, PARTS)
    again.append(observations(3)[2:])
    assert Journal(path, PARTS).read() == observations(3)


@pytest.mark.parametrize("length", [0, 30])
def test_a_first_line_that_was_broken_off_is_begun_anew(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    Journal(path, PARTS).append(observations(1))
    assert Journal(path, PARTS).read() == observations(1)


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Pass another --out"):
        Journal(tmp_path / "file" / "one.jsonl", PARTS)


def test_another_process_reads_a_journal_that_is_still_written(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert read_journal(path, PARTS) == observations(3)[:2]
    assert path.read_bytes() == whole[:-9], "its writer goes on with that line"
    with pytest.raises(ConfigError, match="no measurements of this model"):
        read_journal(path, PARTS | {"weights": "another"})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_journal(path.with_name("nowhere"), PARTS)
