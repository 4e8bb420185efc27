"""SemShareEngine: the one front door. A prompt comes in, an answer and a :class:`ReuseReport` go out."""

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
from semshare_core.report import ReuseReport
from semshare_core.request import Request
from semshare_core.runtime import Runtime
from semshare_core.streaming import Generation, Piece, Put, stream_pieces

import_faiss()  # fail here, with the extra to install, rather than in the middle of a call

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True)
class Prefill:
    """A prefilled prompt: float logits [vocabulary] of the next token, a cache of all prompt rows, and the report.

    With a policy that compresses, the cache's layers hold different numbers of rows, and no one mask over several
    queries fits them all: feed it one token at a time, as decoding does.
    """

    logits: Tensor
    cache: Cache
    report: ReuseReport


class SemShareEngine:
    """Serves one model, reusing keys and values of earlier prompts. Thread-safe: calls take turns at the model.

    ``pool`` holds the earlier prompts; ``canary`` (:class:`~semshare_core.quality.canary.CanaryWatch`) what background
    checks found, if the policy asks for some; ``weights`` (:class:`~semshare_core.model.weights.Weights`) names what
    computes rows now: those of other weights, adapters or numerics never serve.

    Args:
        model: a decoder-only transformers model whose cache keeps one row per token. Of PEFT's ``PeftModel`` the model
            inside is served, with its adapters; switch, merge and add them as you like. Of ``torch.compile(model)``
            the model inside is served, as it is without.
        tokenizer: its tokenizer.
        pool: how much is kept of earlier prompts.
        policy: what calls may reuse unless they say otherwise; default level ``balanced``.
        embedding: what embeds prompts, for the search over similar ones: a sentence-transformers folder or object, a
            LangChain ``Embeddings``, a LlamaIndex ``BaseEmbedding``, or a function from a text to a vector; long
            prompts reach it in segments (see ``semshare_core.embed.encoder``). No lock is held while it runs: it is
            called from several threads at once and may ask this very engine. Where it fails there is one warning,
            and answers without it. Default: the mean of the model's own token embeddings, which costs next to nothing.
        calibration: what the levels go by: ``auto`` takes the one of this model (``semshare calibrate``); None: the
            default for models without one; or what ``read_calibration(path)`` gives.

    Raises:
        UnsupportedModelError: the model's rows cannot be reused; the message says why.
        TokenizerMismatchError: the tokenizer's ids do not fit the model.
        MissingDependencyError: FAISS is absent, or sentence-transformers where ``embedding`` is a folder.
        ConfigError: ``embedding`` is nothing that can embed, or ``calibration`` none, or another model's.
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
        embed = OFF.again()(prompt_embedding(embedding, tokenizer, table))
        vectors = PromptVectors(embed, foreign=embedding is not None)
        self.pool = open_pool(pool, model, tokenizer, spec.devices, embedding, vectors.of, self.weights)
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
        )
        self._stranded: str | None = None
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

        ``model_kwargs`` are further settings of transformers' ``from_pretrained``, such as ``quantization_config``.
        """
        check_pool(pool)  # before the model is loaded, which takes its time
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
            prompt: text (taken as it is), chat messages (through the chat template) or token ids. What messages spell
                like control tokens is text, unless they stand in a ``Chat(..., control_tokens=True)``; messages that
                end with the assistant's are the beginning of the answer.
            sampling: how the answer is generated. Its fields may be passed by name instead, and win where both are:
                ``max_new_tokens`` (128), ``temperature`` (0: greedy), ``stop``, ``seed``, and any other field of
                transformers' ``GenerationConfig``.
            reuse: a level or a :class:`ReusePolicy`; default: the engine's policy.
            namespace: whose references may serve, and who may be served by this prompt later.
            store: keep prompt and answer in the pool.
            timeout: seconds after which the call is given up, wherever it is; within the time of one layer.
            cancel: set from any thread, it ends the call as soon; what was generated until then is the answer, with
                ``finish_reason`` ``cancelled``.

        Raises:
            PromptError: empty or too long a prompt. ConfigError: a setting that cannot be honoured.
            NumericalError: the model's logits are not numbers. CallTimeoutError: ``timeout`` is over.
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
        """Like :meth:`generate`, piece by piece; closing the iterator ends the call within the time of one layer.

        Setting ``cancel`` does so too, from any thread and while the consumer waits for a piece; before the first token
        it ends the iterator without any piece. ``timeout`` runs from the first ``next`` to the last token, however
        slowly pieces are taken. ``on_left`` is called with the report of a stream that was closed before its last piece
        was taken.
        """
        check_limits(cancel, timeout)
        sampling = self._sampling(sampling, settings)

        def answer(interrupt: Interrupt, put: Put) -> Generation:
            return self._answer(prompt, sampling, reuse, namespace, store, interrupt, put)

        return stream_pieces(answer, timeout=timeout, cancel=cancel, autocast=Autocast.here(), on_left=on_left)

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
        """Prefill only: next-token logits and a cache to decode from with any loop. The cache is the caller's own.

        ``timeout`` and ``cancel`` end it as they end :meth:`generate`, with an error each.
        """
        request = self._request(prompt, reuse, namespace, store=store, interrupt=Interrupt(cancel, timeout))
        prefilled = self._prefilled(request, store)
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
        """Prefill prompts without approximation and keep them, so that later ones can reuse them.

        Args:
            prompts: as :meth:`generate` takes them.
            namespace: whom they serve; the pool's public namespace, into which nothing else writes, serves all.
            pin: they stay until the pool is cleared, however little they are used.
            timeout, cancel: end the whole as they end :meth:`generate`, with an error each; what was kept stays.
        """
        interrupt = Interrupt(cancel, timeout)
        if isinstance(prompts, str | Mapping | Chat) or not isinstance(prompts, Iterable):
            raise ConfigError("warm() takes a list of prompts; wrap the one you have: warm([prompt]).")
        reports = []
        for prompt in prompts:
            request = self._request(prompt, "exact", namespace, warming=True, pinned=pin, interrupt=interrupt)
            reports.append(self._prefilled(request, store=True).report)
            request.embed_entry()  # which may take its time, and needs no cache
        return reports

    @keeps_no_rows
    def _prefilled(self, request: Request, store: bool) -> Prefill:
        with request.turn(1):
            prefilled, logits = request.run(1, request.logits)
            prefilled.hand_over()
            report, check = request.commit(prefilled, time.perf_counter(), [], store=store, copy=True)
        check()
        return Prefill(logits, prefilled.cache, report)

    @keeps_no_rows
    def plan_features(self, prompt: Prompt, *, namespace: str | None = None) -> PlanFeatures | None:
        """What the governor would see of a prompt: looked up and matched, nothing computed; None: nothing to reuse."""
        request = self._request(prompt, "balanced", namespace)
        with self._lock, computing(self.model):  # the hooks of a call that runs would be taken for its change
            return request.features()

    def token_ids(self, prompt: Prompt) -> list[int]:
        """The ids that a prompt becomes: what the other methods see of it, checked as they check it."""
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
        if self._stranded is not None:
            raise ProcessError(self._stranded)
        if namespace is None:
            namespace = DEFAULT_NAMESPACE
        elif not isinstance(namespace, str) or not namespace:  # an empty name must not become one that all share
            raise ConfigError(
                f"namespace={namespace!r} names nobody: pass a string that is not empty, or leave it out."
            )
        try:
            namespace.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"namespace={namespace!r} is not valid Unicode: {error.reason}.") from error
        if store and not warming and namespace == self.pool.config.public_namespace:
            raise ConfigError(
                f"the public namespace {namespace!r} serves everybody, so calls do not write there: use a namespace of "
                "your own, pass store=False, or put a prompt there on purpose with engine.warm()."
            )
        policy = resolve_policy(reuse, self.policy)
        return Request(self._runtime, prompt, policy, namespace, warming=warming, pinned=pinned, interrupt=interrupt)

    def __reduce__(self) -> NoReturn:
        raise NotPicklableError(
            "an engine cannot be pickled or copied: it holds a loaded model, locks and threads of this process. Make "
            "one in each process (SemShareEngine.from_pretrained); within a process share this one."
        )

    def _after_fork(self) -> None:
        """In a forked child an accelerator's driver does not work."""
        devices = sorted({str(place.device) for place in self.model.parameters() if place.device.type != "cpu"})
        if devices:
            self._stranded = (
                f"the model is on {', '.join(devices)}, which a forked process cannot use: make the engine in that "
                "process, and start processes by 'spawn' (multiprocessing.get_context('spawn')) instead of by fork."
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
        """``put`` takes the answer's text first, then each token id as it is generated."""
        request = self._request(prompt, reuse, namespace, store=store, interrupt=interrupt)
        sampling = request.fit(sampling)
        text = AnswerText(self.tokenizer, sampling.stop, request.tokens.tolist())
        if put is not None:
            put(text)
        with request.turn(sampling.max_new_tokens):
            prefilled, decoded = request.run(
                sampling.max_new_tokens, lambda prefilled: request.decode(prefilled, sampling, put)
            )
            report, check = request.commit(prefilled, decoded.first_token_at, decoded.token_ids, store=store)
            del prefilled  # its rows leave memory before the next call's turn
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
    """In a forked child, whose engine may be its parent's or its own."""
    torch.set_num_threads(1)  # OpenMP would wait for threads that the child does not have
    one_thread()
    torch.default_generator.seed()  # or all children would sample the same answers


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_compute_alone)
