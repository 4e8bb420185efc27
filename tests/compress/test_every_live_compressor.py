"""What every live compressor must do: run over all that are registered.

``python -m pytest tests/compress/test_every_live_compressor.py -p MODULE`` runs it over those of your module, too.
"""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from pooled import rows_of
from same_answer import TOLERANCE, assert_close, assert_full, assert_greedy, short_prefixes_serve
from semshare_core import Retention, ReusePolicy, SemShareEngine
from semshare_core.compress.live import LiveCompressor
from semshare_core.compress.live.compressed import compressed, held_bytes
from semshare_core.errors import UnsupportedModelError
from semshare_core.match.plan import ReusePlan
from semshare_core.model.cache_argument import with_cache
from semshare_core.quality.divergence import divergence
from semshare_core.slots import LIVE_COMPRESSORS
from tiny_models import DEVICE, DTYPE, SLIDING, tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS, random_ids, shared_prefill

pytestmark = pytest.mark.usefixtures("one_thread")

every_compressor = pytest.mark.parametrize("name", LIVE_COMPRESSORS.names())

TEXT = "\n\n".join(PARAGRAPHS)


def engine_of(model: str = "llama", compress: LiveCompressor | str | None = None) -> SemShareEngine:
    policy = ReusePolicy(level="balanced", compress=compress)
    return SemShareEngine(tiny_model(model), tiny_tokenizer(), policy=policy)


# --- the contract of compress() ----------------------------------------------------------------------------------


@every_compressor
@pytest.mark.parametrize("model", ["llama", "qwen3", "gpt_neox"])
def test_with_nothing_to_lose_nothing_changes(name: str, model: str) -> None:
    engine = engine_of(model, LIVE_COMPRESSORS.get(name).keeping_all())
    answer = engine.generate(TEXT, max_new_tokens=12, store=False)
    assert_greedy(answer.token_ids, engine.model, engine.token_ids(TEXT), 12)
    ids = np.array(engine.token_ids(TEXT) + answer.token_ids)
    result = engine.prefill(TEXT, store=False)
    steps = [result.logits]
    with torch.no_grad():
        for token in answer.token_ids:
            made = engine.model(
                torch.tensor([[token]], device=DEVICE), **with_cache(engine.model, result.cache), use_cache=True
            )
            steps.append(made.logits[0, -1])
    assert_full(torch.stack(steps), engine.model, ids)


@every_compressor
def test_the_whole_cache_stays_as_it_is(name: str) -> None:
    prefill = shared_prefill("llama")
    ids, n = torch.as_tensor(random_ids(150), device=DEVICE), 150
    whole = prefill.prefill_suffix(ids, ReusePlan.empty(n), [], n, complete=True).cache
    before = [(keys.clone(), values.clone()) for keys, values in whole.rows(n - 1)]
    one, other = (compressed(LIVE_COMPRESSORS.get(name)(), prefill.model, prefill.spec, ids, whole) for _ in range(2))
    for pair, same in zip(whole.rows(n - 1), before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(pair, same, strict=True))
    whole_rows = {buffer.untyped_storage().data_ptr() for layer in whole.layers for buffer in layer.buffers}
    for layer in one.layers:
        held = [value for value in vars(layer).values() if isinstance(value, torch.Tensor)]
        assert not whole_rows & {each.untyped_storage().data_ptr() for each in held}, "what is dropped leaves memory"
    assert held_bytes(one) == held_bytes(other) == one.prompt_bytes
    for layer, same in zip(one.layers, other.layers, strict=True):
        assert torch.equal(layer.keys, same.keys), "the same again"
        assert torch.equal(layer.values, same.values)


@every_compressor
def test_positions_go_on_counting_tokens(name: str) -> None:
    result = engine_of(compress=name).prefill(TEXT)
    for layer in result.cache.layers:
        assert layer.get_seq_length() == len(TEXT)
        rows, offset = layer.get_mask_sizes(1)
        assert rows + offset <= len(TEXT) + 1
        keys, _ = layer.update(*(torch.zeros(1, 2, 1, 16, device=DEVICE, dtype=DTYPE) for _ in range(2)))
        assert keys.shape[2] == rows, "as many rows as the mask has"
        assert layer.get_seq_length() == len(TEXT) + 1


# --- in the engine -----------------------------------------------------------------------------------------------


