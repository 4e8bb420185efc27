"""Autocast belongs to a thread: what a caller has switched on is carried to the thread that computes for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Autocast:
    """What autocast is in a thread: the kinds of devices for which it is on, each with its dtype."""

    dtypes: tuple[tuple[str, torch.dtype], ...]

    @classmethod
    def here(cls) -> Autocast:
        """That of the calling thread."""
        on = [kind for kind in _kinds() if torch.is_autocast_enabled(kind)]
        return cls(tuple((kind, torch.get_autocast_dtype(kind)) for kind in on))

    @contextmanager
    def again(self) -> Iterator[None]:
        """The same in the thread that enters the context."""
        with ExitStack() as stack:
            if self != Autocast.here():
                dtypes = dict(self.dtypes)
                for kind in _kinds():
                    stack.enter_context(torch.autocast(kind, dtypes.get(kind), enabled=kind in dtypes))
            yield


OFF = Autocast(())


def outside_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` as it is without autocast: vectors by which prompts are found must not depend on the caller."""

    @wraps(function)
    def plain(*args: P.args, **kwargs: P.kwargs) -> R:
        with OFF.again():
            return function(*args, **kwargs)

    return plain


@cache
def _kinds() -> tuple[str, ...]:
    found = torch.accelerator.current_accelerator()
    return ("cpu",) if found is None or found.type == "cpu" else ("cpu", found.type)
