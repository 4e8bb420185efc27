"""Keys kept before RoPE instead of behind it: how near both come to the key that the new position asks for."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean

import torch
from torch import Tensor

from benchmarks.corpora.bible import chapter_texts
from benchmarks.measure import full_prefill
from benchmarks.sections.figure import Figure, Run
from semshare_core.model.rotary import Rotation
from semshare_core.model.spec import measure_spec

TOKENS, SHIFTS = 1000, (1, 700, 3000)
DTYPES = (torch.bfloat16, torch.float16)


def before_rope(run: Run) -> Iterator[Figure]:
    """A key behind RoPE is rounded, turned and rounded again; one before RoPE is rounded, turned and rounded, too."""
    engine = run.engine
    text = " ".join(chapter_texts("web")[:4])
    ids = torch.tensor([engine.token_ids(text)[: run.tokens(TOKENS)]], device=engine.model.device)
    layers = full_prefill(engine.model, ids)[2].layers
    at = torch.arange(ids.shape[1], device=ids.device)
    for dtype in DTYPES:
        behind, before = [], []
        for rotation, layer in zip(measure_spec(engine.model).rotations, layers, strict=True):
            for shift in SHIFTS:
                by = torch.full_like(at, shift)
                true = _turned(rotation, layer.keys, by)
                raw = _turned(rotation, layer.keys, -at)
                behind.append(_error(_turned(rotation, layer.keys.to(dtype), by), true))
                before.append(_error(_turned(rotation, raw.to(dtype), at + by), true))
        told = f"relative error {mean(behind):.1e} kept behind RoPE, {mean(before):.1e} before it"
        yield Figure(f"keys in {str(dtype).removeprefix('torch.')}, moved", told)


def _turned(rotation: Rotation, keys: Tensor, shift: Tensor) -> Tensor:
    turned = keys.clone()
    rotation.turn_(turned, rotation.angles(shift))
    return turned


def _error(keys: Tensor, true: Tensor) -> float:
    return float((keys.float() - true).norm() / true.norm())
