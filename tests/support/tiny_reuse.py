"""What the tests of the engine share: reference rows made by plain transformers, and full prefills to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from semshare_core.budget.needs import Needs
from semshare_core.budget.recompute import Budget, plan_recompute
from semshare_core.config import ReusePolicy
from semshare_core.match.plan import ReusePlan
from semshare_core.model.cache_argument import with_cache
from semshare_core.model.spec import measure_spec
from semshare_core.pool.entry import RowSpan
from semshare_core.pool.segment import MemoryRows
from semshare_core.prefill.selective import Prefilled, SelectivePrefill
from semshare_core.select import selection_for
from semshare_core.tokens import Tokens
from tiny_models import tiny_model


@dataclass(frozen=True)
class Reference:
    """A reference prompt with rows that transformers computed."""

    id: str
    tokens: Tokens
    rows: list[tuple[Tensor, Tensor]]

    @property
    def spans(self) -> list[RowSpan]:
        return [RowSpan(0, len(self.tokens), MemoryRows(self.rows))]


@cache
def shared_prefill(name: str) -> SelectivePrefill:
    """The selective prefill of a tiny model, made once (not for models whose frequencies change as they run)."""
    model = tiny_model(name)
    return SelectivePrefill(model, measure_spec(model))


def selective(
    prefill: SelectivePrefill,
    ids: Tensor,
    plan: ReusePlan,
    references: Sequence[Reference],
    policy: ReusePolicy,
    budget: Budget,
    fresh_from: int,
    capacity: int,
) -> Prefilled:
    """A selective prefill of what ``plan`` serves, within ``budget``."""
    selection = selection_for(policy)
    recompute = plan_recompute(plan, Needs.of(plan, selection, fresh_from), selection, policy, budget, prefill.layers)
    return prefill.selective(ids.to(prefill.model.device), plan, references, recompute, selection, capacity)


def random_ids(n: int, seed: int = 0) -> Tokens:
    """``n`` ids of ordinary tokens."""
    return np.random.default_rng(seed).integers(0, 256, n)


@torch.no_grad()
def reference_of(model: PreTrainedModel, tokens: Tokens, name: str = "a", offset: int = 0) -> Reference:
    """A reference in which ``tokens`` stand at positions ``offset`` onwards, seeing nothing before them.

    The rows before ``offset`` are noise: whoever reads them answers wrongly.
    """
    cache = DynamicCache()
    ids = torch.as_tensor(tokens, device=model.device)[None]
    positions = torch.arange(offset, offset + len(tokens), device=model.device)[None]
    extra = {} if model.config.model_type == "mpt" else {"position_ids": positions}
    model(input_ids=ids, **with_cache(model, cache), use_cache=True, **extra)
    rows = []
    for layer in cache.layers:
        noise = layer.keys.new_full((*layer.keys.shape[:2], offset, layer.keys.shape[3]), 7.0)
        rows.append((torch.cat((noise, layer.keys), dim=2), torch.cat((-noise, layer.values), dim=2)))
    return Reference(name, np.concatenate((np.zeros(offset, np.int64), tokens)), rows)


def plan_of(n: int, *references: Reference) -> ReusePlan:
    """A plan over ``references`` that serves nothing yet."""
    return ReusePlan.empty(n, references)


@torch.no_grad()
def full_logits(model: PreTrainedModel, tokens: Tokens | Sequence[int], last: int) -> Tensor:
    """Logits [last, vocabulary] of the last tokens, by one plain forward pass."""
    return model(input_ids=torch.as_tensor(tokens, device=model.device)[None], use_cache=False).logits[0, -last:]


@torch.no_grad()
def reused_logits(model: PreTrainedModel, prefilled: Prefilled, tokens: Tokens, n: int) -> Tensor:
    """Logits [len(tokens) - n + 1, vocabulary] of a prefill of ``n`` tokens, then of the ``tokens`` that follow."""
    rest = torch.as_tensor(tokens[n - 1 :], device=model.device)[None]
    return model(input_ids=rest, **with_cache(model, prefilled.cache), use_cache=True).logits[0]


PARAGRAPHS = [
    "The ferry leaves the old harbour at nine in the morning and returns at six; bicycles travel free of charge.",
    "In the museum by the square hangs a map, drawn in 1491, of a river that nobody has found since then.",
    "Bakers begin work at two. Their rye bread keeps for a week and is eaten with butter or pickled fish.",
    "A lighthouse keeper wrote down the wind of every day for thirty years, and once that he had seen a whale.",
]
"""Texts of about a hundred tokens each for the byte tokenizer."""
