"""Rows serve only under the weights, adapters and numerics that computed them, whatever becomes of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from semshare_core import PoolConfig, ReusePolicy, SemShareEngine
from semshare_core.errors import PoolWarning, UnsupportedModelError
from semshare_core.model.weights import Weights
from tiny_models import TINY, VARYING_ROPE, tiny_model, tiny_tokenizer

TEXT = "A lighthouse stood on the cape, and its keeper lit the lamp every evening at six o'clock. " * 5
OTHER = "The ferry to the island leaves on Sundays. " + TEXT[:300]
ASKED = TEXT + "Who lit it?"

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
]


def lora(**settings: Any) -> LoraConfig:
    """An adapter with weights that change what the model says."""
    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **settings)


def engine_of(model: Any = None, tokenizer: Any = None, **settings: Any) -> SemShareEngine:
    return SemShareEngine(model or tiny_model("llama"), tokenizer or tiny_tokenizer(), **settings)


def with_adapters(*names: str) -> PreTrainedModel:
    model = tiny_model("llama")
    for name in names:
        model.add_adapter(lora(), name)
    model.eval()
    return model


def hit(engine: SemShareEngine, prompt: str = ASKED, reuse: str = "exact") -> bool:
    """Whether anything in the pool serves a prompt; nothing is stored."""
    return engine.prefill(prompt, reuse=reuse, store=False).report.outcome in ("prefix", "semantic")


def answer_is_the_models_own(engine: SemShareEngine, prompt: str = ASKED) -> None:
    ids = torch.tensor([engine.token_ids(prompt)])
    expected = engine.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    out = engine.generate(prompt, reuse="exact", max_new_tokens=12, store=False)
    assert out.token_ids == expected[0, ids.shape[1] :].tolist()


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_another_adapter_is_not_served_the_first_ones_rows() -> None:
    model = with_adapters("a", "b")
    engine = engine_of(model)
    model.set_adapter("a")
    engine.warm([TEXT])
    model.set_adapter("b")
    assert not hit(engine)
    for reuse in ("high", "balanced", "fast"):  # nor by runs or by similarity
        assert not hit(engine, OTHER, reuse)
        assert not hit(engine, ASKED, reuse)
    answer_is_the_models_own(engine)
    engine.warm([TEXT])
    model.set_adapter("a")
    assert hit(engine), "the first adapter's rows are there still"
    answer_is_the_models_own(engine)
    model.set_adapter(["a", "b"])
    assert not hit(engine), "both at once are a third"


def test_switched_off_adapters_leave_the_models_own_rows() -> None:
    model = tiny_model("llama")
    engine = engine_of(model)
    engine.warm([TEXT])
    model.add_adapter(lora(), "a")
    assert not hit(engine), "an adapter that was added is active"
    engine.warm([TEXT])
    model.disable_adapters()
    assert hit(engine)
    answer_is_the_models_own(engine)
    model.enable_adapters()
    assert hit(engine)
    model.delete_adapter("a")
    assert hit(engine), "as if there never had been one"
    answer_is_the_models_own(engine)


def test_an_adapter_that_comes_later_does_not_cost_the_others_rows() -> None:
    model = with_adapters("a")
    engine = engine_of(model)
    engine.warm([TEXT])
    model.add_adapter(lora(), "b")
    assert not hit(engine)
    model.set_adapter("a")
    assert hit(engine)


def test_dropout_of_an_adapter_in_training_takes_no_part() -> None:
    model = tiny_model("llama")
    model.add_adapter(lora(lora_dropout=0.5), "a")
    engine = engine_of(model)
    engine.warm([TEXT])
    model.train()
    assert hit(engine), "calls compute in eval mode"
    before = engine.prefill(ASKED, reuse="off").logits
    model.eval()
    assert torch.equal(engine.prefill(ASKED, reuse="off").logits, before)


def test_training_mode_without_dropout_changes_nothing() -> None:
    engine = engine_of()
    engine.warm([TEXT])
    engine.model.train()
    assert hit(engine)


@pytest.fixture(params=["engine", "langchain", "llama_index"])
def around(request: pytest.FixtureRequest) -> Callable[[Any], SemShareEngine]:
    """Ways to serve a model that is there already."""

    def make(model: Any) -> SemShareEngine:
        if request.param == "langchain":
            from semshare_integrations.langchain import ChatSemShare

            return ChatSemShare(model=model, tokenizer=tiny_tokenizer()).engine
        if request.param == "llama_index":
            from semshare_integrations.llama_index import SemShareLLM

            return SemShareLLM(model=model, tokenizer=tiny_tokenizer()).engine
        return engine_of(model)

    return make


def test_a_peft_model_is_served_with_its_adapter(around: Callable[[Any], SemShareEngine]) -> None:
    wrapped = get_peft_model(tiny_model("llama"), lora())
    assert isinstance(wrapped, PeftModel)
    engine = around(wrapped)
    assert isinstance(engine.model, PreTrainedModel)
    engine.warm([TEXT])
    assert hit(engine)
    ids = torch.tensor([engine.token_ids(ASKED)])
    expected = wrapped.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert engine.generate(ASKED, reuse="exact", max_new_tokens=8).token_ids == expected[0, ids.shape[1] :].tolist()
    with wrapped.disable_adapter():
        assert not hit(engine)
    wrapped.merge_adapter()
    assert not hit(engine)
    wrapped.unmerge_adapter()
    wrapped.merge_and_unload()
    assert not hit(engine)
    answer_is_the_models_own(engine)


def test_an_adapter_of_the_embeddings_is_served() -> None:
    settings: Any = {"r": 4, "target_modules": ["embed_tokens"], "init_lora_weights": False}
    wrapped = get_peft_model(tiny_model("llama"), LoraConfig(**settings))
    engine = engine_of(wrapped)
    engine.warm([TEXT])
    assert hit(engine)
    answer_is_the_models_own(engine)
    with wrapped.disable_adapter():
        assert not hit(engine)


def test_prompt_tuning_is_refused_for_what_it_is() -> None:
    wrapped = get_peft_model(tiny_model("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(UnsupportedModelError, match="learned rows in front of every prompt"):
        engine_of(wrapped)


# --- weights that change under the engine's hands ---------------------------------------------------------------------


def _key_projection(model: Any) -> nn.Linear:
    return model.model.layers[1].self_attn.k_proj


def _multiply(model: Any) -> None:
    with torch.no_grad():
        _key_projection(model).weight.mul_(1.1)


def _multiply_data(model: Any) -> None:
    _key_projection(model).weight.data.mul_(1.1)


def _replace(model: Any) -> None:
    _key_projection(model).weight = nn.Parameter(torch.randn_like(_key_projection(model).weight))


def _replace_module(model: Any) -> None:
    old = _key_projection(model)
    model.model.layers[1].self_attn.k_proj = nn.Linear(old.in_features, old.out_features, bias=False)


def _scale(model: Any) -> None:
    model.model.layers[1].self_attn.scaling *= 2


def _write_one_row(model: Any) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight[ord("e")] += 1


def _hook(model: Any) -> None:
    model.model.layers[1].register_forward_hook(lambda module, args, output: output * 1.5)


def _hook_on_inputs(model: Any) -> None:
    model.model.layers[1].register_forward_pre_hook(lambda module, args: (args[0] * 1.5, *args[1:]))


def _other_forward(model: Any) -> None:
    mlp, forward = model.model.layers[1].mlp, model.model.layers[1].mlp.forward
    mlp.forward = lambda states: 2 * forward(states)


def _buffer(model: Any) -> None:
    model.model.rotary_emb.inv_freq.mul_(0.5)


def _bfloat16(model: Any) -> None:
    model.to(torch.bfloat16)


def _eager(model: Any) -> None:
    model.set_attn_implementation("eager")


def _other_epsilon(model: Any) -> None:
    model.model.norm.variance_epsilon = 0.5


def _layers_change_places(model: Any) -> None:
    layers = model.model.layers
    layers[1].mlp, layers[2].mlp = layers[2].mlp, layers[1].mlp


def _parametrize(model: Any) -> None:
    class Half(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight / 2

    nn.utils.parametrize.register_parametrization(_key_projection(model), "weight", Half())


CHANGES = [
    _multiply,
    _multiply_data,
    _replace,
    _replace_module,
    _scale,
    _write_one_row,
    _hook,
    _hook_on_inputs,
    _other_forward,
    _buffer,
    _bfloat16,
    _eager,
    _other_epsilon,
    _layers_change_places,
    _parametrize,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_noticed_by_the_next_call(change: Callable[[Any], None]) -> None:
    engine = engine_of()
    engine.warm([TEXT])
    assert hit(engine)
    change(engine.model)
    assert not hit(engine)
    engine.warm([TEXT])
    if change is not _bfloat16:  # whose rows serve in blocks that are longer than the text
        assert hit(engine), "what is computed since serves"
    answer_is_the_models_own(engine)


@contextmanager
def _patched_class(model: Any) -> Iterator[None]:
    """As kernels for training replace the methods of transformers' classes."""
    kind: Any = type(model.model.layers[0].mlp)
    before = kind.forward
    kind.forward = lambda self, states: 2 * before(self, states)
    try:
        yield
    finally:
        kind.forward = before


