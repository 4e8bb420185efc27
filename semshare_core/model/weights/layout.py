"""Where a model keeps what its rows depend on: its tensors by name, and the plain settings of its modules."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from semshare_core.model.weights import adapters
from semshare_core.model.weights.parts import plain_parts

_MOST_ITEMS = 64  # of a setting that is a list or dict
_OF_TRAINING = ("training", "gradient_checkpointing")  # requests compute in eval mode
_TENSORS = ("_parameters", "_buffers")


NamedTensor = tuple[str, Tensor, bool]
"""A plain tensor of a model: its name, such as ``.model.layers.0.mlp.up_proj.weight``, and whether it is a buffer."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What there is to look at in a model, as long as its modules and their plain settings stay what they are.

    Attributes:
        types: of all modules, in the order of :func:`all_modules`.
        counts: parameters and buffers of each.
        slots: where tensors are: the module's place, ``_parameters`` or ``_buffers``, the key, and the name.
        settings: where plain settings are: the module's place and the attribute; ``values`` has them. For example
            ``(7, "scaling")`` and 0.125.
        digest: of names and settings.
    """

    types: list[type]
    counts: list[int]
    slots: list[tuple[int, str, str, str]]
    settings: list[tuple[int, str]]
    values: list[Any]
    digest: str = field(repr=False)

    @classmethod
    def of(cls, model: PreTrainedModel, *, moving: bool, with_adapters: bool = True) -> Layout:
        """The layout of ``model``. ``moving``: its rotary frequencies change by themselves and are left out."""
        types, counts, slots, settings, lines = [], [], [], [], []
        for place, (name, module, only) in enumerate(_named_modules(model, with_adapters=with_adapters)):
            types.append(type(module))
            counts.append(_count(module))
            adapter = adapters.state(module) if with_adapters else adapters.OFF if adapters.is_layer(module) else None
            watched = adapters.settings(module) if adapter is not None else _settings(module)
            settings += [(place, attribute) for attribute in watched]
            if name is None or (moving and hasattr(module, "rope_type")):
                continue
            if adapter is None:
                lines.append(f"{name} {type(module).__qualname__} {_code_name(type(module).forward)}")
                lines += [f"{name}.{attribute}={module.__dict__[attribute]!r}" for attribute in watched]
            elif adapter != adapters.OFF:
                lines.append(f"{name} {type(module).__qualname__} {adapter}")
            for kind in _TENSORS:
                keys = [key for key in module.__dict__[kind] if only is None or key in only]
                slots += [(place, kind, key, f"{name}.{key}") for key in keys]
        values = _values(list(all_modules(model)), settings)
        copies = [copy.deepcopy(value) if is_plain(value) else copy.copy(value) for value in values]
        return cls(types, counts, slots, settings, copies, digest(lines))

    def fits(self, modules: list[nn.Module]) -> bool:
        """Whether the model has still these modules with these settings."""
        try:
            return (
                self.types == list(map(type, modules))
                and self.counts == list(map(_count, modules))
                and self.values == _values(modules, self.settings)
            )
        except (RuntimeError, ValueError):  # a list of numbers has become one of tensors, which do not compare
            return False

    def tensors(self, modules: list[nn.Module]) -> list[NamedTensor]:
        """Parameters and buffers; of quantised ones the tensors that they are made of."""
        dicts = [module.__dict__ for module in modules]
        return [
            (name + suffix, part, kind == "_buffers")
            for place, kind, key, name in self.slots
            if (tensor := dicts[place][kind].get(key)) is not None
            for suffix, part in plain_parts(tensor)
        ]


def all_modules(model: nn.Module) -> Iterator[nn.Module]:
    """All modules, in an order that holds as long as they do; several times as fast as ``model.modules()``."""
    waiting = [model]
    while waiting:
        module = waiting.pop()
        yield module
        waiting.extend(child for child in module.__dict__["_modules"].values() if child is not None)


def _named_modules(
    model: nn.Module, *, with_adapters: bool
) -> Iterator[tuple[str | None, nn.Module, frozenset[str] | None]]:
    """The modules of :func:`all_modules`, each with a name and the keys of its children and tensors that count.

    An adapter does not change the names: the layer inside of an adapting one has the name of that one. The name is None
    if a module computes nothing now, as the parts of an adapter that is off. The keys are None if all count; of a dict
    of adapters' parts those of the active adapters count.
    """
    waiting: list[tuple[str | None, nn.Module, frozenset[str] | None]] = [("", model, None)]
    while waiting:
        name, module, only = waiting.pop()
        yield name, module, only
        dicts, active = adapters.parts(module) if name is not None else ((), frozenset())
        active = active if with_adapters else frozenset()
        for key, child in module.__dict__["_modules"].items():
            if child is None:
                continue
            keys = active if key in dicts else None
            child_name = None if name is None or (only is not None and key not in only) else f"{name}.{key}"
            if key in adapters.WRAPPED and adapters.is_layer(module):
                child_name = name
            waiting.append((None if keys is not None and not keys else child_name, child, keys))


def _count(module: nn.Module) -> int:
    values = module.__dict__
    return len(values["_parameters"]) + len(values["_buffers"])


def _settings(module: nn.Module) -> list[str]:
    """Attributes with plain values, such as ``scaling``. A model's own say where it was loaded from and the like."""
    if isinstance(module, PreTrainedModel):
        return []
    return [
        name
        for name, value in module.__dict__.items()
        if not name.startswith("_") and name not in _OF_TRAINING and is_plain(value)
    ]


def is_plain(value: object) -> bool:
    """Whether a value is a number, a text, or a short list or dict of such."""
    if isinstance(value, dict | list | tuple):
        items = value.values() if isinstance(value, dict) else value
        return 0 < len(value) <= _MOST_ITEMS and all(map(is_plain, items))
    return isinstance(value, float | bool | str | int)


def _values(modules: list[nn.Module], settings: list[tuple[int, str]]) -> list[Any]:
    dicts = [module.__dict__ for module in modules]
    return [dicts[place].get(name) for place, name in settings]


def _code_name(code: Any) -> str:
    """Where a function was written; a class may have been given another ``forward``."""
    return f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', type(code).__qualname__)}"


def digest(texts: list[str]) -> str:
    """32 hexadecimal digits."""
    return blake2b("\n".join(texts).encode(), digest_size=16).hexdigest()
