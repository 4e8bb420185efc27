"""A peer's answers as samples: asked in its own environment, many cases at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.peers import Peer, item_of
from benchmarks.peers.item import PeerSample, divergence_of
from benchmarks.systems.system import Sample, Subject


@dataclass(frozen=True)
class PeerAnswer:
    """A sample or, where there is none, the reason.

    Attributes:
        subject: with the bytes of the peer's own full cache, which may hold other numbers than transformers' does.
        seconds: of each reusing call.
        full_seconds: of full prefills by the peer's own library.
    """

    subject: Subject
    system: str
    sample: Sample | None
    seconds: tuple[float, ...] = ()
    full_seconds: tuple[float, ...] = ()
    error: str = ""


def peer_samples(peer: Peer, subjects: Sequence[Subject], threads: int) -> Iterator[PeerAnswer]:
    """Every subject under every setting of the peer. Raises what :meth:`Peer.run` does.

    The divergence is that from the peer's own full prefill: a library that keeps its weights otherwise than
    transformers does is not blamed for it. Its text is compared with transformers' all the same.
    """
    by_id = {subject.case.id: subject for subject in subjects}
    items = [item_of(subject.case, subject.engine, subject.base) for subject in subjects]
    for result in peer.run(items, threads):
        subject, system = by_id[result.id], f"{peer.name} {result.setting}"
        if result.sample is None:
            yield PeerAnswer(subject, system, None, error=str(result.error))
        else:
            told = result.sample
            beside = replace(subject, full_kv_bytes=told.kv_bytes_full)
            yield PeerAnswer(beside, system, _sample(subject, told), told.ttft_seconds, told.full_seconds)


def _sample(subject: Subject, told: PeerSample) -> Sample:
    kl: list[float] = []
    agree: list[int] = []
    if told.log_probs is not None:
        reused, full = told.log_probs()
        found = divergence_of(full, reused, tuple(subject.full_tokens))
        kl = [float(value) for value in found.kl]
        agree = [int(same) for same in reused.argmax(axis=-1) == full.argmax(axis=-1)]
    return Sample(
        seconds=told.ttft_seconds[0],
        kl=kl,
        agree=agree,
        text=subject.ending.text(told.text_tokens[: len(subject.full_tokens)]),
        kv_bytes=told.kv_bytes,
        peak_bytes=told.peak_rss_bytes,
        recompute_ratio=None,
        outcome="answered",
    )