@contextmanager
def _hook_on_all_modules(model: Any) -> Iterator[None]:
    def larger(module: nn.Module, args: Any, output: Any) -> Any:
        return output * 1.5 if isinstance(module, nn.Linear) else None

    with nn.modules.module.register_module_forward_hook(larger):
        yield


@contextmanager
def _other_window(model: Any) -> Iterator[None]:
    """A whole number of the layers, and of the configuration."""
    before = model.config.sliding_window
    for window in (4, before):
        model.config.sliding_window = window
        for layer in model.model.layers:
            layer.self_attn.sliding_window = layer.self_attn.sliding_window and window
        if window == 4:
            yield


@contextmanager
def _other_configuration(model: Any) -> Iterator[None]:
    before, model.config.layer_types = model.config.layer_types, ["sliding_attention"] * 4
    yield
    model.config.layer_types = before


@contextmanager
def _other_attention(model: Any) -> Iterator[None]:
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def flat(*args: Any, **settings: Any) -> Any:
        return before(*args, **(settings | {"scaling": 0.01}))

    ALL_ATTENTION_FUNCTIONS["sdpa"] = flat
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = before


@pytest.mark.parametrize(
    "change", [_patched_class, _hook_on_all_modules, _other_window, _other_configuration, _other_attention]
)
def test_code_and_configuration_that_are_patched_are_noticed(change: Callable[[Any], Any], tmp_path: Path) -> None:
    model = tiny_model("gemma2" if "_attention" not in change.__name__ else "llama")
    with in_folder(tmp_path, model) as engine:
        engine.warm([TEXT])
        assert hit(engine)
        with change(engine.model):
            assert not hit(engine)
            engine.warm([OTHER])
            assert hit(engine, OTHER + "?")
        assert hit(engine), "as before"
        assert not hit(engine, OTHER + "?")


