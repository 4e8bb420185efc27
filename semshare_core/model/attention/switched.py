"""Attention functions of ours in the place of ``sdpa``, for a while.

transformers looks a model's attention function up by the name in its config. Ours take the masks that ``sdpa`` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from semshare_core.process.forking import undone


def register(name: str, attend: Callable[..., Any]) -> None:
    """Make ``attend`` known under ``name``; it is called as ``sdpa_attention_forward`` is."""
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)


def switchable(model: PreTrainedModel) -> bool:
    """Whether ``model`` looks its attention function up when it runs; some (Falcon) fix it when they are built."""
    return model._can_set_attn_implementation()


@contextmanager
def switched_attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Within the context ``model`` attends by the function called ``name``."""
    before = model.config._attn_implementation
    with undone(lambda: model.set_attn_implementation(before)):
        model.set_attn_implementation(name)
        yield


@contextmanager
def config_switched(model: PreTrainedModel, name: str) -> Iterator[None]:
    """As :func:`switched_attention`, for a model that is known to take ``name``: nothing is checked, and that is fast.

    Only the decoder's configurations are switched; what else the model has keeps its attention.
    """
    whole = (model.config, model.base_model.config, model.config.get_text_config(decoder=True))
    configs = list({id(config): config for config in whole}.values())
    before = [config._attn_implementation for config in configs]

    def switch(names: list[str | None]) -> None:
        for config, own in zip(configs, names, strict=True):
            config._attn_implementation = {"": own}  # not those of its parts

    with undone(lambda: switch(before)):
        switch([name] * len(configs))
        yield
