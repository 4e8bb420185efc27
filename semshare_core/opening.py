"""Open the pool that fits a model: its folder on disk, where its layers compute, what its attention costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core.config import PoolConfig
from semshare_core.pool.disk.fingerprint import fingerprint
from semshare_core.pool.disk.folder import PoolFolder
from semshare_core.pool.pool import ReferencePool


def open_pool(
    config: PoolConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, devices: Sequence[torch.device]
) -> ReferencePool:
    """A pool for ``model``; with ``config.path`` it holds what that folder keeps of this very model.

    Raises:
        PoolLockedError: another process owns the folder.
        PoolFileError: the folder cannot be used.
    """
    folder = None
    if config.path is not None:
        folder = PoolFolder(config.path, fingerprint(model, tokenizer), read_only=config.read_only)
    return ReferencePool(config, folder=folder, devices=devices, attention_equals=_attention_equals(model))


def _attention_equals(model: PreTrainedModel) -> float:
    """Position at which a token's attention (4 x layers x width x position operations) costs as much as its weights
    (2 operations each)."""
    config = model.config.get_text_config(decoder=True)
    return model.num_parameters() / (2 * config.num_hidden_layers * config.hidden_size)
