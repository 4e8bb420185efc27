"""SemShareEngine, the front door. A prompt comes in; an answer and a :class:`ReuseReport` go out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from semshare_core.budget.calibration import Calibration
from semshare_core.budget.features import PlanFeatures
from semshare_core.config import PoolConfig, ReusePolicy, resolve_policy
from semshare_core.decode.sampling import SamplingParams
from semshare_core.decode.settings import warn_of_overridden
from semshare_core.decode.stop_strings import AnswerText
from semshare_core.embed.encoder import EmbeddingSource, prompt_embedding
from semshare_core.embed.prompt_vectors import PromptVectors
from semshare_core.errors import ConfigError, NotPicklableError, ProcessError
from semshare_core.match.facts import FactTokens
from semshare_core.match.token_table import TokenTable
from semshare_core.model import support
from semshare_core.model.arguments import check_pool, check_tokenizer, unwrap_model
from semshare_core.model.autocast import OFF, Autocast
from semshare_core.model.computing import computing
from semshare_core.model.load import load_model
from semshare_core.model.lock import lock_of
from semshare_core.model.spec import measure_spec
from semshare_core.model.weights import Weights
from semshare_core.opening import open_pool
from semshare_core.prefill.selective import SelectivePrefill
from semshare_core.prefill.trial import try_out
from semshare_core.process import forking
from semshare_core.process.faiss_import import import_faiss, one_thread
from semshare_core.process.interrupt import NEVER, Interrupt, check_limits
from semshare_core.process.kept_errors import keeps_no_rows
from semshare_core.prompt.encode import Chat, Prompt
from semshare_core.quality.calibration_files import calibration_for
from semshare_core.quality.canary import CanaryWatch
from semshare_core.quality.healing import Healing
from semshare_core.report import ReuseReport
from semshare_core.request import Request
from semshare_core.runtime import Runtime
from semshare_core.streaming import Generation, Piece, Put, stream_pieces

import_faiss()  # fail here, with the extra to install, rather than in the middle of a call

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True)
class Prefill:
    """A prefilled prompt: float logits [vocabulary] of the next token, a cache of all prompt rows, and the report.

    With ``compress=`` the layers have different numbers of rows. Append to such a cache one token at a time.
    """

    logits: Tensor
    cache: Cache
    report: ReuseReport


class SemShareEngine:
    """Serves one model and reuses the keys and values of earlier prompts. Thread-safe: calls run one at a time.

    ``pool`` stores the earlier prompts. ``canary`` (:class:`~semshare_core.quality.canary.CanaryWatch`) has the results
    of background checks. ``healing`` (:class:`~semshare_core.quality.healing.Healing`) computes approximate rows of the
    pool afresh while no call waits. ``weights`` (:class:`~semshare_core.model.weights.Weights`) identifies the present
    weights, adapters and numerics. Rows that others computed never serve.

    Args:
        model: a decoder-only transformers model whose cache has one row per token. For PEFT's ``PeftModel`` and
            ``torch.compile(model)`` the engine serves the model inside. You may switch, merge and add adapters.
        tokenizer: the model's tokenizer.
        pool: how many earlier prompts are stored, and where.
        policy: the default of ``reuse=``; level ``balanced`` if left out.
        embedding: embeds prompts for the search of similar ones: a sentence-transformers folder or object, a LangChain
            ``Embeddings``, a LlamaIndex ``BaseEmbedding``, or a function from a text to a vector. It gets long prompts
            in segments (see ``semshare_core.embed.encoder``). Several threads may call it at once, and it may call
            this engine. If it fails, the engine warns once and answers without it. Default: the mean of the model's
            token embeddings, which costs almost nothing.
        calibration: the levels' calibration: ``auto`` finds this model's (``semshare calibrate``); None: fixed shares;
            or the result of ``read_calibration(path)``.

    Raises:
        UnsupportedModelError: the model's rows cannot be reused; the message says why.
        TokenizerMismatchError: the tokenizer's ids do not fit the model.
        MissingDependencyError: FAISS is not installed, or ``embedding`` is a folder without sentence-transformers.
        ConfigError: ``embedding`` cannot embed, or ``calibration`` is not a calibration of this model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pool: PoolConfig | None = None,
        policy: str | ReusePolicy | None = None,
        embedding: EmbeddingSource | None = None,
        calibration: Calibration | Literal["auto"] | None = "auto",
    ) -> None:
        model = unwrap_model(model)
        check_tokenizer(tokenizer)
        check_pool(pool)
        self._lock = lock_of(model)
        model.eval()
        with self._lock, computing(model, OFF):  # the checks run the model, too
            support.check_servable(model)
            spec = try_out(model, measure_spec(model))
        support.check_pair(model, tokenizer)
        warn_of_overridden(model)
        self.model = model
        self.tokenizer = tokenizer
        self.policy = resolve_policy(policy, ReusePolicy(level="balanced"), "policy")
        pool = pool or PoolConfig()
        self.weights = Weights(model, thorough=pool.path is not None, moving=spec.static_until is not None)
        self.canary = CanaryWatch(model, self._lock, self.policy.seed, self.weights)
        self.calibration = calibration_for(model, tokenizer, calibration)
        if self.calibration is not None:
            _ = self.calibration.forecast  # fitted now, not within the first call
        self._prefill = SelectivePrefill(model, spec)
        with self._lock, computing(model, OFF):
            self.weights.identity()
            self._prefill.follow(self.weights.structure)
        table = TokenTable(lambda: model.get_input_embeddings().weight)
        embed = OFF.applied()(prompt_embedding(embedding, tokenizer, table))
        vectors = PromptVectors(embed, foreign=embedding is not None)
        self.pool = open_pool(pool, model, tokenizer, spec.devices, embedding, vectors.of, self.weights)
        self.healing = Healing(pool.healing, self._lock, self.pool, self._prefill, self.weights)
        self._runtime = Runtime(
            model=model,
            tokenizer=tokenizer,
            context=support.max_context(model),
            lock=self._lock,
            pool=self.pool,
            prefill=self._prefill,
            table=table,
            facts=FactTokens(tokenizer, lambda: support.vocabulary_size(model)),
            vectors=vectors,
            weights=self.weights,
            calibration=self.calibration,
            canary=self.canary,
            healing=self.healing,
        )
        self._unusable: str | None = None
        forking.renewed(self._after_fork)

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | os.PathLike[str],
        *,
        gguf_file: str | os.PathLike[str] | None = None,
        tokenizer: PreTrainedTokenizerBase | str | os.PathLike[str] | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        device_map: Any = None,
        pool: PoolConfig | None = None,
        policy: str | ReusePolicy | None = None,
        embedding: EmbeddingSource | None = None,
        calibration: Calibration | Literal["auto"] | None = "auto",
        model_kwargs: Mapping[str, Any] | None = None,
    ) -> SemShareEngine:
        """Load a model by hub id, local folder, GGUF file or ``"demo"`` and serve it; see ``semshare_core.model.load``.

        ``model_kwargs`` are other settings of transformers' ``from_pretrained``, such as ``quantization_config``.
        """
        check_pool(pool)  # before the slow loading of the model
        policy = resolve_policy(policy, ReusePolicy(level="balanced"), "policy")
        model, loaded = load_model(
            model_id,
            gguf_file=gguf_file,
            tokenizer=tokenizer,
            dtype=dtype,
            device=device,
            device_map=device_map,
            model_kwargs=model_kwargs,
        )
        return cls(model, loaded, pool=pool, policy=policy, embedding=embedding, calibration=calibration)

    @property
    def context(self) -> int:
        """The number of tokens that the model has room for, prompt and answer together."""
        return self._runtime.context

    def generate(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        *,
        reuse: str | ReusePolicy | None = None,
        namespace: str | None = None,
        store: bool = True,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        **settings: Any,
    ) -> Generation:
        """Answer a prompt.

        Args:
            prompt: a text (no chat template), chat messages (through the chat template) or token ids. Control tokens in
                messages are plain text, except in ``Chat(..., control_tokens=True)``. If the last message is the
                assistant's, the answer continues it.
            sampling: how the answer is generated. You may pass its fields by name instead; they win if both are given:
                ``max_new_tokens`` (128), ``temperature`` (0: greedy), ``stop``, ``seed``, and any other field of
                transformers' ``GenerationConfig``.
            reuse: a level or a :class:`ReusePolicy`; default: the engine's policy.
            namespace: references of this namespace serve the prompt, and the prompt later serves this namespace.
            store: store prompt and answer in the pool.
            timeout: in seconds. A late call ends with an error, within the time of one layer.
            cancel: set it from any thread to end the call within the time of one layer. The answer is the text so far,
                with the ``finish_reason`` ``cancelled``.

        Raises:
            PromptError: the prompt is empty or too long.
            ConfigError: a setting cannot be honoured.
            NumericalError: the model's logits are not numbers.
            CallTimeoutError: the call took longer than ``timeout``.
            CallCancelledError: ``cancel`` was set before the answer began.
        """
        interrupt = Interrupt(cancel, timeout)
        sampling = self._sampling(sampling, settings)
        return self._answer(prompt, sampling, reuse, namespace, store, interrupt)

    def stream(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        *,
        reuse: str | ReusePolicy | None = None,
        namespace: str | None = None,
        store: bool = True,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        on_left: Callable[[ReuseReport], None] | None = None,
        **settings: Any,
    ) -> Generator[Piece, None, None]:
        """Answer a prompt like :meth:`generate`, piece by piece.

        Closing the iterator or setting ``cancel`` ends the call within the time of one layer. If ``cancel`` is set
        before the first token, the iterator yields no piece. ``timeout`` counts from the first ``next`` to the last
        token, and includes the time that the consumer takes. ``on_left`` is called with the report if the stream is
        closed before its last piece was taken.
        """
        check_limits(cancel, timeout)
        sampling = self._sampling(sampling, settings)

        def answer(interrupt: Interrupt, put: Put) -> Generation:
            return self._answer(prompt, sampling, reuse, namespace, store, interrupt, put)

        return stream_pieces(answer, timeout=timeout, cancel=cancel, autocast=Autocast.current(), on_left=on_left)

    def prefill(
        self,
        prompt: Prompt,
        *,
        reuse: str | ReusePolicy | None = None,
        namespace: str | None = None,
        store: bool = True,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Prefill:
        """Prefill a prompt. Returns the next token's logits and a cache for any decoding loop; the caller owns it.

        ``timeout`` and ``cancel`` end the call with an error, within the time of one layer.
        """
        request = self._request(prompt, reuse, namespace, store=store, interrupt=Interrupt(cancel, timeout))
        prefilled = self._run_prefill(request, store)
        request.embed_entry()
        return prefilled

    def warm(
        self,
        prompts: Sequence[Prompt],
        *,
        namespace: str | None = None,
        pin: bool = False,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
    ) -> list[ReuseReport]:
        """Prefill prompts without approximation and store them, so that later prompts can reuse them.

        Args:
            prompts: see :meth:`generate`.
            namespace: the prompts serve this namespace. The pool's public namespace serves all; only ``warm`` writes
                there.
            pin: keep the prompts until the pool is cleared, even if nobody uses them.
            timeout, cancel: end the whole method with an error. Prompts that are already stored stay.
        """
        interrupt = Interrupt(cancel, timeout)
        if isinstance(prompts, str | Mapping | Chat) or not isinstance(prompts, Iterable):
            raise ConfigError("warm() takes a list of prompts; wrap the one you have: warm([prompt]).")
        reports = []
        for prompt in prompts:
            request = self._request(prompt, "exact", namespace, warming=True, pinned=pin, interrupt=interrupt)
            reports.append(self._run_prefill(request, store=True).report)
            request.embed_entry()
        return reports

    @keeps_no_rows
    def _run_prefill(self, request: Request, store: bool) -> Prefill:
        with request.hold_model(1):
            prefilled, logits = request.run(1, request.logits)
            prefilled.hand_over()
            report, check = request.commit(prefilled, time.perf_counter(), [], store=store, copy=True)
        check()
        return Prefill(logits, prefilled.cache, report)

    @keeps_no_rows
    def plan_features(
        self, prompt: Prompt, *, namespace: str | None = None, reuse: str | ReusePolicy = "balanced"
    ) -> PlanFeatures | None:
        """Look up and match a prompt, and return the features of the plan that ``reuse`` makes.

        None: there is nothing to reuse.
        """
        request = self._request(prompt, reuse, namespace)
        with self._lock, computing(self.model):  # another call's hooks would look like a change of the model
            return request.features()

    def token_ids(self, prompt: Prompt) -> list[int]:
        """Tokenize and check a prompt, as the other methods do."""
        return [int(token) for token in self._request(prompt, None, None).tokens]

    def _request(
        self,
        prompt: Prompt,
        reuse: str | ReusePolicy | None,
        namespace: str | None,
        *,
        store: bool = False,
        warming: bool = False,
        pinned: bool = False,
        interrupt: Interrupt = NEVER,
    ) -> Request:
        if self._unusable is not None:
            raise ProcessError(self._unusable)
        if namespace is None:
            namespace = DEFAULT_NAMESPACE
        elif not isinstance(namespace, str) or not namespace:  # callers must not share an empty name by mistake
            raise ConfigError(
                f"namespace={namespace!r} names nobody: pass a string that is not empty, or leave it out."
            )
        try:
            namespace.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"namespace={namespace!r} is not valid Unicode: {error.reason}.") from error
        if store and not warming and namespace == self.pool.config.public_namespace:
            raise ConfigError(
                f"the public namespace {namespace!r} serves everybody, so calls do not write there: use your own "
                "namespace, pass store=False, or store a prompt there with engine.warm()."
            )
        policy = resolve_policy(reuse, self.policy)
        return Request(self._runtime, prompt, policy, namespace, warming=warming, pinned=pinned, interrupt=interrupt)

    def __reduce__(self) -> NoReturn:
        raise NotPicklableError(
            "an engine cannot be pickled or copied, because it has a loaded model, locks and threads. Make one engine "
            "in each process (SemShareEngine.from_pretrained), and share it within the process."
        )

    def _after_fork(self) -> None:
        """A forked child cannot use an accelerator."""
        devices = sorted({str(place.device) for place in self.model.parameters() if place.device.type != "cpu"})
        if devices:
            self._unusable = (
                f"the model is on {', '.join(devices)}, which a forked process cannot use: make the engine in the new "
                "process, and start the process by 'spawn' (multiprocessing.get_context('spawn')) instead of by fork."
            )

    @keeps_no_rows
    def _answer(
        self,
        prompt: Prompt,
        sampling: SamplingParams,
        reuse: str | ReusePolicy | None,
        namespace: str | None,
        store: bool,
        interrupt: Interrupt,
        put: Put | None = None,
    ) -> Generation:
        """``put`` gets the answer's text first, then each generated token id."""
        request = self._request(prompt, reuse, namespace, store=store, interrupt=interrupt)
        sampling = request.fit(sampling)
        text = AnswerText(self.tokenizer, sampling.stop, request.tokens.tolist())
        if put is not None:
            put(text)
        with request.hold_model(sampling.max_new_tokens):
            prefilled, decoded = request.run(
                sampling.max_new_tokens, lambda prefilled: request.decode(prefilled, sampling, put)
            )
            report, check = request.commit(prefilled, decoded.first_token_at, decoded.token_ids, store=store)
            del prefilled  # its rows leave memory before the next call gets the model
        check()
        request.embed_entry()
        return Generation(text.of(decoded.token_ids), decoded.token_ids, decoded.finish_reason, report)

    def _sampling(self, sampling: SamplingParams | None, settings: dict[str, Any]) -> SamplingParams:
        if sampling is not None and not isinstance(sampling, SamplingParams):
            raise ConfigError(
                f"sampling={sampling!r} must be a SamplingParams; its fields can be passed by name, too: "
                "generate(prompt, max_new_tokens=64)."
            )
        known = {} if sampling is None else {name: getattr(sampling, name) for name in sampling.model_fields_set}
        return SamplingParams(**(known | settings)).ending_as(self.model)


def _compute_alone() -> None:
    """Prepare a forked child."""
    torch.set_num_threads(1)  # OpenMP would wait for threads that the child does not have
    one_thread()
    torch.default_generator.seed()  # otherwise all children would sample the same answers


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_compute_alone)
