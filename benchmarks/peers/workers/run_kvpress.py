"""kvpress: the prompt is prefilled in full, then the cache is thinned. Nothing is reused; references go unread.

A setting is a method and the share of the cache that it drops, as in `snapkv 0.42`:

- `snapkv`: SnapKV (arXiv 2404.14469), by the attention of the last 64 tokens
- `pyramidkv`: PyramidKV (2406.02069), the same with fewer rows the deeper the layer
- `observed`: observed attention, kvpress's H2O (2306.14048); it needs attention weights, hence the slow eager attention
- `chunkkv`: ChunkKV (2502.00299), runs of 20 tokens by SnapKV's scores
"""

from __future__ import annotations

import copy
from typing import Any

import plain
from answering import Answer, Clock, Options, serve
from kvpress import ChunkKVPress, ObservedAttentionPress, PyramidKVPress, SnapKVPress
from numpy.typing import NDArray

_METHODS = {
    "snapkv": lambda ratio: SnapKVPress(compression_ratio=ratio),
    "pyramidkv": lambda ratio: PyramidKVPress(compression_ratio=ratio),
    "observed": lambda ratio: ObservedAttentionPress(compression_ratio=ratio),
    "chunkkv": lambda ratio: ChunkKVPress(press=SnapKVPress(compression_ratio=ratio)),
}


class Kvpress:
    def __init__(self, options: Options) -> None:
        self.model = plain.load_model(options.model, options.threads)

    def full(self, target: list[int], continuation: list[int]) -> tuple[float, NDArray[Any]]:
        self.model.set_attn_implementation("sdpa")
        return plain.full(self.model, target, continuation)

    def load(self, setting: str, references: list[list[int]]) -> None:
        self.model.set_attn_implementation("eager" if setting.startswith("observed ") else "sdpa")

    def reuse(self, setting: str, target: list[int], continuation: list[int]) -> Answer:
        clock, logits, cache = self._thinned(setting, target)
        kept = plain.kv_bytes(cache)
        tokens = plain.greedy(self.model, logits, copy.deepcopy(cache), len(target))
        rows = plain.follow(self.model, logits, cache, len(target), continuation)
        return Answer(clock, rows, tokens, kept, plain.full_kv_bytes(self.model, len(target)))

    def again(self, setting: str, target: list[int]) -> float:
        return self._thinned(setting, target)[0].seconds

    def _thinned(self, setting: str, target: list[int]) -> tuple[Clock, Any, Any]:
        """The clock up to the first token, its logits and the cache."""
        method, ratio = setting.split()
        press = _METHODS[method](float(ratio))
        with Clock() as clock:
            with press(self.model):
                logits, cache = plain.prefill(self.model, target)
            int(logits.argmax())
        return clock, logits, cache


if __name__ == "__main__":
    serve(Kvpress)
