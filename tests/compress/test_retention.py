"""Retention: fewer rows per layer while decoding, right positions, and nothing of it in the pool."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pooled import rows_of
from same_answer import assert_close, assert_full, assert_greedy, short_prefixes_serve
from semshare_core import Retention, ReusePolicy, SemShareEngine
from semshare_core.baselines.semsharekv.retention import kept_rows, layer_shares
from semshare_core.errors import UnsupportedModelError
from semshare_core.model.cache_argument import with_cache
from semshare_core.prefill.attention_probe import hot_tokens
from tiny_models import DEVICE, DTYPE, LAYERS, SLIDING, tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "\n\n".join(PARAGRAPHS)
SDPA = ("llama", "qwen3", "phi3", "olmo2", "granite", "gpt_neox", "cohere", "smollm3")
ALL = Retention(first=1.0, decay=1.0)


def keeping(retention: Retention | None) -> ReusePolicy:
    return ReusePolicy(level="balanced", compress=retention)


def engine_of(name: str = "llama") -> SemShareEngine:
    return SemShareEngine(tiny_model(name), tiny_tokenizer())


# --- which rows --------------------------------------------------------------------------------------------------


def test_hot_tokens_are_the_fewest_that_hold_the_mass() -> None:
    attention = np.array([0.05, 0.4, 0.05, 0.3, 0.2])
    assert hot_tokens(attention, 0.39).tolist() == [False, True, False, False, False]
    assert hot_tokens(attention, 0.55).tolist() == [False, True, False, True, False]
    assert hot_tokens(attention, 1.0).all()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 1.0])
def test_kept_rows(share: float) -> None:
    rng = np.random.default_rng(0)
    attention = rng.random(100) ** 4
    rows = kept_rows(attention / attention.sum(), share, Retention(window=10))
    assert len(rows) == max(10, round(100 * share))
    assert (np.diff(rows) > 0).all()
    assert rows[-10:].tolist() == list(range(90, 100)), "the last ones always stay"
    dropped = np.setdiff1d(np.arange(90), rows)
    kept = np.setdiff1d(rows, np.arange(90, 100))
    if len(dropped) and len(kept):
        assert attention[dropped].max() <= attention[kept].min()


def test_hot_tokens_stay_before_cold_ones_of_nearly_the_same_attention() -> None:
    attention = np.array([0.30, 0.30, 0.29, 0.05, 0.03, 0.02, 0.005, 0.005])
    assert kept_rows(attention, 0.5, Retention(window=2, hot_mass=0.55)).tolist() == [0, 1, 6, 7]
    assert kept_rows(attention, 0.6, Retention(window=2, hot_mass=0.55)).tolist() == [0, 1, 2, 6, 7]


def test_deeper_layers_keep_less_down_to_the_floor() -> None:
    shares = layer_shares(30, Retention(first=0.8, decay=0.9, floor=0.25))
    np.testing.assert_allclose(shares[:3], [0.8, 0.72, 0.648])
    assert shares[-1] == 0.25
    assert (np.diff(shares) <= 0).all()


# --- decoding on them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SDPA)
def test_keeping_everything_changes_nothing(name: str) -> None:
    """The positions count on, and the rows are the same: through generate() and through the cache itself."""
    engine = engine_of(name)
    answer = engine.generate(TEXT, max_new_tokens=12, reuse=keeping(ALL), store=False)
    assert_greedy(answer.token_ids, engine.model, engine.token_ids(TEXT), 12)
    assert answer.report.kv_bytes == answer.report.kv_bytes_full
    ids = np.array(engine.token_ids(TEXT) + answer.token_ids)
    result = engine.prefill(TEXT, reuse=keeping(ALL))
    with torch.no_grad():
        rest = engine.model(
            torch.tensor([answer.token_ids], device=DEVICE), **with_cache(engine.model, result.cache)
        ).logits[0]
    assert_full(torch.cat((result.logits[None], rest)), engine.model, ids)


@pytest.mark.parametrize("name", SDPA)
def test_dropped_rows_are_as_if_masked(name: str) -> None:
    """Decoding on what is left equals a forward pass in which, layer by layer, the dropped rows cannot be seen."""
    engine = engine_of(name)
    n = len(TEXT)
    policy = keeping(Retention(first=0.5, decay=0.8, floor=0.1))
    full, result = engine.prefill(TEXT, reuse="off"), engine.prefill(TEXT, reuse=policy)
    lengths = [layer.keys.shape[2] for layer in result.cache.layers]
    assert lengths == [int(np.ceil(share * (n - 1))) + 1 for share in layer_shares(LAYERS, policy.compress)]
    assert result.cache.get_seq_length() == n
    seen = [
        kept_positions(whole.keys, left.keys)
        for whole, left in zip(full.cache.layers, result.cache.layers, strict=True)
    ]
    token = torch.tensor([[77]], device=DEVICE)
    masks = []
    for positions in seen:
        mask = torch.full((1, 1, 1, n + 1), torch.finfo(DTYPE).min, device=DEVICE, dtype=DTYPE)
        mask[..., [*positions, n]] = 0
        masks.append(mask)
    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, mask=mask: (args, kwargs | {"attention_mask": mask}), with_kwargs=True
        )
        for layer, mask in zip(engine._prefill.spec.layers, masks, strict=True)
    ]
    with torch.no_grad():
        # the last prompt token saw other rows in the two passes: take over what it left
        for whole, left in zip(full.cache.layers, result.cache.layers, strict=True):
            whole.keys[:, :, -1], whole.values[:, :, -1] = left.keys[:, :, -1], left.values[:, :, -1]
        expected = engine.model(token, **with_cache(engine.model, full.cache), attention_mask=masks[0]).logits
        for handle in handles:
            handle.remove()
        found = engine.model(token, **with_cache(engine.model, result.cache)).logits
    assert_close(found, expected)


def kept_positions(whole: torch.Tensor, left: torch.Tensor) -> list[int]:
    """Where the rows of ``left`` [1, heads, m, dim] stand in ``whole``; the last row of both is the last token's."""
    distance = torch.cdist(
        left[0, 0, :-1].float(), whole[0, 0, :-1].float(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    assert distance.min(dim=1).values.max() < 1e-4
    return [*distance.argmin(dim=1).tolist(), whole.shape[2] - 1]


def test_bytes_are_saved_and_reported() -> None:
    engine = engine_of()
    report = engine.generate(TEXT, max_new_tokens=30, reuse=keeping(Retention(first=0.5, decay=0.8))).report
    shares = layer_shares(LAYERS, Retention(first=0.5, decay=0.8))
    assert report.kv_bytes < report.kv_bytes_full
    assert report.kv_bytes / report.kv_bytes_full == pytest.approx(shares.mean(), abs=0.01)
    assert report.kv_bytes_full == engine.generate(TEXT, max_new_tokens=1, reuse="off", store=False).report.kv_bytes


def test_short_prompts_keep_their_window() -> None:
    engine = engine_of()
    answer = engine.generate(TEXT[:10], max_new_tokens=5, reuse=keeping(Retention(first=0.1, floor=0.1, window=16)))
    assert_greedy(answer.token_ids, engine.model, engine.token_ids(TEXT[:10]), 5)
    assert_greedy(
        engine.generate(TEXT[:1], max_new_tokens=5, reuse=keeping(ALL)).token_ids,
        engine.model,
        engine.token_ids(TEXT[:1]),
        5,
    )


@short_prefixes_serve
def test_the_pool_keeps_whole_rows() -> None:
    """What was dropped for one answer serves the next prompt."""
    engine = engine_of()
    engine.generate(TEXT, max_new_tokens=8, reuse=keeping(Retention(first=0.3, floor=0.1)))
    result = engine.prefill(TEXT + " More?", reuse="exact")
    assert result.report.prefix_tokens >= len(TEXT) - 1
    ids = np.array(engine.token_ids(TEXT + " More?"))
    assert_full(result.logits, engine.model, ids)


@short_prefixes_serve
def test_watching_the_tail_leaves_the_rows_as_they_were() -> None:
    """Those of the prefix, too, which the last sixteen tokens reach into."""
    engine = engine_of()
    engine.warm([TEXT])
    n = len(TEXT)
    kept = engine.pool.longest_prefix("default", np.array(engine.token_ids(TEXT)), 0, weights=engine.weights.identity())
    served, _ = engine._request(TEXT + " So.", keeping(Retention()), None).run(1, lambda _: None)
    assert kept is not None
    assert served.cache is not served.whole.cache, "the tail was watched, for retention"
    for before, after in zip(rows_of(kept[0]), served.whole.cache.rows(n), strict=True):
        assert all(torch.equal(a, b.cpu()) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("level", ["exact", "off"])
def test_lossless_levels_drop_nothing(level: str) -> None:
    """Whoever asks by name for a lossless level gets one, whatever the engine's policy keeps otherwise."""
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), policy=keeping(Retention(first=0.3, floor=0.1)))
    lossy = engine.generate(TEXT, max_new_tokens=3, store=False).report
    assert lossy.kv_bytes < 0.5 * lossy.kv_bytes_full
    answer = engine.generate(TEXT, max_new_tokens=12, reuse=level)
    assert answer.report.kv_bytes == answer.report.kv_bytes_full
    assert_greedy(answer.token_ids, engine.model, engine.token_ids(TEXT), 12)


@pytest.mark.parametrize("name", [*SLIDING, "mpt"])
def test_models_that_cannot_are_told(name: str) -> None:
    engine = engine_of(name)
    with pytest.raises(UnsupportedModelError, match="compress=None"):
        engine.generate(TEXT, max_new_tokens=2, reuse=keeping(Retention()))
    assert engine.pool.stats().entries == 0
    assert_greedy(engine.generate(TEXT, max_new_tokens=2).token_ids, engine.model, engine.token_ids(TEXT), 2)


def test_attention_is_put_back() -> None:
    """The tail is watched with attention that shows its weights, only while it is watched."""
    engine = engine_of()
    before = engine.generate(TEXT, max_new_tokens=4, reuse="off", store=False).token_ids
    engine.generate(TEXT, max_new_tokens=4, reuse=keeping(Retention()), store=False)
    assert engine.model.config._attn_implementation == "sdpa"
    assert engine.generate(TEXT, max_new_tokens=4, reuse="off", store=False).token_ids == before
