"""The card itself: memory, copies, the rate of matrix products, and what one launch and one wait cost.

Other parts' figures are read beside these.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.gpu.part import Options, Record, options, queued, settle, timed

_COPIED, _COPIED_TINY = 2 * 2**30, 2**22  # bytes
_SIDE, _SIDE_TINY = 8192, 128
_LAUNCHES, _LAUNCHES_TINY = 1000, 50


def main(argv: Sequence[str] | None = None) -> None:
    """Every figure in turn."""
    chosen = options("card", __doc__, argv)
    record = Record("card", chosen)
    for step in (_names, _copies_within, _products, _launches, _waits, _copies_across):
        record.attempt(step.__name__, step, chosen)
    record.finish()


def _names(record: Record, chosen: Options) -> None:
    device = chosen.device
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if device.type != "cuda":
        record.add("device", f"{device}, torch {torch.__version__}, no CUDA device", **versions)
        return
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    told = (
        f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
        f"{properties.multi_processor_count} multiprocessors, {total / 2**30:.1f} GiB ({free / 2**30:.1f} free), "
        f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    )
    record.add("device", told, name=properties.name, total_bytes=total, free_bytes=free, **versions)


def _copies_within(record: Record, chosen: Options) -> None:
    n_bytes = _COPIED_TINY if chosen.tiny else _COPIED
    source = torch.randint(0, 127, (n_bytes,), dtype=torch.int8, device=chosen.device)
    target = torch.empty_like(source)
    ms = queued(lambda: target.copy_(source), chosen.device, 20)
    rate = 2 * n_bytes / ms / 1e6
    record.add("copy within the device", f"{rate:.0f} GB/s, read and written", gb_per_s=rate, bytes=n_bytes, ms=ms)


def _copies_across(record: Record, chosen: Options) -> None:
    n_bytes = (_COPIED_TINY if chosen.tiny else _COPIED) // 2
    far = torch.zeros(n_bytes, dtype=torch.int8, device=chosen.device)
    for kind in ("pinned", "pageable"):
        if kind == "pinned" and chosen.device.type == "cpu":
            record.add("copies from pinned memory", "left out: there is no accelerator to pin for")
            continue
        host = torch.ones(n_bytes, dtype=torch.int8, pin_memory=kind == "pinned")
        for way, target, source in (("to the device", far, host), ("to the host", host, far)):
            took = min(timed(partial(target.copy_, source), chosen.device, 3))
            rate = n_bytes / took / 1e6
            record.add(f"{kind} memory {way}", f"{rate:.1f} GB/s", gb_per_s=rate, bytes=n_bytes, ms=took)


def _products(record: Record, chosen: Options) -> None:
    side = _SIDE_TINY if chosen.tiny else _SIDE
    a, b = (torch.randn((side, side), device=chosen.device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    ms = queued(lambda: torch.mm(a, b, out=out), chosen.device, 10)
    rate = 2 * side**3 / ms / 1e9
    record.add(f"bfloat16 product of {side}^3", f"{rate:.4g} TFLOP/s, {ms:.3f} ms", tflop_per_s=rate, ms=ms)


def _launches(record: Record, chosen: Options) -> None:
    count = _LAUNCHES_TINY if chosen.tiny else _LAUNCHES
    one = torch.zeros(1, device=chosen.device)
    for _ in range(10):
        one.add_(1)
    settle(chosen.device)
    began = time.perf_counter()
    for _ in range(count):
        one.add_(1)
    host = 1e6 * (time.perf_counter() - began) / count
    settle(chosen.device)
    whole = 1e6 * (time.perf_counter() - began) / count
    told = f"{host:.2f} us to queue, {whole:.2f} us to the end, each of {count} queued"
    record.add("one launch", told, queue_us=host, whole_us=whole, count=count)


def _waits(record: Record, chosen: Options) -> None:
    count = _LAUNCHES_TINY if chosen.tiny else _LAUNCHES
    one = torch.zeros(1, device=chosen.device)
    settle(chosen.device)
    began = time.perf_counter()
    for _ in range(count):
        settle(chosen.device)
    idle = 1e6 * (time.perf_counter() - began) / count
    began = time.perf_counter()
    for _ in range(count):
        one.item()
    read = 1e6 * (time.perf_counter() - began) / count
    began = time.perf_counter()
    for _ in range(count):
        one.add_(1)
        settle(chosen.device)
    launched = 1e6 * (time.perf_counter() - began) / count
    told = (
        f"{idle:.2f} us on an idle device, {launched:.2f} us with one launch before it, {read:.2f} us to read a number"
    )
    record.add("one wait", told, idle_us=idle, launched_us=launched, item_us=read)


if __name__ == "__main__":
    main()
