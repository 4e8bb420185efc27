"""Is it the same answer? How near, and which tests cannot be asked, on each device and in each dtype (``tiny_models``).

float32 is compared by a number. In bfloat16 a random model rounds away much of its answer, how much differs from model
to model, and no order of computation is the right one. So the answer of the same weights in float32 decides: a prefill
with right rows may err from it as the model's own plain pass does, and a few times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from semshare_core.model.attention.bit_blocks import block_of
from semshare_core.tokens import Tokens
from tiny_models import DEVICE, DTYPE
from tiny_reuse import full_logits

LOW = DTYPE.itemsize < 4
ON_CPU = DEVICE.type == "cpu"
NAME = f"{str(DTYPE).removeprefix('torch.')} on {DEVICE.type}"

TOLERANCE = 1e-4 if ON_CPU else 1e-3
"""Of logits in float32. Kernels of accelerators sum in other orders for other numbers of rows."""

FACTOR = 4.0
"""How much further from float32 than the model's own pass in bfloat16 a right answer may lie."""

_ROWS = 32  # the model's own error is the largest of so many tokens': that of one token may be small by chance
_exact: WeakKeyDictionary[PreTrainedModel, PreTrainedModel] = WeakKeyDictionary()


# --- tests that cannot be asked ----------------------------------------------------------------------------------


def needs_float32(reason: str) -> pytest.MarkDecorator:
    """For tests whose claim holds in float32 only."""
    return pytest.mark.skipif(LOW, reason=f"{NAME}: {reason}")


def cpu_only(reason: str) -> pytest.MarkDecorator:
    """For tests of what is done on the CPU only."""
    return pytest.mark.skipif(not ON_CPU, reason=f"{NAME}: {reason}")


def not_low_on_cpu(reason: str) -> pytest.MarkDecorator:
    """For tests of what bfloat16 on the CPU does otherwise, and float32 and accelerators do alike."""
    return pytest.mark.skipif(LOW and ON_CPU, reason=f"{NAME}: {reason}")


def short_prefixes(model: PreTrainedModel) -> bool:
    """Whether ``exact`` takes a prefix of any length."""
    return block_of(model) == 1


def not_low_on_accelerators(reason: str) -> pytest.MarkDecorator:
    """For tests that compare what was computed in passes of other numbers of rows, and follow the last bits."""
    return pytest.mark.skipif(LOW and not ON_CPU, reason=f"{NAME}: {reason}")


short_prefixes_serve = not_low_on_cpu("exact takes whole blocks of 512 keys only, which test_bit_identity is about")


def same_numbers(found: Tensor, expected: Tensor) -> bool:
    """On the CPU bit for bit. An accelerator's kernels may round otherwise than the same operations one by one."""
    if ON_CPU:
        return torch.equal(found, expected)
    return bool((found.float() - expected.float()).abs().max() <= TOLERANCE * expected.float().abs().max().clamp_min(1))


# --- logits ------------------------------------------------------------------------------------------------------


def far_from_full(logits: Tensor, model: PreTrainedModel, tokens: Tokens | Sequence[int]) -> float:
    """How far ``logits`` [k or nothing, vocabulary] lie from a full prefill's of the last tokens: 1 is the bound."""
    found = logits.reshape(-1, logits.shape[-1])
    if not LOW:
        return float((found - full_logits(model, tokens, len(found))).abs().max()) / TOLERANCE
    rows = min(len(tokens), max(_ROWS, len(found)))
    exact = full_logits(_in_float32(model), tokens, rows)
    own = _distances(full_logits(model, tokens, rows), exact).max()
    return float(_distances(found, exact[-len(found) :]).max() / (FACTOR * own))


def assert_full(logits: Tensor, model: PreTrainedModel, tokens: Tokens | Sequence[int]) -> None:
    """``logits`` [k or nothing, vocabulary] are those of a full prefill's last tokens."""
    far = far_from_full(logits, model, tokens)
    assert far <= 1, f"{far:.3g} times the distance that {NAME} may have"


def own_error(model: PreTrainedModel, tokens: Tokens | Sequence[int], last: int) -> float:
    """How far the model's own pass lies from float32, in the mean over the logits of the last tokens."""
    exact = full_logits(_in_float32(model), tokens, last)
    return float((full_logits(model, tokens, last).float() - exact).abs().mean())


def _in_float32(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of ``model`` that computes in float32 with the same weights."""
    if model not in _exact:
        _exact[model] = deepcopy(model).float()
    return _exact[model]


def assert_close(found: Tensor, expected: Tensor, atol: float = TOLERANCE) -> None:
    """Tensors of the same numbers, which may have been computed in another order."""
    torch.testing.assert_close(found, expected, atol=_low_atol(expected) if LOW else atol, rtol=0)


def _low_atol(expected: Tensor) -> float:
    """Rounding of the largest number to the bits of the dtype, a few times."""
    return 8 * torch.finfo(DTYPE).eps * float(expected.abs().max())


def _distances(found: Tensor, exact: Tensor) -> Tensor:
    """Root mean square of the difference, for each row."""
    return (found.float() - exact).square().mean(dim=-1).sqrt()


# --- tokens ------------------------------------------------------------------------------------------------------


def assert_greedy(found: Sequence[int], model: PreTrainedModel, prompt: Tokens | Sequence[int], tokens: int) -> None:
    """``found`` is what ``model.generate`` answers to ``prompt`` in so many ``tokens``.

    bfloat16 on an accelerator rounds by the number of rows: there each token must be the likeliest within the model's
    own error, which is measured as for logits.
    """
    prompt = [int(token) for token in prompt]
    if not LOW or ON_CPU:
        ids = torch.tensor([prompt], device=model.device)
        with torch.no_grad():
            made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
        assert list(found) == made[0, len(prompt) :].tolist()
        return
    assert len(found) == tokens or found[-1] == model.generation_config.eos_token_id
    said = prompt + list(found)
    exact = full_logits(_in_float32(model), said, len(found) + 1)[:-1]
    own = _distances(full_logits(model, said, len(found) + 1)[:-1], exact).max()
    chosen = exact.gather(1, torch.tensor(list(found), device=exact.device)[:, None])[:, 0]
    behind, bound = float((exact.max(dim=-1).values - chosen).max()), float(2 * FACTOR * own)
    assert behind <= bound, f"a token lies {behind:.3g} behind the likeliest; {NAME} explains {bound:.3g}"
