"""An error that somebody keeps must not keep a prompt's rows in memory.

An error holds its traceback, the traceback holds the frames of all functions that it came through, and a frame holds
its variables: caches, keys, values, hidden states. Notebooks, tasks and test runners keep the last error. A function
that keeps an error in a variable makes a cycle, which stays until the garbage collector runs.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from semshare_core.errors import CallCancelledError, CallTimeoutError

P = ParamSpec("P")
T = TypeVar("T")


def keeps_no_rows(call: Callable[P, T]) -> Callable[P, T]:
    """A decorator: what ``call`` raises keeps its traceback, but none of the variables in it."""

    @functools.wraps(call)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        others = sys.exc_info()[1]  # the caller handles it: not ours
        try:
            return call(*args, **kwargs)
        except (CallCancelledError, CallTimeoutError) as error:
            # clear_frames does not reach the closure in which a layer with hooks runs; and nobody needs to know where a
            # request was when its time was up
            raise error.with_traceback(None) from None
        except BaseException as error:
            cause: BaseException | None = error
            while cause is not None and cause is not others:
                traceback.clear_frames(cause.__traceback__)
                cause = cause.__cause__ or cause.__context__
            raise

    return called
