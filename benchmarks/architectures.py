"""Which of transformers' causal language models are served: each as a tiny random model, tried and compared.

``python -m benchmarks.architectures [--out docs/architectures.md]`` tries every one that ``AutoModelForCausalLM`` knows
and writes the page, in about a minute. An architecture counts as served if the engine takes it, and if

- level ``exact`` answers behind a reused prefix with the tokens of greedy decoding without any cache,
- recompute ratio 1 gives the full prefill's logits behind a reused prefix, and
- the first layer's keys of identical text that is moved, which know no context, are the full prefill's.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.cache_utils import Cache
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from semshare_core import PoolConfig, ReusePolicy, SemShareEngine
from semshare_core.errors import SemShareError
from semshare_core.match.plan import Source
from semshare_core.model.cache_argument import with_cache
from semshare_core.prefill.cache import MergedCache

_VOCABULARY = 259
_WIDTH, _LAYERS, _HEADS, _EXPERTS, _CONTEXT = 64, 4, 4, 4, 4096
_MOST_WEIGHTS = 60_000_000  # what a small configuration leaves large (a vision tower) is not tried
_TOLERANCE = 1e-4  # of the largest logit
_ANSWER_TOKENS = 6

# Every name that configurations have for the same few sizes; each takes those that it knows.
_SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), _VOCABULARY),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), _WIDTH),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim"), 2 * _WIDTH),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), _WIDTH // 2),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "decoder_layers"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"), _HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), _EXPERTS),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), _CONTEXT),
    "head_dim": 16,
    "rotary_dim": 8,
    "sliding_window": 24,  # smaller than the prompts, so that the window cuts
    "initializer_range": 0.2,  # wide enough that attention is far from uniform
    "eos_token_id": 256,
    "bos_token_id": 257,
    "pad_token_id": 258,
    "tie_word_embeddings": False,
}

Kind = Literal["served", "refused", "wrong", "not tried"]


@dataclass(frozen=True)
class Verdict:
    """What became of one architecture, and why."""

    architecture: str
    kind: Kind
    reason: str = ""


def verdicts() -> Iterator[Verdict]:
    """One for each architecture, by name."""
    for config in sorted(MODEL_FOR_CAUSAL_LM_MAPPING.keys(), key=lambda each: each.__name__):
        found = MODEL_FOR_CAUSAL_LM_MAPPING[config]
        for architecture in found if isinstance(found, tuple) else (found,):
            yield judge(config, architecture)


def judge(config: type[PreTrainedConfig], architecture: type[PreTrainedModel]) -> Verdict:
    """Build a tiny model of the architecture, serve it and compare."""
    name = architecture.__name__
    try:
        model = _tiny(config, architecture)
    except Exception as error:  # their code, which may fail in any way on sizes that it was not made for
        return Verdict(name, "not tried", f"its tiny form cannot be built ({type(error).__name__})")
    if model is None:
        return Verdict(name, "not tried", "its tiny form is not tiny")
    try:
        engine = SemShareEngine(model, _tokenizer(), pool=PoolConfig(heal=False))
    except SemShareError as error:
        return Verdict(name, "refused", str(error))
    return Verdict(name, *_compared(engine))


def _tiny(config: type[PreTrainedConfig], architecture: type[PreTrainedModel]) -> PreTrainedModel | None:
    """A random model; None if it has too many weights."""
    known = config().to_dict()
    settings = config(**{name: value for name, value in _SMALL.items() if name in known or name == "vocab_size"})
    with torch.device("meta"):
        if sum(weight.numel() for weight in architecture(settings).parameters()) > _MOST_WEIGHTS:
            return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture(settings).float().eval().requires_grad_(False)
    model.generation_config.eos_token_id = None  # no answer is to end early
    return model


def _tokenizer() -> PreTrainedTokenizerFast:
    """Prompts are given as ids, so that any will do."""
    words = {str(index): index for index in range(_VOCABULARY)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="0")))


def _compared(engine: SemShareEngine) -> tuple[Kind, str]:
    ids = [(7 * index * index + 3 * index) % _VOCABULARY for index in range(240)]
    expected = _greedy(engine.model, ids)
    engine.warm([ids[:200]])
    answer = engine.generate(ids, reuse="exact", max_new_tokens=_ANSWER_TOKENS, store=False)
    if answer.report.outcome != "prefix" or answer.token_ids != expected:
        return "wrong", "level exact answers otherwise than greedy decoding"
    everything = ReusePolicy(recompute_ratio=1.0)
    full = _logits(engine.model, ids)
    error = _relative(engine.prefill(ids, reuse=everything, store=False).logits, full)
    if error > _TOLERANCE:
        return "wrong", f"logits at recompute ratio 1 are off by {error:.1e} of the largest"
    moved = [*ids[100:], *ids[:100], 5]
    prefilled = engine.prefill(moved, reuse=ReusePolicy(recompute_ratio=0.3), store=False)
    if prefilled.report.outcome != "semantic":
        return "wrong", f"identical text at another place is not reused: {prefilled.report.reason}"
    reused = np.array(prefilled.report.token_sources) == Source.MOVED
    error = _relative(_first_keys(prefilled.cache)[reused], _first_keys(_full_cache(engine.model, moved))[reused])
    if error > _TOLERANCE:
        return "wrong", f"moved keys are off by {error:.1e} of the largest"
    return "served", ""


def _logits(model: PreTrainedModel, ids: list[int]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]


def _full_cache(model: PreTrainedModel, ids: list[int]) -> Cache:
    cache = MergedCache(model.config.get_text_config(decoder=True).num_hidden_layers, len(ids))
    with torch.no_grad():
        model(torch.tensor([ids], device=model.device), **with_cache(model, cache), use_cache=True)
    return cache


def _first_keys(cache: Cache) -> Tensor:
    """Keys [n, kv_heads, head_dim] of the first layer."""
    keys = cache.layers[0].keys
    assert isinstance(keys, Tensor)
    return keys[0].transpose(0, 1)


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _greedy(model: PreTrainedModel, ids: list[int]) -> list[int]:
    """Without a cache: the cached decoding of some architectures in transformers differs from it (Moshi)."""
    tokens = list(ids)
    for _ in range(_ANSWER_TOKENS):
        tokens.append(int(_logits(model, tokens).argmax()))
    return tokens[len(ids) :]


def page(found: list[Verdict]) -> str:
    """The documentation page."""
    by_kind: dict[Kind, list[Verdict]] = {"served": [], "refused": [], "wrong": [], "not tried": []}
    for verdict in found:
        by_kind[verdict.kind].append(verdict)
    served = ", ".join(f"`{verdict.architecture}`" for verdict in by_kind["served"])
    parts = [
        "# Architectures",
        "A model that cannot be served is refused when the engine is made, with the reason. This page is "
        f"what `python -m benchmarks.architectures` found: transformers {transformers.__version__} names {len(found)} "
        "causal language models, and each was built with four small layers of random weights and tried on the CPU in "
        "float32. That shows that rows are moved and recomputed rightly. It shows nothing about quality, which "
        "[calibration](calibration.md) measures for weights of your own.",
        f"## Served ({len(by_kind['served'])})",
        "Level `exact` answers with the tokens of greedy decoding without a cache, recompute ratio 1 gives the full "
        "prefill's logits, and the first layer's keys of identical text that is moved are the full prefill's. The "
        "layers of a published model may be of other kinds than the tiny one's (LFM2 has convolutions): then it is "
        "refused.",
        served + ".",
    ]
    titles: dict[Kind, str] = {"wrong": "Wrong", "refused": "Refused", "not tried": "Not tried"}
    for kind, title in titles.items():
        if by_kind[kind]:
            rows = [f"| `{verdict.architecture}` | {_cell(verdict.reason)} |" for verdict in by_kind[kind]]
            parts += [
                f"## {title} ({len(by_kind[kind])})",
                "\n".join(["| architecture | reason |", "|---|---|", *rows]),
            ]
    return "\n\n".join(parts) + "\n"


def _cell(reason: str) -> str:
    """A reason on one line of a table."""
    return " ".join(reason.split()).replace("|", "\\|").removesuffix(".")


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.architectures", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/architectures.md"))
    out = parser.parse_args().out
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found: list[Verdict] = []
    for verdict in verdicts():
        print(f"{verdict.architecture}: {verdict.kind} {verdict.reason}", flush=True)
        if verdict not in found:  # several configurations may name one architecture
            found.append(verdict)
    out.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
