"""Which weights, adapters and numerics compute rows now. Keys and values of any others are wrong.

A model changes under the engine's hands: adapters are added, switched, merged and disabled, weights are trained or
edited, hooks come and go, a caller enters autocast. So every request asks anew. To read all weights takes too long for
that, so this looks at what gives a change away: of every parameter and buffer the address, the version counter and
eight values, spread from the first to the last; of every module the plain settings (``scaling``, ``eps``); which
adapters are active; hooks and replaced ``forward`` methods; the attention's implementation and the numerics that
PyTorch was told to use. ``docs/pool.md`` says what it cannot see.
"""

from __future__ import annotations

import itertools
import uuid
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from xxhash import xxh3_128

from semshare_core.model.autocast import Autocast
from semshare_core.model.weights.configs import ConfigWatch
from semshare_core.model.weights.layout import Layout, all_modules, digest
from semshare_core.model.weights.marks import Mark, Sampler

_HASHED_AT_ONCE = 2**26  # bytes that are copied from an accelerator in one go
_REMEMBERED = 1000  # states of a model, so that it can come back to them
_FOR_ALL_MODULES = (every_module._global_forward_hooks, every_module._global_forward_pre_hooks)


class Weights:
    """Watches one model. Not thread-safe: hold the model's lock.

    Args:
        model: the model that computes rows.
        thorough: identities hold in other processes, too. They come from all bytes of the weights instead of their
            addresses: all are read once, and those of a tensor again after it changed.
        moving: the model's own code changes its rotary frequencies with the prompt's length.

    Attributes:
        structure: what positions and masks come from, as :meth:`identity` saw it last. When it changes, the model must
            be measured again.
        foreign_code: whether somebody's hooks or replaced methods run inside of the model, likewise.
    """

    def __init__(self, model: PreTrainedModel, *, thorough: bool, moving: bool = False) -> None:
        self._model = model
        self._thorough = thorough
        self._moving = moving
        self._process = uuid.uuid4().hex
        self._layout: Layout | None = None
        self._sampler = Sampler()
        self._seen: tuple[Any, ...] = ()
        self._identity = ""
        self.structure: tuple[Any, ...] = ()
        self.foreign_code = False
        self._hashes: dict[tuple[Any, ...], str] = {}
        self._replaced: list[tuple[object, int]] = []
        self._first: dict[type | str, object] = {}
        self._config = ConfigWatch(model)
        self._names: dict[str, str] = {}
        self._numbers = itertools.count()

    @torch.no_grad()
    def identity(self) -> str:
        """Name what would compute rows now, in the calling thread. Equal names mean equal weights and numerics.

        Beside a request that runs, its hooks count as a change: ask while you have the model's lock, or nothing runs.
        """
        modules = list(all_modules(self._model))
        layout = self._layout
        if layout is None or not layout.fits(modules):
            layout = self._layout = Layout.of(self._model, moving=self._moving)
        tensors = layout.tensors(modules)
        plain = [tensor for _, tensor, _ in tensors]
        marks = self._sampler.marks(plain)
        seen = (layout, marks, self._foreign_code(modules), self._numerics())
        if seen != self._seen:
            hashes = self._hashes_of(plain, marks) if self._thorough else map(repr, marks)
            lines = [layout.digest]
            for (name, tensor, _), content in zip(tensors, hashes, strict=True):
                lines.append(f"{name} {tensor.dtype} {list(tensor.shape)} {tensor.device.type} {content}")
            lines += map(repr, seen[2:])
            if self._thorough and any(seen[2]):
                lines.append(self._process)  # nobody can say whether another process has the same hooks
            self._seen, self._identity = seen, self._short_name(digest(lines))
            buffers = (mark for (_, _, is_buffer), mark in zip(tensors, marks, strict=True) if is_buffer)
            self.foreign_code = any(seen[2])
            self.structure = (self._config.changes(), *buffers)
        return self._identity

    @torch.no_grad()
    def base(self) -> str:
        """Name all bytes of the weights without their adapters, whichever of these are active."""
        layout = Layout.of(self._model, moving=self._moving, with_adapters=False)
        tensors = layout.tensors(list(all_modules(self._model)))
        marks = Sampler().marks([tensor for _, tensor, _ in tensors])
        lines = [layout.digest]
        for (name, tensor, _), mark in zip(tensors, marks, strict=True):
            lines.append(f"{name} {tensor.dtype} {list(tensor.shape)} {self._hash(tensor, mark)}")
        return digest(lines)

    def _short_name(self, name: str) -> str:
        """Numbers in the order of their coming, where names are made of addresses: another process may reuse these."""
        if self._thorough:
            return name
        if name not in self._names:
            self._names[name] = str(next(self._numbers))
            if len(self._names) > _REMEMBERED:
                del self._names[next(iter(self._names))]
        return self._names[name]

    def _hashes_of(self, tensors: list[Tensor], marks: list[Mark]) -> list[str]:
        """The checksums of tensors; those of tensors that are gone are forgotten."""
        keys = [_key(tensor, mark) for tensor, mark in zip(tensors, marks, strict=True)]
        self._hashes = {key: self._hashes[key] for key in keys if key in self._hashes}
        return [self._hash(tensor, mark) for tensor, mark in zip(tensors, marks, strict=True)]

    def _hash(self, tensor: Tensor, mark: Mark) -> str:
        key = _key(tensor, mark)
        if key not in self._hashes:
            self._hashes[key] = _checksum(tensor)
        return self._hashes[key]

    def _foreign_code(self, modules: list[nn.Module]) -> tuple[list[Any], list[Any]]:
        """The hooks of others, and the ``forward`` methods and attention that were replaced, each by a number."""
        hooks: list[Any] = [tuple(each) for each in _FOR_ALL_MODULES if each]
        replaced: list[tuple[object, int]] = []
        places: list[Any] = []
        for place, module in enumerate(modules):
            values = module.__dict__
            if values["_forward_hooks"] or values["_forward_pre_hooks"]:
                hooks.append((place, tuple(values["_forward_hooks"]), tuple(values["_forward_pre_hooks"])))
            if "forward" in values and "_hf_hook" not in values:  # accelerate's only moves tensors
                replaced.append(self._numbered(values["forward"]))
                places.append((place, replaced[-1][1]))
        attention = self._model.config.get_text_config(decoder=True)._attn_implementation or ""
        kinds: list[Any] = list(dict.fromkeys(map(type, modules)))
        shared: list[tuple[type | str, object]] = [(kind, kind.forward) for kind in kinds]
        for owner, code in [*shared, (attention, ALL_ATTENTION_FUNCTIONS.get(attention))]:
            if self._first.setdefault(owner, code) is not code:
                replaced.append(self._numbered(code))
                places.append((str(owner), replaced[-1][1]))
        self._replaced = replaced  # kept alive, so that no other object can have the address of one
        return hooks, places

    def _numbered(self, code: object) -> tuple[object, int]:
        known = next((known for known in self._replaced if known[0] is code), None)
        return known or (code, next(self._numbers))

    def _numerics(self) -> tuple[Any, ...]:
        config = self._model.config.get_text_config(decoder=True)
        attention = (self._model.config._attn_implementation, config._attn_implementation)
        return attention, self._config.changes(), torch.get_float32_matmul_precision(), Autocast.current()


def _key(tensor: Tensor, mark: Mark) -> tuple[Any, ...]:
    return tensor.device, tensor.dtype, tensor.shape, mark


def _checksum(tensor: Tensor) -> str:
    """The checksum of all bytes; there is none of weights that are offloaded to the disk."""
    checksum = xxh3_128()
    if not tensor.is_meta:
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        for block in flat.split(_HASHED_AT_ONCE):
            checksum.update(block.cpu().numpy().data)
    return checksum.hexdigest()
