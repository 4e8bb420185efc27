"""Which model, tokenizer and dtype keys and values belong to: those of any other are of no use, and wrong."""

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
    """Describe a loaded model, and by which ``embedding`` its prompts are searched.

    Where the weights came from does not count.

    Args:
        weights: names them (:meth:`semshare_core.model.weights.Weights.base`). None: of every weight tensor 1,024
            values are looked at, evenly spaced, so that other weights under the same configuration show; an edit of
            single values does not. Weights that are not in memory (offloaded to the disk) count by name and shape only.
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
    found = blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            continue
        for suffix, part in plain_parts(tensor):
            found.update(f"{name}{suffix} {part.dtype} {list(part.shape)}\n".encode())
            if part.device.type != "meta":
                found.update(_sample(part))
    return found.hexdigest()


def _sample(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    step = max(1, flat.numel() // _SAMPLED)
    return flat[::step].contiguous().cpu().view(torch.uint8).numpy().tobytes()


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        vocabulary = sorted(tokenizer.get_vocab().items())
        return _digest(json.dumps([type(tokenizer).__name__, vocabulary]).encode())
    # Padding and truncation are state that calls leave behind. They are cut out of the text: parsing it takes ten times
    # as long as all the rest.
    before, _, rest = core.to_str().partition('"truncation":')
    return _digest((before + rest.partition('"added_tokens":')[2]).encode())


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