@every_compressor
def test_decoding_goes_on_for_long_and_any_loop_may_do_it(name: str) -> None:
    engine = engine_of(compress=name)
    answer = engine.generate(TEXT, max_new_tokens=70, store=False)
    result = engine.prefill(TEXT, store=False)
    token, said = int(result.logits.argmax()), []
    with torch.no_grad():
        for _ in answer.token_ids:
            said.append(token)
            made = engine.model(
                torch.tensor([[token]], device=DEVICE), **with_cache(engine.model, result.cache), use_cache=True
            )
            token = int(made.logits[0, -1].argmax())
    assert said == answer.token_ids


@every_compressor
def test_fewer_bytes_are_held_and_reported(name: str) -> None:
    report = engine_of(compress=name).generate(TEXT, max_new_tokens=20).report
    assert report.kv_bytes < report.kv_bytes_full


@every_compressor
@pytest.mark.parametrize("length", [1, 2, 5, 17])
def test_short_prompts(name: str, length: int) -> None:
    engine = engine_of(compress=LIVE_COMPRESSORS.get(name).keeping_all())
    assert_greedy(
        engine.generate(TEXT[:length], max_new_tokens=5).token_ids, engine.model, engine.token_ids(TEXT[:length]), 5
    )
    assert len(engine_of(compress=name).generate(TEXT[:length], max_new_tokens=5).token_ids) == 5


@short_prefixes_serve
@every_compressor
def test_the_pool_keeps_whole_rows(name: str) -> None:
    engine = engine_of(compress=name)
    engine.generate(TEXT, max_new_tokens=8)
    kept = engine.pool.longest_prefix("default", np.array(engine.token_ids(TEXT)), 0, weights=engine.weights.identity())
    assert kept is not None
    plain = engine_of()
    plain.warm([TEXT])
    entry = plain.pool.longest_prefix("default", np.array(plain.token_ids(TEXT)), 0, weights=plain.weights.identity())
    assert entry is not None
    for pair, expected in zip(rows_of(kept[0]), rows_of(entry[0]), strict=True):
        for rows, whole in zip(pair, expected, strict=True):
            assert_close(rows[:, :, : len(TEXT) - 1], whole[:, :, : len(TEXT) - 1], atol=TOLERANCE / 10)


@every_compressor
@pytest.mark.parametrize("level", ["exact", "off"])
def test_lossless_levels_lose_nothing(name: str, level: str) -> None:
    engine = engine_of(compress=name)
    answer = engine.generate(TEXT, max_new_tokens=12, reuse=level)
    assert answer.report.kv_bytes == answer.report.kv_bytes_full
    assert_greedy(answer.token_ids, engine.model, engine.token_ids(TEXT), 12)


@every_compressor
@pytest.mark.usefixtures("bounds_kept")
def test_the_canary_measures_what_decoding_began_with(name: str) -> None:
    """However far decoding has gone on since, and whatever it has done to the cache."""
    engine = engine_of(compress=name)
    policy = engine.policy.model_copy(update={"canary": 1.0})
    answer = engine.generate(TEXT, max_new_tokens=120, reuse=policy, store=False, eos_token_id=[])
    assert engine.canary.wait()
    assert answer.report.canary is not None
    result = engine.prefill(TEXT, store=False)
    ids, said = (torch.tensor(each, device=DEVICE) for each in (engine.token_ids(TEXT), answer.token_ids))
    expected = divergence(engine.model, ids, result.cache, result.logits, answer=said, stepwise=True)
    assert answer.report.canary.kl == pytest.approx(float(expected.kl.mean()), rel=1e-3)


@every_compressor
@pytest.mark.parametrize("model", [*SLIDING, "mpt"])
def test_models_that_cannot_are_told(name: str, model: str) -> None:
    with pytest.raises(UnsupportedModelError, match="compress=None"):
        engine_of(model, name).generate(TEXT, max_new_tokens=2)


@every_compressor
def test_its_settings_travel(name: str) -> None:
    """Through JSON and pickles, in the policy that names it; and two settings are two methods."""
    policy = ReusePolicy(compress=name)
    assert ReusePolicy(**policy.model_dump(mode="json")) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert isinstance(policy.compress, LIVE_COMPRESSORS.get(name))
    assert ReusePolicy(compress=LIVE_COMPRESSORS.get(name).keeping_all()) != policy


def test_a_compressor_goes_on_after_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each, with the tokens of the pass in the cache; whatever loop decodes."""
    lengths = []
    monkeypatch.setattr(Retention, "step", lambda self, cache: lengths.append(cache.get_seq_length()))
    engine = engine_of(compress="retention")
    n = len(TEXT)
    engine.generate(TEXT, max_new_tokens=4, store=False)
    assert lengths == [n, n + 1, n + 2, n + 3]
    lengths.clear()
    engine.prefill(TEXT, store=False)
    assert lengths == [n]