def test_settings_that_compute_nothing_do_not_count() -> None:
    engine = engine_of()
    engine.warm([TEXT])
    engine.model.config.use_cache = False  # as trainers set them
    engine.model.config.pad_token_id = 258
    engine.model.config.output_attentions = False
    engine.model.requires_grad_(True)
    assert hit(engine)


def _merge(layer: Any) -> None:
    layer.merge()


def _scale_adapter(layer: Any) -> None:
    layer.scaling["a"] *= 2


def _set_scale(layer: Any) -> None:
    layer.set_scale("a", 3.0)


def _train_adapter(layer: Any) -> None:
    layer.lora_B["a"].weight.data.mul_(1.1)


@pytest.mark.parametrize("change", [_merge, _scale_adapter, _set_scale, _train_adapter])
def test_a_changed_adapter_is_noticed_by_the_next_call(change: Callable[[Any], None]) -> None:
    model: Any = with_adapters("a")
    engine = engine_of(model)
    engine.warm([TEXT])
    change(model.model.layers[2].self_attn.v_proj)
    assert not hit(engine)
    answer_is_the_models_own(engine)


def test_what_an_inactive_adapter_holds_changes_nothing() -> None:
    model: Any = with_adapters("a", "b")
    engine = engine_of(model)
    engine.warm([TEXT])
    _scale_adapter(model.model.layers[2].self_attn.v_proj)
    _train_adapter(model.model.layers[2].self_attn.v_proj)
    assert hit(engine)


