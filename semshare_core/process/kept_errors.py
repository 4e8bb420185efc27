"""An error that somebody keeps must not keep a prompt's rows in memory.

An error holds its traceback, that the frames of all functions that it came through, and these their variables: caches,
keys, values, hidden states. Notebooks keep the last error, so do tasks and test runners; and who puts an error into a
variable of a function that it comes through makes a cycle, which stays until the garbage collector comes by.
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
    """What ``call`` raises tells where it comes from, and holds nothing of what was there."""

    @functools.wraps(call)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        others = sys.exc_info()[1]  # being handled by whoever calls: not ours
        try:
            return call(*args, **kwargs)
        except (CallCancelledError, CallTimeoutError) as error:
            # a layer with hooks runs in a closure, whose variables no clearing reaches; and where a call happened to be
            # when its time was up tells nobody anything
            raise error.with_traceback(None) from None
        except BaseException as error:
            cause: BaseException | None = error
            while cause is not None and cause is not others:
                traceback.clear_frames(cause.__traceback__)
                cause = cause.__cause__ or cause.__context__
            raise

    return called
