"""The benchmarks' peers without any peer: the protocol with a made-up worker, environments, and what is refused."""

from __future__ import annotations

import ast
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import PEERS, Peer, PeerFailed, PeerItem, PeerResult, PeerSample, PeerUnavailable
from benchmarks.peers.catalogue import ENVIRONMENTS
from benchmarks.peers.environments import REQUIREMENTS, Environment
from benchmarks.peers.item import divergence_of
from benchmarks.peers.protocol import read_answers, write_work

WORKERS = PEERS["kvpress"].worker.parent
ITEMS = [
    PeerItem("a", ((1, 2, 3), (4,)), (1, 2, 9), (5, 6, 7)),
    PeerItem("b", (), (8,), (5,)),
]
VOCABULARY = 10
WORKER = f"""
import sys
sys.path.insert(0, {str(WORKERS)!r})
import numpy as np
from answering import Answer, Clock, serve

class Fake:
    def __init__(self, options):
        self.options, self.seen, self.fresh = options, None, False
    def full(self, target, continuation):
        self.fresh = False
        return 2.0, self.rows(continuation)
    def load(self, setting, references):
        self.seen, self.fresh = references, True
    def again(self, setting, target):
        self.take()
        if setting == "dies later":
            raise SystemExit("killed by its own hand")
        return 0.25
    def take(self):
        if not self.fresh:
            raise RuntimeError("it was not loaded anew")
        self.fresh = False
    def reuse(self, setting, target, continuation):
        self.take()
        if setting == "raises" or (setting == "raises for b" and target == [8]):
            raise RuntimeError("no room")
        if setting == "dies" or (setting == "dies at b" and target == [8]):
            raise SystemExit("killed by its own hand")
        if setting == "hangs":
            import time
            time.sleep(60)
        with Clock() as clock:
            pass
        clock.seconds = float("nan") if setting == "not a number" else 0.5
        rows = None if setting == "no logits" else self.rows(continuation)
        return Answer(clock, rows, [len(self.seen), self.options.threads, self.options.longest], 640, 1280)
    def rows(self, continuation):
        rows = np.full((len(continuation), {VOCABULARY}), np.log(0.05))
        rows[np.arange(len(continuation)), continuation] = np.log(0.55)
        return rows

serve(Fake)
"""


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    return Peer("fake", ("plain",), worker, lambda: Path(sys.executable), lambda: Path("no-model"), 60)


def test_every_item_is_answered_under_every_setting(peer: Peer) -> None:
    results = replace(peer, settings=("plain", "no logits")).run(ITEMS, threads=2)
    assert [(result.id, result.setting) for result in results] == [
        (name, setting) for name in ("a", "b") for setting in ("plain", "no logits")
    ]
    samples = [result.sample for result in results]
    assert all(sample is not None and sample.kv_bytes == 640 and sample.kv_bytes_full == 1280 for sample in samples)
    assert all(sample is not None and sample.speedup == 8.0 for sample in samples)
    assert all(sample is not None and sample.peak_rss_bytes > 1e6 for sample in samples)
    # What it saw: the number of references, the threads, and room for the longest prompt and 48 tokens.
    assert [sample and sample.text_tokens for sample in samples] == [(2, 2, 51), (2, 2, 51), (0, 2, 51), (0, 2, 51)]
    first, second = samples[0], samples[1]
    assert first is not None
    assert second is not None
    assert second.log_probs is None
    assert first.log_probs is not None
    reused, full = first.log_probs()
    assert reused.dtype == np.float32
    assert reused.shape == (3, VOCABULARY)
    assert np.exp(reused).sum(axis=-1) == pytest.approx(1, abs=1e-6)
    assert np.exp(reused[0, 5]) == pytest.approx(0.55, abs=1e-3)
    same = divergence_of(full, reused, ITEMS[0].continuation)
    assert same.kl.tolist() == [0, 0, 0]
    assert same.agree.all()


def test_every_call_is_timed_three_times_from_the_same_state(peer: Peer) -> None:
    for result in peer.run(ITEMS, threads=1):
        assert result.sample is not None  # the worker refuses a call that nothing was loaded for
        assert result.sample.ttft_seconds == (0.5, 0.25, 0.25)
        assert result.sample.full_seconds == (2.0, 2.0, 2.0)


def test_all_are_asked_before_one_is_repeated(peer: Peer) -> None:
    for result in replace(peer, settings=("dies later", "plain")).run(ITEMS, threads=1):
        assert result.sample is not None
        assert result.sample.ttft_seconds == (0.5,)
        assert result.sample.full_seconds == (2.0,)


def test_a_failure_is_told_and_the_rest_goes_on(peer: Peer) -> None:
    results = replace(peer, settings=("raises for b", "not a number", "plain")).run(ITEMS, threads=1)
    assert [result.error for result in results] == [
        *(None, "the answer is refused: it holds NaN", None),
        *("RuntimeError: no room", "the answer is refused: it holds NaN", None),
    ]


