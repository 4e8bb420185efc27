"""RMS norms in one launch, for passes that are captured.

transformers writes a norm (arXiv 1910.07467) as eight operations, and a model of 32 layers has 65 norms: a quarter of a
pass's launches. PyTorch has a function that does all of it at once. A module is fused only if that function gives, for
random rows, what the module gives; in half precision it rounds once instead of twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

_ROWS = 4
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2**-9, torch.bfloat16: 2**-6}  # relative to the largest number


class Norm(NamedTuple):
    """A module that is an RMS norm, and what it adds to the mean of squares."""

    module: nn.Module
    eps: float


@torch.no_grad()
def rms_norms(model: nn.Module) -> list[Norm]:
    """The norms of ``model`` that PyTorch's function computes alike."""
    found = []
    for module in model.modules():
        weight = module._parameters.get("weight")
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if "RMSNorm" not in type(module).__name__ or weight is None or weight.dim() != 1 or not isinstance(eps, float):
            continue
        norm = Norm(module, eps)
        if weight.dtype in _TOLERANCE and "forward" not in module.__dict__ and _alike(norm, weight):
            found.append(norm)
    return found


def _alike(norm: Norm, weight: Tensor) -> bool:
    generator = torch.Generator(weight.device).manual_seed(0)
    rows = torch.randn((1, _ROWS, len(weight)), generator=generator, device=weight.device).to(weight.dtype)
    try:
        own, fused = norm.module(rows).float(), _fused(norm, rows).float()
    except Exception:  # it takes more than rows
        return False
    return bool((own - fused).abs().max() <= _TOLERANCE[weight.dtype] * own.abs().max())


def _fused(norm: Norm, rows: Tensor) -> Tensor:
    weight = norm.module.weight
    assert isinstance(weight, Tensor)
    return torch.nn.functional.rms_norm(rows, weight.shape, weight, norm.eps)


@contextmanager
def fused(norms: Sequence[Norm]) -> Iterator[None]:
    """Within the context the modules compute by PyTorch's function in this thread."""
    for norm in norms:
        norm.module.__dict__["forward"] = partial(_fused_in, threading.get_ident(), norm, norm.module.forward)
    try:
        yield
    finally:
        for norm in norms:
            del norm.module.__dict__["forward"]


def _fused_in(thread: int, norm: Norm, own: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    return _fused(norm, rows) if threading.get_ident() == thread else own(rows)
