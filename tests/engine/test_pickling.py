"""Models, reports and logs are pickled and copied: settings travel, a loaded model does not, nothing is lost."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from typing import Any

import cloudpickle
import pytest
from langchain_core.prompts import PromptTemplate
from llama_index.core.callbacks import CallbackManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core import PoolConfig, ReusePolicy, SemShareEngine, errors
from semshare_core.errors import NotPicklableError
from semshare_integrations.langchain import ChatSemShare, SemShareCallbackHandler, SemShareLLM
from semshare_integrations.llama_index import SemShareEventHandler
from semshare_integrations.llama_index import SemShareLLM as LlamaIndexLLM
from semshare_integrations.statistics import ReuseLog

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = (SemShareLLM, ChatSemShare, LlamaIndexLLM)
SETTINGS: dict[str, Any] = {
    "max_new_tokens": 7,
    "reuse": ReusePolicy(level="fast"),
    "pool": PoolConfig(max_bytes=12_345_678),
    "namespace": "alice",
    "stop": ["\n"],
}


@pytest.fixture
def engine(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> SemShareEngine:
    return SemShareEngine(model, tokenizer)


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_pickled_and_the_copy_loads_its_own_model(kind: Any, pickler: Any, loads: list[Any]) -> None:
    llm = kind(model_id="demo", **SETTINGS)
    assert llm.engine is llm.engine  # loaded: the weights must not travel along
    written = pickler.dumps(llm)
    assert len(written) < 10_000
    found = pickle.loads(written)
    assert {name: getattr(found, name) for name in SETTINGS} == SETTINGS
    assert len(loads) == 1
    assert found.engine is not llm.engine
    assert loads[0] == loads[1]
    assert found.engine.pool.config.max_bytes == 12_345_678


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(protocol: int) -> None:
    found = pickle.loads(pickle.dumps(SemShareLLM(model_id="demo", seed=3), protocol))
    assert (found.model_id, found.seed) == ("demo", 3)


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", ["engine", "model"])
def test_a_live_model_is_refused_and_the_object_answers_as_before(
    kind: Any, given: str, pickler: Any, engine: SemShareEngine
) -> None:
    about = {"engine": engine} if given == "engine" else {"model": engine.model, "tokenizer": engine.tokenizer}
    llm = kind(**about, max_new_tokens=2)
    before = dict(llm.__dict__)
    with pytest.raises(NotPicklableError, match="pass model_id="):
        pickler.dumps(llm)
    assert llm.__dict__ == before
    assert (llm.complete if kind is LlamaIndexLLM else llm.invoke)("Still there?")


def test_llama_index_leaves_out_what_it_cannot_pickle_of_the_copy_only(loads: list[Any]) -> None:
    manager = CallbackManager([])
    manager.handlers.append(lambda: None)  # type: ignore[arg-type]
    llm = LlamaIndexLLM(model_id="demo", callback_manager=manager)
    assert pickle.loads(pickle.dumps(llm)).model_id == "demo"
    assert llm.callback_manager is manager


def test_an_embedding_that_cannot_be_pickled_is_not_lost_silently() -> None:
    llm = LlamaIndexLLM(model_id="demo", model_kwargs={"embedding": lambda text: [1.0]})
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(llm)
    assert llm.model_kwargs["embedding"]("text") == [1.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda llm: llm.model_copy(), lambda llm: llm.model_copy(deep=True)],
    ids=["copy", "deepcopy", "model_copy", "model_copy_deep"],
)
def test_copies_share_the_loaded_model(kind: Any, duplicate: Any, engine: SemShareEngine) -> None:
    llm = kind(engine=engine, **{name: SETTINGS[name] for name in ("max_new_tokens", "namespace")})
    found = duplicate(llm)
    assert found is not llm
    assert found.engine is llm.engine is engine
    assert found.namespace == "alice"


def test_a_chain_is_pickled(loads: list[Any]) -> None:
    chain = PromptTemplate.from_template("Q: {question}") | SemShareLLM(model_id="demo", max_new_tokens=3)
    found = pickle.loads(pickle.dumps(chain))
    assert found.invoke({"question": "Why?"}) == chain.invoke({"question": "Why?"})


def test_llama_index_writes_itself_as_a_dict_and_back() -> None:
    llm = LlamaIndexLLM(model_id="demo", max_new_tokens=9, namespace="alice")
    found = LlamaIndexLLM.from_dict(llm.to_dict())
    assert (found.model_id, found.max_new_tokens, found.namespace) == ("demo", 9, "alice")
    assert '"demo"' in llm.to_json()


def _describe(llm: Any, told: Any) -> None:
    told.put((llm.model_id, llm.max_new_tokens, llm.namespace))


@pytest.mark.slow
def test_a_spawned_process_gets_the_settings() -> None:
    spawning = multiprocessing.get_context("spawn")
    told = spawning.SimpleQueue()
    worker = spawning.Process(target=_describe, args=(SemShareLLM(model_id="demo", **SETTINGS), told))
    worker.start()
    assert told.get() == ("demo", 7, "alice")
    worker.join()


# What belongs to a process says so


@pytest.mark.parametrize("duplicate", [pickle.dumps, cloudpickle.dumps, copy.deepcopy, copy.copy])
@pytest.mark.parametrize("part", [lambda engine: engine, lambda engine: engine.pool, lambda engine: engine.canary])
def test_an_engine_and_its_parts_are_refused_with_a_sentence(duplicate: Any, part: Any, engine: SemShareEngine) -> None:
    with pytest.raises(NotPicklableError, match="cannot be pickled or copied"):
        duplicate(part(engine))
    assert engine.generate("Still there?", max_new_tokens=1).text is not None


# What does not, travels


@pytest.mark.parametrize("duplicate", [lambda each: pickle.loads(pickle.dumps(each)), copy.deepcopy])
def test_what_calls_gave_is_the_same_afterwards(duplicate: Any, engine: SemShareEngine) -> None:
    answer = engine.generate("The river ran past the old mill.", max_new_tokens=2)
    *_, last = engine.stream("The river", max_new_tokens=2)
    for each in (answer, answer.report, last, engine.pool.stats(), ReusePolicy.paper(), PoolConfig(max_bytes=5)):
        assert duplicate(each) == each
    prefilled = engine.prefill("The river ran")
    assert duplicate(prefilled).logits.equal(prefilled.logits)


@pytest.mark.parametrize("duplicate", [lambda each: pickle.loads(pickle.dumps(each)), copy.deepcopy])
@pytest.mark.parametrize("kind", [ReuseLog, SemShareCallbackHandler, SemShareEventHandler])
def test_a_log_is_copied_with_its_reports(duplicate: Any, kind: Any, engine: SemShareEngine) -> None:
    handler = kind()
    log = handler.log if kind is SemShareEventHandler else handler
    log.add(engine.generate("The river", max_new_tokens=1).report)
    found = duplicate(handler)
    again = found.log if kind is SemShareEventHandler else found
    assert again.reports == log.reports
    again.add(*log.reports)
    assert (len(again.reports), len(log.reports)) == (2, 1)


@pytest.mark.parametrize(
    "kind", [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
)
def test_errors_come_through_with_their_words(kind: type[Exception]) -> None:
    found = pickle.loads(pickle.dumps(kind("what to do")))
    assert type(found) is kind
    assert str(found) == "what to do"
