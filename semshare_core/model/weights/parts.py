"""What a tensor is made of: quantised ones are subclasses that hold packed values, scales and zero points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def plain_parts(tensor: Tensor) -> list[tuple[str, Tensor]]:
    """The plain tensors that hold a tensor's values, each with a name: itself, or what a quantised one is made of.

    An int8 weight of torchao gives ``[(".qdata", ...), (".scale", ...)]``, an ordinary one ``[("", tensor)]``.
    """
    made: Any = tensor
    if tensor.layout is not torch.strided:  # it has no address, and no model that is served here has any
        return []
    if type(tensor) in (Tensor, nn.Parameter, nn.Buffer) or not is_traceable_wrapper_subclass(made):
        return [("", tensor)]
    inner = ((name, getattr(made, name)) for name in made.__tensor_flatten__()[0])
    return [(f".{name}{suffix}", part) for name, value in inner for suffix, part in plain_parts(value)]
