"""Move keys to other positions: turn them by the difference, in float32. A shift of 0 changes no bit.

RoPE (arXiv 2104.09864) turns a key by an angle proportional to its position, so a key computed at position p serves
at p + d after a turn by d. The frequencies, the pairing of dimensions and how many of them a layer turns are *measured*
instead of read from configs: a prompt of one token attends only to itself, so its keys at two positions differ by the
position scheme alone. A scheme that explains them in every layer is right, whatever it is called (default, linear,
llama3, yarn, partial, interleaved, one per layer type, none). A model that no scheme explains is refused, for example
one with learned positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semshare_core.errors import UnsupportedModelError

_PROBE_POSITIONS = (1, 13, 101)


@dataclass(frozen=True)
class Rotation:
    """How one layer's keys turn with position.

    Attributes:
        frequencies: float32 [rotary_dim / 2], radians per position; None: keys do not depend on position.
        interleaved: pairs are (0, 1), (2, 3), ... instead of (0, d/2), (1, d/2 + 1), ...
    """

    frequencies: Tensor | None
    interleaved: bool = False

    def angles(self, shift: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines [m, rotary_dim / 2] of a shift [m] in positions."""
        if self.frequencies is None:
            return None
        turned = shift.to(torch.float32)[:, None] * self.frequencies.to(shift.device)
        return turned.cos(), turned.sin()

    def turn_(self, keys: Tensor, angles: tuple[Tensor, Tensor] | None) -> None:
        """Turn keys [..., m, head_dim] in place by :meth:`angles`."""
        if angles is None:
            return
        cos, sin = angles
        half = cos.shape[-1]
        turned = keys.to(torch.float32)
        if self.interleaved:
            a, b = turned[..., 0 : 2 * half : 2], turned[..., 1 : 2 * half : 2]
        else:
            a, b = turned[..., :half], turned[..., half : 2 * half]
        new_a = (a * cos).addcmul_(b, sin, value=-1)
        b.mul_(cos).addcmul_(a, sin)
        a.copy_(new_a)
        if turned is not keys:
            keys.copy_(turned)


def find_rotations(
    model: nn.Module, keys_at: Callable[[int], list[Tensor]], limit: int | None = None
) -> list[Rotation]:
    """Measure the rotation of every layer.

    Args:
        model: its buffers named ``*inv_freq`` are the candidate frequencies.
        keys_at: per-layer keys [1, kv_heads, 1, head_dim] of a fixed one-token prompt at a position.
        limit: positions from here on turn by other frequencies and are not probed; None: there is no such place.

    Raises:
        UnsupportedModelError: no candidate explains how a layer's keys change with position.
    """
    # the probes come first: they reset frequencies that grew with an earlier, longer prompt
    base = keys_at(0)
    probes = [position for position in _PROBE_POSITIONS if limit is None or position < limit] or [1]
    moved = {position: keys_at(position) for position in probes}
    candidates = _candidates(model)
    rotations = []
    for layer, keys in enumerate(base):
        errors = [
            max(_relative_error(candidate, keys, later[layer], position) for position, later in moved.items())
            for candidate in candidates
        ]
        if min(errors) > (1e-3 if keys.dtype == torch.float32 else 3e-2):
            raise UnsupportedModelError(
                f"the keys of layer {layer} change with position in a way that is not a known rotation "
                f"(relative error {min(errors):.2g}): learned or unknown positions cannot be moved. "
                "Use a model with rotary positions or ALiBi."
            )
        rotations.append(candidates[errors.index(min(errors))])
    return rotations


def _candidates(model: nn.Module) -> list[Rotation]:
    candidates = [Rotation(None)]
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq") and "original" not in name:
            frequencies = buffer.detach().to(torch.float32).clone()
            for either_way in (frequencies, -frequencies):  # NanoChat turns the other way round
                candidates += [Rotation(either_way), Rotation(either_way, interleaved=True)]
    return candidates


def _relative_error(rotation: Rotation, keys: Tensor, later: Tensor, position: int) -> float:
    if rotation.frequencies is not None and 2 * rotation.frequencies.numel() > keys.shape[-1]:
        return float("inf")
    shift = torch.tensor([position], device=keys.device)
    turned = keys.clone()
    rotation.turn_(turned, rotation.angles(shift))
    return float((turned.float() - later.float()).norm() / later.float().norm().clamp_min(1e-12))
