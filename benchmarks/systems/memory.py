"""The most memory that the process held resident during a call, where the kernel tells."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

_PROCESS = Path("/proc/self")


class PeakMemory:
    """``bytes`` after the block: the high-water mark of resident memory within it, with the model and the pool.

    The mark is set back first (write 5 to clear_refs, proc(5)). None where there is no such file, or it is not ours.
    """

    bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        try:
            (_PROCESS / "clear_refs").write_text("5")
        except OSError:
            self._told = False
        else:
            self._told = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._told:
            status = (_PROCESS / "status").read_text()
            self.bytes = 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
