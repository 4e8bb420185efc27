"""Autocast belongs to a thread: what a caller has switched on is carried to the thread that computes for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class Autocast:
    """The autocast settings of one thread: each kind of device for which autocast is on, with its dtype.

    For example ``Autocast((("cpu", torch.bfloat16),))``.
    """

    dtypes: tuple[tuple[str, torch.dtype], ...]

    @classmethod
    def current(cls) -> Autocast:
        """The settings of the calling thread."""
        on = [kind for kind in _kinds() if torch.is_autocast_enabled(kind)]
        return cls(tuple((kind, torch.get_autocast_dtype(kind)) for kind in on))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the calling thread has these settings. Also a decorator: ``OFF.applied()(function)``."""
        with ExitStack() as stack:
            if self != Autocast.current():
                dtypes = dict(self.dtypes)
                for kind in _kinds():
                    stack.enter_context(torch.autocast(kind, dtypes.get(kind), enabled=kind in dtypes))
            yield


OFF = Autocast(())


@cache
def _kinds() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator()
    return ("cpu",) if accelerator is None or accelerator.type == "cpu" else ("cpu", accelerator.type)
