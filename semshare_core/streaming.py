"""Streamed answers: the model runs in a worker thread, and a generator yields the text that can no longer change."""

from __future__ import annotations

import contextvars
import os
import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass

from semshare_core.decode.generate import FinishReason
from semshare_core.decode.stop_strings import AnswerText
from semshare_core.errors import CallCancelledError, ProcessError
from semshare_core.model.autocast import Autocast
from semshare_core.process.interrupt import Interrupt
from semshare_core.report import ReuseReport


@dataclass(frozen=True)
class Generation:
    """An answer: its text without stop strings, the generated token ids, why it ended, and what was reused."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    report: ReuseReport


@dataclass(frozen=True)
class Piece:
    """A piece of a streamed answer. The last piece carries ``report``, ``finish_reason`` and all ``token_ids``."""

    text: str
    report: ReuseReport | None = None
    finish_reason: FinishReason | None = None
    token_ids: list[int] | None = None


Put = Callable[["int | AnswerText"], None]
Answer = Callable[[Interrupt, Put], Generation]


def stream_pieces(
    answer: Answer,
    *,
    timeout: float | None,
    cancel: threading.Event | None,
    autocast: Autocast,
    on_left: Callable[[ReuseReport], None] | None,
) -> Generator[Piece, None, None]:
    """Run ``answer`` in its own thread and yield its pieces.

    Args:
        answer: called with an interrupt and a ``put`` function. It puts the :class:`AnswerText` first, then each token
            id.
        timeout: in seconds from the first ``next``.
        cancel: ends the answer when set.
        autocast: the caller's autocast.
        on_left: called with the report if the stream is closed before its last piece was taken.
    """
    items: queue.SimpleQueue[int | AnswerText | Generation | BaseException] = queue.SimpleQueue()
    left = threading.Event()
    interrupt = Interrupt(cancel, timeout, left)

    def work() -> None:
        try:
            with autocast.applied():
                items.put(answer(interrupt, items.put))
        except BaseException as error:  # raised again in the consumer's thread
            items.put(error)

    context = contextvars.copy_context()
    worker = threading.Thread(target=context.run, args=(work,), name="semshare-stream", daemon=True)
    worker.start()
    taken = False
    try:
        for item in _settled(items):
            taken = item.report is not None
            yield item
    finally:
        left.set()
        worker.join()
        while on_left is not None and not taken and not items.empty():
            if isinstance(rest := items.get(), Generation):
                on_left(rest.report)


def _settled(items: queue.SimpleQueue[int | AnswerText | Generation | BaseException]) -> Generator[Piece, None, None]:
    """Yield text as soon as no later token can change it."""
    ids: list[int] = []
    sent = 0
    process = os.getpid()
    while True:
        if os.getpid() != process:
            raise ProcessError("a forked process cannot read its parent's stream: start a new stream in this process.")
        item = items.get()
        if isinstance(item, CallCancelledError):
            return
        if isinstance(item, BaseException):
            try:
                raise item
            finally:
                del item  # the error's traceback refers to this frame
        if isinstance(item, Generation):
            yield Piece(item.text[sent:], item.report, item.finish_reason, item.token_ids)
            return
        if isinstance(item, AnswerText):
            text = item
            continue
        ids.append(item)
        settled = text.settled(ids)
        if len(settled) > sent:
            yield Piece(settled[sent:])
            sent = len(settled)
