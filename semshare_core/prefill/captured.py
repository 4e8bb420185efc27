"""Passes as CUDA graphs: a pass over a few hundred rows costs the card less than it costs the processor to ask for it.

A pass of an 8-billion model is some 1,500 small operations, and transformers takes 20 ms and more to launch them one by
one, whatever they compute. A CUDA graph launches them at once, but reads and writes the same addresses every time. So
calls take turns with one *home*: buffers for keys and values with room for any prompt so far. Attention by rows needs
no shape that depends on the prompt: a graph is made for a number of rows (a few sizes; the rest is padding, written
into a row behind the prompt's), and serves prompts of any length.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from semshare_core.errors import SemShareError
from semshare_core.model.attention.by_rows import chosen
from semshare_core.model.spec import ModelSpec
from semshare_core.prefill.cache import MergedCache, to_torch
from semshare_core.prefill.forward import Parts, Positions, RowForward
from semshare_core.prefill.fused_norms import fused, rms_norms
from semshare_core.process.forking import free
from semshare_core.process.interrupt import NEVER, Interrupt

MOST_ROWS = 4096
"""A pass over more rows keeps the card busy without a graph."""
_GRAPHS = 32
_ONE_CAPTURE = free(threading.Lock())  # PyTorch makes one graph at a time
_log = logging.getLogger(__name__)
_HOME_STEP = 4096


class CapturedPasses:
    """The graphs of one model with its present weights, and the home that they compute in. Needs the model's lock.

    Attributes:
        computing: whether the model's code runs for one of the passes just now.
    """

    def __init__(self, model: PreTrainedModel, spec: ModelSpec, forward: RowForward, *, keeps_logits: bool) -> None:
        self._model = model
        self._spec = spec
        self._forward = forward
        self._keeps_logits = keeps_logits
        self._norms = rms_norms(model)
        self._like: list[tuple[Tensor, Tensor]] = []
        self._home: list[tuple[Tensor, Tensor]] = []
        self._holder: weakref.ref[MergedCache] | None = None
        self._passes: OrderedDict[tuple[str, int], _Pass] = OrderedDict()
        self._memory: Any = None  # PyTorch's name of the graphs' memory
        self._stream: torch.cuda.Stream | None = None
        self._capturing: torch.cuda.Stream | None = None
        self.computing = False

    def new_cache(self, capacity: int, interrupt: Interrupt) -> MergedCache:
        """A cache for ``capacity`` rows, at home if nobody else lives there."""
        cache = MergedCache(len(self._spec.layers), capacity, interrupt)
        if self._like and not self._lent and self._has_room(capacity):
            cache.live_in(self._home, self._capacity)
            self._holder = weakref.ref(cache)
            self._follow_stream()
        return cache

    def drop(self) -> None:
        """Give back all memory; an answer that is being made keeps its rows."""
        self._passes.clear()
        self._memory, self._holder, self._home = None, None, []

    def learn(self, cache: MergedCache) -> None:
        """Learn from a filled cache what a home must be like."""
        if not self._like and all(layer.is_initialized for layer in cache.layers):
            self._like = [(keys[:, :, :0].clone(), values[:, :, :0].clone()) for keys, values in cache.rows(0)]

    def serves(self, cache: object, n_rows: int) -> bool:
        """Whether a pass over ``n_rows`` rows of ``cache`` can be one of these."""
        holder = self._holder() if self._holder is not None else None
        ours = holder is not None and holder is cache and holder.at_home(self._home)
        return ours and 0 < n_rows <= MOST_ROWS and not torch.is_autocast_enabled("cuda")

    def logits(self, cache: MergedCache, ids: Tensor, positions: Positions) -> Tensor:
        """Compute rows of ``ids`` [n] into ``cache``. Returns the logits [vocabulary] behind the last; read them soon.

        ``positions`` are ascending. Rows that they read and that are not among them are in the cache.
        """
        there = ids.index_select(0, to_torch(positions, ids.device))
        return self._logits(cache, there, positions)

    def step(self, cache: MergedCache, token: Tensor, position: int) -> Tensor:
        """The logits [vocabulary] behind ``token`` [1], whose row is computed into ``cache`` at ``position``."""
        return self._logits(cache, token, np.array([position]))

    def _logits(self, cache: MergedCache, ids: Tensor, positions: Positions) -> Tensor:
        taken = self._pass("logits", len(positions))
        taken.load(ids, positions, self._capacity)

        def compute() -> Tensor:
            more = {"logits_to_keep": 1} if self._keeps_logits else {}
            logits: Tensor = self._run(cache, taken, self._model, **more).logits[0, -1]
            return logits

        return self._play(taken, cache, compute)

    def influence(self, cache: MergedCache, ids: Tensor, tail: Positions, *, restore: bool) -> NDArray[np.float64]:
        """The influences that :func:`semshare_core.prefill.attention_probe.watch_tail` sees, summed over the layers.

        ``restore``: the rows at ``tail`` are to be what they were; otherwise they are those that were watched.
        """
        from semshare_core.prefill.influence_kernel import add_influence  # only here is Triton wanted

        taken = self._pass("influence restored" if restore else "influence", len(tail))
        taken.load(ids[int(tail[0]) : int(tail[-1]) + 1], tail, self._capacity)
        deepest = len(self._spec.layers) - 1

        def compute() -> Tensor:
            total = torch.zeros(self._capacity, dtype=torch.float32, device=taken.device)

            def add(layer: int, query: Tensor, key: Tensor, value: Tensor, sums: Tensor, scale: float) -> None:
                times = 2.0 if layer == deepest - 1 else 1.0  # the pass ends before the deepest layer attends
                add_influence(total, query, key, value, sums, taken.positions, scale, chosen.window, times)

            where = taken.written
            home = self._home if restore else []
            saved = [tuple(buffer.index_select(2, where) for buffer in pair) for pair in home]
            chosen.watch = add
            try:
                self._run(cache, taken, None)
            finally:
                chosen.watch = None
            for pair, rows in zip(home, saved, strict=True):
                for buffer, before in zip(pair, rows, strict=True):
                    buffer.index_copy_(2, where, before)
            return total

        return self._play(taken, cache, compute)[: len(ids)].cpu().double().numpy()

    # --- the home -----------------------------------------------------------------------------------------------------

    @property
    def _capacity(self) -> int:
        return self._home[0][0].shape[2] - 1 if self._home else 0

    @property
    def _lent(self) -> bool:
        holder = self._holder() if self._holder is not None else None
        return holder is not None and holder.at_home(self._home)

    def _has_room(self, capacity: int) -> bool:
        """Whether the home has room for ``capacity`` rows, now or after it was built anew."""
        if capacity > self._capacity:
            try:
                self._build(-(-capacity // _HOME_STEP) * _HOME_STEP)
            except torch.OutOfMemoryError:  # a cache of the very size may fit
                self.drop()
                return False
        return True

    def _follow_stream(self) -> None:
        """Let this thread's stream wait for that of the last call, which may still read its rows."""
        if self._home[0][0].device.type != "cuda":
            return
        now = torch.cuda.current_stream()
        if self._stream is not None and self._stream != now:
            now.wait_stream(self._stream)
        self._stream = now

    def _build(self, capacity: int) -> None:
        self.drop()  # before the larger one is made
        self._home = [
            (keys.new_zeros(_with_rows(keys, capacity + 1)), values.new_zeros(_with_rows(values, capacity + 1)))
            for keys, values in self._like
        ]

    # --- the graphs ---------------------------------------------------------------------------------------------------

    def _pass(self, kind: str, n_rows: int) -> _Pass:
        key = (kind, _padded(n_rows) if kind == "logits" else n_rows)
        if key not in self._passes:
            self._passes[key] = _Pass(key[1], self._home[0][0].device)
            while len(self._passes) > _GRAPHS:
                self._passes.popitem(last=False)
        self._passes.move_to_end(key)
        return self._passes[key]

    def _run(self, cache: MergedCache, taken: _Pass, module: nn.Module | None, **more: object) -> Any:
        n_layers = len(self._spec.layers)
        parts = Parts.everywhere(taken.positions, n_layers)
        cache.begin([taken.written] * n_layers, self._capacity, n_layers - 1 if module is None else None)
        with fused(self._norms), self._forward.hooks(parts, self._capacity):
            return self._forward.call(cache, taken.ids, taken.positions, module, **more)

    def _play(self, taken: _Pass, cache: MergedCache, compute: Callable[[], Tensor]) -> Tensor:
        """The first time step by step, then as a graph."""
        cache.interrupt.check()
        cache.settle()
        length, interrupt, cache.interrupt = cache.layers[0].length, cache.interrupt, NEVER
        self.computing = True
        try:
            if taken.graph is None and taken.tried == 1:
                self._capture(taken, compute)
            taken.tried += 1
            if taken.graph is None:
                return compute()
            taken.graph.replay()
            return taken.output
        finally:
            self.computing, cache.interrupt = False, interrupt
            cache.finish(length)

    def _capture(self, taken: _Pass, compute: Callable[[], Tensor]) -> None:
        """Make the graph of a pass; of code that looks at numbers while it runs there can be none."""
        graph, capturing = torch.cuda.CUDAGraph(), self._capturing or torch.cuda.Stream(taken.device)
        self._capturing = capturing
        try:
            with _ONE_CAPTURE, torch.cuda.graph(graph, self._memory, capturing, capture_error_mode="thread_local"):
                taken.output = compute()
        except SemShareError:
            raise
        except Exception as error:  # transformers' code may fail in any way; step by step it tells what is wrong
            _log.info("a pass over %d rows is computed step by step: %s", len(taken.ids), error)
            return
        self._memory = self._memory or graph.pool()
        taken.graph = graph