def test_a_run_without_one_sample_is_an_error(peer: Peer) -> None:
    with pytest.raises(PeerFailed, match=r"fake: not one of 2 answers is usable; the first: RuntimeError: no room"):
        replace(peer, settings=("raises",)).run(ITEMS, threads=1)
    with pytest.raises(PeerFailed, match="exit code 1; its last words: killed by its own hand"):
        replace(peer, settings=("dies",)).run(ITEMS, threads=1)
    with pytest.raises(PeerFailed, match="holds NaN"):
        replace(peer, settings=("not a number",)).run(ITEMS, threads=1)


def test_what_was_answered_before_the_end_counts(peer: Peer) -> None:
    dead = replace(peer, settings=("dies at b",)).run(ITEMS, threads=1)
    assert dead[0].sample is not None
    assert str(dead[1].error).startswith("no answer: the worker ended with exit code 1")


def test_a_worker_that_takes_too_long_is_ended(peer: Peer) -> None:
    with pytest.raises(PeerFailed, match="the worker was ended after 1 s"):
        replace(peer, settings=("hangs",), timeout_seconds=1).run(ITEMS, threads=1)


def test_nothing_to_ask_is_refused(peer: Peer) -> None:
    with pytest.raises(ValueError, match="nothing to ask"):
        peer.run([], threads=1)
    with pytest.raises(ValueError, match="nothing to ask"):
        replace(peer, settings=()).run(ITEMS, threads=1)
    with pytest.raises(ValueError, match="differ"):
        peer.run([ITEMS[0], ITEMS[0]], threads=1)
    with pytest.raises(ValueError, match="must have tokens"):
        PeerItem("c", (), (1,), ())


@pytest.fixture
def answered() -> Iterator[tuple[tempfile.TemporaryDirectory[str], dict[str, Any]]]:
    """A folder with one good answer to the first item, which a test may spoil."""
    with tempfile.TemporaryDirectory() as name:
        folder = tempfile.TemporaryDirectory(dir=name)
        rows = np.full((3, VOCABULARY), np.log(1 / VOCABULARY), dtype=np.float16)
        for file in ("reuse.npz", "full.npz"):
            np.savez(Path(folder.name) / file, log_probs=rows)
        good = {"id": "a", "setting": "s", "error": None, "text_tokens": [1]}
        good |= {"ttft_seconds": [0.5, 0.4], "full_seconds": [2], "kv_bytes_full": 2}
        yield (
            folder,
            {**good, "kv_bytes": 1, "peak_rss_bytes": 1, "log_probs": "reuse.npz", "full_log_probs": "full.npz"},
        )


def _read(folder: tempfile.TemporaryDirectory[str], answer: dict[str, Any]) -> PeerResult:
    (Path(folder.name) / "answers.jsonl").write_text(json.dumps(answer) + "\n")
    (result,) = read_answers(folder, ITEMS[:1], ["s"], "missing")
    return result


def test_the_good_answer_passes(answered: tuple[tempfile.TemporaryDirectory[str], dict[str, Any]]) -> None:
    assert _read(*answered).sample is not None


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("ttft_seconds", [0.5, 0], "ttft_seconds is 0"),
        ("ttft_seconds", [math.inf], "holds Infinity"),
        ("ttft_seconds", [None], "no number"),
        ("ttft_seconds", 0.5, "refused"),
        ("ttft_seconds", [], "holds no timing"),
        ("full_seconds", [-1.0], "full_seconds is -1.0"),
        ("full_seconds", [True], "no number"),
        ("full_seconds", [], "holds no timing"),
        ("kv_bytes", 0, "kv_bytes is 0"),
        ("kv_bytes_full", 0, "kv_bytes_full is 0"),
        ("peak_rss_bytes", math.nan, "holds NaN"),
        ("text_tokens", [], "holds 0 tokens"),
        ("text_tokens", [1] * 49, "holds 49 tokens"),
        ("text_tokens", None, "refused"),
        ("log_probs", "nowhere.npz", "nowhere.npz cannot be read"),
        ("error", "", "an error without a word"),
        ("id", "z", "missing"),
        ("setting", "t", "missing"),
    ],
)
def test_a_spoilt_answer_is_refused(
    answered: tuple[tempfile.TemporaryDirectory[str], dict[str, Any]], field: str, value: Any, told: str
) -> None:
    folder, answer = answered
    result = _read(folder, {**answer, field: value})
    assert result.sample is None
    assert told in str(result.error)


