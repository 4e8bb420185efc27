"""The peers' part: each in its own environment, on cases that ours has been measured on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.bench.plan import PeersPart, tokens_of
from benchmarks.bench.run import Runner
from benchmarks.bench.workloads import build_cases
from benchmarks.corpora import CorpusUnavailable
from benchmarks.peers import PEERS, PeerFailed, PeerUnavailable
from benchmarks.systems.peer import peer_samples
from benchmarks.systems.system import Subject


def run_peers(runner: Runner, part: PeersPart, names: Sequence[str], threads: int) -> None:
    """Every peer of ``names``; one that is not there, or fails, becomes a note."""
    subjects = _subjects(runner, part)
    ends = time.perf_counter() + 60 * part.minutes
    for place, name in enumerate(names if subjects else ()):
        runner.say(f"{name}: {len(subjects)} prompts, in an environment of its own …")
        share = max(1.0, ends - time.perf_counter()) / (len(names) - place)
        peer = replace(PEERS[name], timeout_seconds=share)
        try:
            for answer in peer_samples(peer, subjects, threads):
                if answer.sample is None:
                    runner.note(f"{answer.system}, {answer.subject.case.id}: {answer.error}")
                    continue
                seconds, fulls = list(answer.seconds), list(answer.full_seconds)
                runner.keep(answer.subject, answer.system, answer.sample, seconds, fulls)
        except (PeerUnavailable, PeerFailed) as error:
            runner.note(f"{name}: {error}")


def _subjects(runner: Runner, part: PeersPart) -> list[Subject]:
    """The workloads in turn, so that a peer whose time is up has answered some of each."""
    found: list[list[Subject]] = []
    for workload in part.workloads:
        try:
            cases = build_cases(workload, runner.count_tokens, 0, part.cases)
        except CorpusUnavailable as error:
            runner.note(f"peers, {workload}: {error}")
        else:
            found.append([runner.subject(case, tokens_of(workload), text=True) for case in cases])
    return [subject for turn in zip(*found, strict=True) for subject in turn]
