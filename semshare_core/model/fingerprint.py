"""The identity of a loaded model and its tokenizer: keys and values of any other are wrong."""

from __future__ import annotations

import json
from hashlib import blake2b

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core.fingerprint import Fingerprint
from semshare_core.model.weights.parts import plain_parts

_SAMPLED = 1024  # values of each weight tensor


def fingerprint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, embedding: str, *, weights: str | None = None
) -> Fingerprint:
    """Describe a loaded model, and the ``embedding`` by which its prompts are searched.

    The place that the weights were loaded from does not count.

    Args:
        weights: names the weights by all their bytes (:meth:`semshare_core.model.weights.Weights.base`). None: they are
            named by 1,024 evenly spaced values of every tensor. This shows other weights under the same configuration,
            but not an edit of single values. Of weights that are offloaded to the disk only names and shapes count.
    """
    config = {
        name: value
        for name, value in model.config.to_dict().items()
        if not name.startswith("_") and name not in ("transformers_version", "dtype", "torch_dtype")
    }
    return Fingerprint(
        {
            "architecture": type(model).__name__,
            "config": _digest(json.dumps(config, sort_keys=True, default=str).encode()),
            "weights": _weights(model) if weights is None else weights,
            "tokenizer": _tokenizer(tokenizer),
            "dtype": str(model.dtype).removeprefix("torch."),
            "embedding": embedding,
        }
    )


@torch.no_grad()
def _weights(model: PreTrainedModel) -> str:
    digest = blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            continue
        for suffix, part in plain_parts(tensor):
            digest.update(f"{name}{suffix} {part.dtype} {list(part.shape)}\n".encode())
            if part.device.type != "meta":
                digest.update(_sample(part))
    return digest.hexdigest()


def _sample(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    step = max(1, flat.numel() // _SAMPLED)
    return flat[::step].contiguous().cpu().view(torch.uint8).numpy().tobytes()


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        vocabulary = sorted(tokenizer.get_vocab().items())
        return _digest(json.dumps([type(tokenizer).__name__, vocabulary]).encode())
    # Padding and truncation are state that calls leave behind. They are cut out of the text, because parsing it takes
    # ten times as long as all the rest.
    before, _, rest = core.to_str().partition('"truncation":')
    return _digest((before + rest.partition('"added_tokens":')[2]).encode())


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