def test_a_hook_that_goes_again_leaves_the_rows_from_before() -> None:
    engine = engine_of()
    engine.warm([TEXT])
    handle = engine.model.model.layers[0].register_forward_hook(lambda module, args, output: output * 1.5)
    assert not hit(engine)
    engine.warm([TEXT])
    handle.remove()
    assert hit(engine)
    answer_is_the_models_own(engine)
    engine.model.model.layers[0].register_forward_hook(lambda module, args, output: output * 2)
    assert not hit(engine), "another hook than the first"


def test_weights_made_in_inference_mode_are_watched_too() -> None:
    with torch.inference_mode():
        model = tiny_model("llama")
        with torch.random.fork_rng(devices=[]):
            copies = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(copies, assign=True)
    assert next(model.parameters()).is_inference()
    engine = engine_of(model)
    engine.warm([TEXT])
    assert hit(engine)
    with torch.inference_mode():
        _multiply_data(model)
    assert not hit(engine)


def test_float32_precision_is_a_part_of_what_computes() -> None:
    engine = engine_of()
    engine.warm([TEXT])
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert not hit(engine)
    finally:
        torch.set_float32_matmul_precision(before)
    assert hit(engine)


@pytest.mark.parametrize("name", TINY)
def test_calls_change_nothing_themselves(name: str) -> None:
    engine = engine_of(tiny_model(name))
    before = engine.weights.identity()
    engine.warm([TEXT[:200]])
    engine.generate(TEXT[:150] + "Who?" + TEXT[:40], max_new_tokens=2, reuse=ReusePolicy(recompute_ratio=0.3))
    assert engine.weights.identity() == before
    if name not in VARYING_ROPE:
        assert hit(engine, TEXT[:200] + "?")


def test_weights_that_change_while_a_call_runs_leave_no_rows_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of()
    before = engine.pool.stats().entries
    handle = engine.model.model.layers[3].mlp.register_forward_hook(lambda *_: _multiply_data(engine.model))
    report = engine.prefill(TEXT).report
    handle.remove()
    assert not report.stored
    assert engine.pool.stats().entries == before


# --- one namespace, several weights -----------------------------------------------------------------------------------


def test_a_namespace_is_counted_and_cleared_whatever_computed_its_rows() -> None:
    model = with_adapters("a", "b")
    engine = engine_of(model)
    for adapter in ("a", "b"):
        model.set_adapter(adapter)
        engine.warm([TEXT], namespace="one")
        engine.warm([OTHER], namespace="two")
    assert engine.pool.stats(namespace="one").entries == 2
    assert engine.pool.stats().entries == 4
    assert engine.pool.clear(namespace="one") == 2
    for adapter in ("a", "b"):
        model.set_adapter(adapter)
        assert engine.prefill(ASKED, namespace="one", reuse="exact", store=False).report.outcome == "miss"
        assert engine.prefill(OTHER + "?", namespace="two", reuse="exact", store=False).report.outcome == "prefix"