class _Pass:
    """What a graph reads and writes: token ids, their positions, and where their rows go, all [rows]."""

    def __init__(self, n_rows: int, device: torch.device) -> None:
        self.device = device
        self.ids = torch.zeros(n_rows, dtype=torch.int64, device=device)
        self._numbers = torch.zeros((2, n_rows), dtype=torch.int64, device=device)
        self.positions, self.written = self._numbers
        self.output = torch.empty(0)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.tried = 0

    def load(self, ids: Tensor, positions: Positions, spare: int) -> None:
        """Padding comes first: it is computed at the first position, and written into the row ``spare``."""
        padding = len(self.ids) - len(positions)
        numbers = np.full((2, len(self.ids)), (positions[0],), dtype=np.int64)
        numbers[1] = spare
        numbers[:, padding:] = positions
        self._numbers.copy_(to_torch(numbers), non_blocking=True)
        self.ids[padding:] = ids


def _padded(n_rows: int) -> int:
    """The sizes of graphs: 1, 16, and multiples of 64 and 256."""
    if n_rows <= 16:
        return 1 if n_rows == 1 else 16
    step = 64 if n_rows <= 1024 else 256
    return -(-n_rows // step) * step


def _with_rows(like: Tensor, rows: int) -> Sequence[int]:
    return (*like.shape[:2], rows, like.shape[3])
