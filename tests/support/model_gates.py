"""A model that stands still in a chosen forward pass, for tests of who waits for whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel

WAIT = 60
"""Seconds until a test gives up; none of them waits unless something is broken."""


class Gate:
    """Stops a thread that passes until it is opened, and tells that one has come, how often, and whether it gave up."""

    def __init__(self, stop_at: int = 1) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.passes, self.gave_up = 0, False
        self._stop_at = stop_at

    def __call__(self, *_: Any) -> None:
        self.passes += 1
        if self.passes == self._stop_at:
            self.reached.set()
            self.gave_up = not self.opened.wait(WAIT)

    async def until_reached(self) -> None:
        while not self.reached.is_set():
            await asyncio.sleep(0.001)


@contextmanager
def gate_in(model: PreTrainedModel, stop_at: int) -> Iterator[Gate]:
    """A gate that the model stops at in its ``stop_at``-th forward pass."""
    gate = Gate(stop_at)
    handle = model.register_forward_pre_hook(gate)
    try:
        yield gate
    finally:
        gate.opened.set()
        handle.remove()


def answered_beside_a_free_loop(model: PreTrainedModel, answer: Callable[[], Coroutine[Any, Any, str]], at: int) -> str:
    """The answer, while the model waits for the loop in its ``at``-th pass: were the loop waiting, too, it gave up."""

    async def main() -> str:
        with gate_in(model, at) as gate:
            task = asyncio.create_task(answer())
            await gate.until_reached()
            gate.opened.set()
            text = await task
        assert not gate.gave_up
        return text

    return asyncio.run(main())