def test_a_namespaces_budget_is_one_for_all_weights() -> None:
    model = with_adapters("a", "b")
    engine = engine_of(model)
    engine.warm([TEXT])
    one = engine.pool.stats().bytes
    engine = engine_of(model, pool=PoolConfig(namespace_bytes=one * 3 // 2))
    for adapter in ("a", "b"):
        model.set_adapter(adapter)
        engine.warm([TEXT])
        assert hit(engine)
    assert engine.pool.stats(namespace="default").entries == 1, "the first adapter's had to go"


def test_the_public_namespace_serves_nobody_under_other_weights() -> None:
    model = with_adapters("a", "b")
    engine = engine_of(model, pool=PoolConfig(public_namespace="manuals"))
    engine.warm([TEXT], namespace="manuals")
    assert hit(engine)
    model.set_adapter("a")
    assert not hit(engine)


# --- in a folder ------------------------------------------------------------------------------------------------------


@contextmanager
def in_folder(path: Path, model: Any, **settings: Any) -> Iterator[SemShareEngine]:
    engine = engine_of(model, pool=PoolConfig(path=path), **settings)
    yield engine
    engine.pool.close()


def test_a_folder_warmed_under_one_adapter_does_not_serve_another(tmp_path: Path) -> None:
    model = with_adapters("a", "b")
    model.set_adapter("a")
    with in_folder(tmp_path, model) as engine:
        engine.warm([TEXT])
    model.set_adapter("b")
    with in_folder(tmp_path, model) as engine:
        assert not hit(engine)
        model.set_adapter("a")
        assert hit(engine), "the first one's rows are there when it comes back"
        answer_is_the_models_own(engine)
        model.disable_adapters()
        assert not hit(engine)
        engine.warm([TEXT])
    with in_folder(tmp_path, tiny_model("llama")) as engine:
        assert hit(engine), "the model without adapters is the one whose adapters are off"


def test_a_folder_is_not_served_after_an_edit_of_one_embedding_row(tmp_path: Path) -> None:
    with in_folder(tmp_path, tiny_model("llama")) as engine:
        engine.warm([TEXT])
    with in_folder(tmp_path, tiny_model("llama")) as engine:
        assert hit(engine)
    changed = tiny_model("llama")
    changed.get_input_embeddings().weight.data[ord("e")] += 0.5
    with pytest.warns(PoolWarning, match="another model"), in_folder(tmp_path, changed) as engine:
        assert not hit(engine)


def test_rows_from_before_a_change_do_not_come_back_from_the_folder(tmp_path: Path) -> None:
    model = tiny_model("llama")
    with in_folder(tmp_path, model) as engine:
        _multiply_data(model)
        engine.warm([TEXT])
        assert hit(engine)
    with in_folder(tmp_path, tiny_model("llama")) as engine:
        assert engine.pool.stats().entries == 1
        assert not hit(engine)


def test_rows_behind_a_hook_serve_no_other_process(tmp_path: Path) -> None:
    model = tiny_model("llama")
    _hook(model)
    with in_folder(tmp_path, model) as engine:
        engine.warm([TEXT])
        assert hit(engine)
    again = tiny_model("llama")
    _hook(again)
    with in_folder(tmp_path, again) as engine:
        assert not hit(engine)


def test_a_full_checksum_sees_every_value() -> None:
    model = tiny_model("llama")
    before = Weights(model, thorough=True).base()
    assert before == Weights(tiny_model("llama"), thorough=True).base()
    weight = model.model.layers[2].mlp.down_proj.weight.data
    weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(9.0))
    assert Weights(model, thorough=True).base() != before


# --- a vocabulary that grows ------------------------------------------------------------------------------------------


def test_tokens_that_are_added_after_the_engine_was_made(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer = tiny_tokenizer()
    engine = engine_of(tiny_model("llama"), tokenizer)
    engine.warm([TEXT])
    tokenizer.add_tokens(["<note>", "<N7>"])
    engine.model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    target = "<note>" + OTHER + "<N7>" + TEXT[:200]
    assert not hit(engine)
    for reuse in ("exact", "high", "balanced", "fast", ReusePolicy(recompute_ratio=0.3), ReusePolicy.paper(0.3)):
        engine.generate(target, max_new_tokens=2, reuse=reuse, store=False)
        engine.warm([target])
        answer_is_the_models_own(engine, target)
    assert engine._runtime.facts._kinds_of[0, tokenizer.convert_tokens_to_ids("<N7>")], "a token with a digit in it"