@pytest.mark.parametrize(
    "field", ["ttft_seconds", "full_seconds", "text_tokens", "kv_bytes", "kv_bytes_full", "log_probs", "error"]
)
def test_an_answer_without_a_field_is_refused(
    answered: tuple[tempfile.TemporaryDirectory[str], dict[str, Any]], field: str
) -> None:
    folder, answer = answered
    del answer[field]
    assert f"it has no '{field}'" in str(_read(folder, answer).error)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (np.full((3, VOCABULARY), np.nan), "holds NaN or infinity"),
        (np.full((3, VOCABULARY), -np.inf), "holds NaN or infinity"),
        (np.full((2, VOCABULARY), np.log(1 / VOCABULARY)), "of shape [2, 10]"),
        (np.zeros((0, VOCABULARY)), "of shape [0, 10]"),
        (np.zeros((3, VOCABULARY)), "no log-probabilities"),
    ],
)
@pytest.mark.parametrize("file", ["reuse.npz", "full.npz"])
def test_rows_that_are_no_log_probabilities_are_refused(
    answered: tuple[tempfile.TemporaryDirectory[str], dict[str, Any]], file: str, rows: Any, told: str
) -> None:
    folder, answer = answered
    np.savez(Path(folder.name) / file, log_probs=rows.astype(np.float16))
    assert told in str(_read(folder, answer).error)


def test_a_line_cut_short_is_no_answer(answered: tuple[tempfile.TemporaryDirectory[str], dict[str, Any]]) -> None:
    folder, answer = answered
    (Path(folder.name) / "answers.jsonl").write_text(json.dumps(answer)[:-9])
    (result,) = read_answers(folder, ITEMS[:1], ["s"], "missing")
    assert result.error == "missing"


def test_a_result_is_a_sample_or_an_error() -> None:
    sample = PeerSample((0.5,), (2.0,), (1,), 1, 1, 1, None)
    assert PeerResult("a", "s", sample=sample).error is None
    for wrong in ({}, {"error": ""}, {"sample": sample, "error": "both"}):
        with pytest.raises(ValueError, match="either"):
            PeerResult("a", "s", **wrong)
    with pytest.raises(ValueError, match="ttft_seconds"):
        PeerSample((math.nan,), (2.0,), (1,), 1, 1, 1, None)


def test_divergence_is_that_of_the_full_prefill() -> None:
    full = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], dtype=np.float32))
    other = np.log(np.array([[0.25, 0.75], [0.9, 0.1]], dtype=np.float32))
    found = divergence_of(full, other, (0, 0))
    assert found.kl == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0], abs=1e-6)
    assert found.agree.tolist() == [False, True]


def test_work_is_written_as_token_ids(tmp_path: Path) -> None:
    write_work(tmp_path, ITEMS, ["s", "t"])
    first, second = (json.loads(line) for line in (tmp_path / "work.jsonl").read_text().splitlines())
    assert second["references"] == []
    assert first == {
        "id": "a",
        "references": [[1, 2, 3], [4]],
        "target": [1, 2, 9],
        "continuation": [5, 6, 7],
        "settings": ["s", "t"],
    }


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setenv("SEMSHARE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    requirements = tmp_path / "made-up.txt"
    requirements.write_text("# nothing\n")
    return Environment("made-up", requirements=requirements)


def test_an_environment_is_made_once_and_again_when_its_pins_change(environment: Environment) -> None:
    with pytest.raises(PeerUnavailable, match=r"not installed; run: .* install made-up"):
        _ = environment.python
    environment.install()
    python = environment.python
    assert python.is_relative_to(environment.folder)
    (environment.folder / "witness").touch()
    environment.install()
    assert (environment.folder / "witness").exists()
    assert environment.requirements
    environment.requirements.write_text("# other pins\n")
    with pytest.raises(PeerUnavailable, match="not installed"):
        _ = environment.python
    environment.install()
    assert not (environment.folder / "witness").exists()


def test_why_an_environment_cannot_be_is_remembered(environment: Environment) -> None:
    assert environment.requirements
    environment.requirements.write_text("semshare-has-no-such-peer==1.0\n")
    with pytest.raises(PeerUnavailable, match="No matching distribution found for semshare-has-no-such-peer"):
        environment.install()
    with pytest.raises(PeerUnavailable, match="No matching distribution found for semshare-has-no-such-peer"):
        _ = environment.python
    environment.requirements.write_text("# what can be had\n")
    environment.install()
    assert environment.python.exists()


def test_an_unavailable_peer_is_reported_before_anything_runs(environment: Environment, peer: Peer) -> None:
    with pytest.raises(PeerUnavailable, match="not installed"):
        replace(peer, python=lambda: environment.python).run(ITEMS, threads=1)


def test_every_peer_has_a_worker_and_pins() -> None:
    assert set(PEERS) == set(ENVIRONMENTS)
    for name, listed in PEERS.items():
        assert listed.worker.is_file()
        pins = (REQUIREMENTS / f"{name}.txt").read_text().split()
        assert pins
        assert all(pin.count("==") == 1 for pin in pins)


def test_workers_know_nothing_of_the_project() -> None:
    for path in WORKERS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in ("benchmarks", "semshare_core") for name in names), path
