"""The most memory that the process holds resident while something is called, where the system tells."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

_PROCESS = Path("/proc/self")


def peak_bytes(call: Callable[[], object]) -> int | None:
    """The high-water mark of resident memory during ``call``, with the model and the pool; None where it is not told.

    What was freed before and is still held by the C library is given back first, and the mark is set back (write 5 to
    clear_refs, proc(5)): else an earlier call would stand in for this one. That makes the call slower: do not time it.
    """
    if not sys.platform.startswith("linux"):
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others have nothing to give back
    if trim is not None:
        trim(0)
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:  # no right to it, as in some containers
        return None
    call()
    status = (_PROCESS / "status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
