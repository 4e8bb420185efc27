"""Open the pool that fits a model: its folder on disk, where its layers compute, what its attention costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core.config import PoolConfig
from semshare_core.embed.encoder import Embed
from semshare_core.embed.identity import UNKNOWN_EMBEDDING, embedding_identity
from semshare_core.model.fingerprint import fingerprint
from semshare_core.model.weights import Weights
from semshare_core.pool.disk.folder import PoolFolder
from semshare_core.pool.pool import ReferencePool


def open_pool(
    config: PoolConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    devices: Sequence[torch.device],
    embedding: object,
    embed: Embed,
    weights: Weights,
) -> ReferencePool:
    """A pool for ``model``; with ``config.path`` it holds what that folder keeps of this very model.

    Args:
        devices: where each layer computes.
        embedding: what prompts are embedded by, as the engine was given it; ``embed``: the same as a function.
        weights: those of ``model``, as they can be named.

    Raises:
        PoolLockedError: another process owns the folder.
        PoolFileError: the folder cannot be used.
    """
    folder, again = None, None
    if config.path is not None:
        identity = embedding_identity(embedding)
        described = fingerprint(model, tokenizer, identity, weights=weights.base())
        folder = PoolFolder(config.path, described, read_only=config.read_only, codec=config.codec)
        again = embed if identity == UNKNOWN_EMBEDDING else None
    costs = _attention_equals(model)
    return ReferencePool(config, folder=folder, embed=again, devices=devices, attention_equals=costs)


def _attention_equals(model: PreTrainedModel) -> float:
    """Position at which a token's attention costs as much as its weights.

    Attention takes 4 x layers x width operations for each earlier token, the weights 2 for each parameter.
    """
    config = model.config.get_text_config(decoder=True)
    return model.num_parameters() / (2 * config.num_hidden_layers * config.hidden_size)
