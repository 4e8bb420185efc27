"""Which weights, adapters and numerics compute rows now: keys and values of any others are of no use, and wrong.

A model changes under the engine's hands: adapters are added, switched, merged and disabled, weights are trained or
edited, hooks come and go, a caller enters autocast. So every call asks anew. To look at all weights takes too long for
that, and so the watch looks at what gives a change away: of every parameter and buffer its address, its version
counter and eight of its values, spread from the first to the last; of every module its plain settings (``scaling``,
``eps``); which adapters are active; hooks and replaced ``forward`` methods; the attention's implementation and the
numerics that PyTorch was told to use. What it cannot see is told in ``docs/pool.md``.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from xxhash import xxh3_128

from semshare_core.model.autocast import Autocast
from semshare_core.model.weights.configs import Configs
from semshare_core.model.weights.layout import Layout, all_modules, digest
from semshare_core.model.weights.marks import Mark, Sampler

_HASHED_AT_ONCE = 2**26  # bytes that are copied from an accelerator in one go
_REMEMBERED = 1000  # states of a model, so that it can come back to them
_FOR_ALL_MODULES = (every_module._global_forward_hooks, every_module._global_forward_pre_hooks)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Weights:
    """Watches one model. Not thread-safe: who asks has the model's turn.

    Args:
        model: whose rows they are.
        thorough: identities hold in other processes, too: they come from all bytes of the weights instead of from
            where these lie. All bytes are read once, and those of a tensor again after it changed.
        moving: the model's rotary frequencies change with the prompt's length, by the model's own doing.

    Attributes:
        structure: what positions and masks come from, as :meth:`identity` saw it last: other ones need another look at
            the model.
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
        self._hashes: dict[tuple[Any, ...], str] = {}
        self._replaced: list[tuple[object, int]] = []
        self._first: dict[type | str, object] = {}
        self._configs = Configs(model)
        self._names: dict[str, str] = {}
        self._numbers = itertools.count()

    @torch.no_grad()
    def identity(self) -> str:
        """Names what would compute rows now, in the calling thread; equal names mean equal weights and numerics."""
        modules = list(all_modules(self._model))
        layout = self._layout
        if layout is None or not layout.fits(modules):
            layout = self._layout = Layout.of(self._model, moving=self._moving)
        tensors = layout.tensors(modules)
        marks = self._sampler.marks(tensors)
        seen = (layout, marks, self._foreign_code(modules), self._numerics())
        if seen != self._seen:
            told = [layout.digest, *self._told(layout.names(modules), tensors, marks.each()), *map(repr, seen[2:])]
            if self._thorough and any(seen[2]):
                told.append(self._process)  # nobody can say whether another process has the same hooks
            self._seen, self._identity = seen, self._named(digest(told))
            self.structure = (self._configs.changes(), *layout.of_buffers(modules, marks.each()))
        return self._identity

    def _named(self, told: str) -> str:
        """Where addresses are told, names that tell no more than the order in which they came."""
        if self._thorough:
            return told
        if told not in self._names:
            self._names[told] = str(next(self._numbers))
            if len(self._names) > _REMEMBERED:
                del self._names[next(iter(self._names))]
        return self._names[told]

    @torch.no_grad()
    def base(self) -> str:
        """Names all bytes of the weights without their adapters, whichever of these are active."""
        modules = list(all_modules(self._model))
        layout = Layout.of(self._model, moving=self._moving, with_adapters=False)
        tensors = layout.tensors(modules)
        marks = Sampler().marks(tensors).each()
        hashes = (
            f"{name} {tensor.dtype} {list(tensor.shape)} {self._hash(tensor, mark)}"
            for name, tensor, mark in zip(layout.names(modules), tensors, marks, strict=True)
        )
        return digest([layout.digest, *hashes])

    def _told(self, names: list[str], tensors: list[Tensor], marks: list[Mark]) -> Iterator[str]:
        known = self._hashes
        if self._thorough:  # what left is forgotten
            keys = [_key(tensor, mark) for tensor, mark in zip(tensors, marks, strict=True)]
            self._hashes = {key: known[key] for key in keys if key in known}
        for name, tensor, mark in zip(names, tensors, marks, strict=True):
            content = self._hash(tensor, mark) if self._thorough else repr(mark)
            yield f"{name} {tensor.dtype} {list(tensor.shape)} {tensor.device.type} {content}"

    def _hash(self, tensor: Tensor, mark: Mark) -> str:
        key = _key(tensor, mark)
        if key not in self._hashes:
            self._hashes[key] = _content(tensor)
        return self._hashes[key]

    def _foreign_code(self, modules: list[nn.Module]) -> tuple[list[Any], list[Any]]:
        """The hooks of others, and what was replaced of ``forward`` methods and attention: by numbers of their own."""
        hooks: list[Any] = [tuple(each) for each in _FOR_ALL_MODULES if each]
        replaced: list[tuple[object, int]] = []
        found: list[Any] = []
        for place, module in enumerate(modules):
            values = module.__dict__
            if values["_forward_hooks"] or values["_forward_pre_hooks"]:
                hooks.append((place, *(tuple(values[name]) for name in _HOOKS)))
            if "forward" in values and "_hf_hook" not in values:  # accelerate's only moves tensors
                replaced.append(self._numbered(values["forward"]))
                found.append((place, replaced[-1][1]))
        attention = self._model.config.get_text_config(decoder=True)._attn_implementation or ""
        kinds: list[Any] = list(dict.fromkeys(map(type, modules)))
        shared: list[tuple[type | str, object]] = [(kind, kind.forward) for kind in kinds]
        for owner, code in [*shared, (attention, ALL_ATTENTION_FUNCTIONS.get(attention))]:
            if self._first.setdefault(owner, code) is not code:
                replaced.append(self._numbered(code))
                found.append((str(owner), replaced[-1][1]))
        self._replaced = replaced  # held, so that no other object can come to lie where one lay
        return hooks, found

    def _numbered(self, code: object) -> tuple[object, int]:
        for known in self._replaced:
            if known[0] is code:
                return known
        return code, next(self._numbers)

    def _numerics(self) -> tuple[Any, ...]:
        config = self._model.config.get_text_config(decoder=True)
        attention = (self._model.config._attn_implementation, config._attn_implementation)
        return attention, self._configs.changes(), torch.get_float32_matmul_precision(), Autocast.here()


def _key(tensor: Tensor, mark: Mark) -> tuple[Any, ...]:
    return tensor.device, tensor.dtype, tensor.shape, mark


def _content(tensor: Tensor) -> str:
    """The checksum of all bytes; of weights that are not in memory (offloaded to the disk) there is none."""
    found = xxh3_128()
    if not tensor.is_meta:
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        for block in flat.split(_HASHED_AT_ONCE):
            found.update(block.cpu().numpy().data)
    return found.hexdigest()
