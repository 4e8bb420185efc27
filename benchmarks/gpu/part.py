"""What the parts share: their command line, clocks that wait for the device, and a record that is never lost."""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semshare_core.process.whole_file import written_whole


@dataclass(frozen=True)
class Options:
    """How a part is to run.

    Attributes:
        device: where the model would compute, with its number.
        tiny: sizes that show that the part runs, and no real figures.
        out: the part's file.
    """

    device: torch.device
    tiny: bool
    out: Path


def options(part: str, about: str, argv: Sequence[str] | None) -> Options:
    """A part's command line."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.gpu.{part}", description=about)
    parser.add_argument("--device", default="cuda", help="cuda (the default), cuda:1, cpu, ...")
    parser.add_argument("--tiny", action="store_true", help="try it out: tiny sizes, no real figures")
    parser.add_argument("--out", type=Path, default=Path(f"out/gpu/{part}.json"), metavar="FILE")
    chosen = parser.parse_args(argv)
    device = torch.empty(1, device=chosen.device).device  # as tensors name it: with its number
    return Options(device, chosen.tiny, chosen.out)


class Record:
    """Prints every figure as it comes, and writes all of them to ``out`` each time."""

    def __init__(self, part: str, chosen: Options) -> None:
        self._out = chosen.out
        self._document: dict[str, Any] = {
            "part": part,
            "device": str(chosen.device),
            "tiny": chosen.tiny,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "complete": False,
            "figures": {},
            "failed": {},
        }
        self._write()

    def add(self, name: str, told: str, /, **values: Any) -> None:
        """A figure: ``told`` is printed, ``values`` are what the file gets besides."""
        print(f"{name}: {told}", flush=True)
        self._document["figures"][name] = {"told": told, **values}
        self._write()

    def attempt(self, name: str, step: Callable[..., None], *arguments: Any) -> None:
        """Take one of the part's steps; the next ones are to be taken also if it fails."""
        try:
            step(self, *arguments)
        except Exception as error:
            traceback.print_exc()
            self._document["failed"][name] = f"{type(error).__name__}: {error}"
            self._write()

    def finish(self) -> None:
        """Say that nothing is missing.

        Raises:
            RuntimeError: some steps failed.
        """
        if failed := self._document["failed"]:
            raise RuntimeError("; ".join(f"{name}: {told}" for name, told in failed.items()))
        self._document["complete"] = True
        self._write()

    def _write(self) -> None:
        self._out.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(self._out) as file:
            file.write(json.dumps(self._document, indent=1).encode())


def settle(device: torch.device) -> None:
    """Wait until the device has done all that was queued."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def timed(call: Callable[[], object], device: torch.device, repeats: int, warm: int = 1) -> list[float]:
    """Milliseconds of each of ``repeats`` calls, from an idle device to an idle device."""
    took = []
    for number in range(warm + repeats):
        settle(device)
        began = time.perf_counter()
        call()
        settle(device)
        if number >= warm:
            took.append(1000 * (time.perf_counter() - began))
    return took


def queued(call: Callable[[], object], device: torch.device, repeats: int, warm: int = 3) -> float:
    """Milliseconds of one call where ``repeats`` of them are queued behind each other."""
    for _ in range(warm):
        call()
    settle(device)
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    settle(device)
    return 1000 * (time.perf_counter() - began) / repeats


def spread(took: Sequence[float]) -> str:
    """Milliseconds as a median and the range."""
    return f"{np.median(took):.3f} ms ({min(took):.3f} to {max(took):.3f})"
