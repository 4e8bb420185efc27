"""SemShareEngine: the one front door. A prompt comes in, an answer and a :class:`ReuseReport` go out."""

from __future__ import annotations

import contextvars
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from semshare_core.budget.calibration import Calibration
from semshare_core.budget.features import PlanFeatures
from semshare_core.config import PoolConfig, ReusePolicy, resolve_policy
from semshare_core.decode.generate import FinishReason, check_logits, decode
from semshare_core.decode.sampling import SamplingParams
from semshare_core.decode.settings import warn_of_overridden
from semshare_core.decode.stop_strings import AnswerText
from semshare_core.embed.encoder import EmbeddingSource, prompt_embedding
from semshare_core.embed.prompt_vectors import PromptVectors
from semshare_core.errors import CallCancelledError, ConfigError, NotPicklableError, ProcessError
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
from semshare_core.process.faiss_import import one_thread
from semshare_core.process.interrupt import NEVER, Interrupt, check_limits
from semshare_core.process.kept_errors import keeps_no_rows
from semshare_core.prompt.encode import Chat, Prompt
from semshare_core.quality.calibration_files import calibration_for
from semshare_core.quality.canary import CanaryWatch
from semshare_core.quality.replay import Replay
from semshare_core.report import ReuseReport
from semshare_core.request import Call, Served

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True)
class Generation:
    """An answer: its text (stop strings cut off), its token ids as generated, why it ended, and what was reused."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    report: ReuseReport


@dataclass(frozen=True)
class Piece:
    """A piece of a streamed answer. The last piece carries ``report``, ``finish_reason`` and all ``token_ids``."""

    text: str
    report: ReuseReport | None = None
    finish_reason: FinishReason | None = None
    token_ids: list[int] | None = None


@dataclass(frozen=True)
class Prefill:
    """A prefilled prompt: float logits [vocabulary] of the next token, a cache of all prompt rows, and the report.

    With a policy of retention the cache's layers hold different numbers of rows, and no one mask over several queries
    fits them all: feed it one token at a time, as decoding does.
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
        self.context = support.max_context(model)
        pool = pool or PoolConfig()
        self.weights = Weights(model, thorough=pool.path is not None, moving=spec.static_until is not None)
        self.canary = CanaryWatch(model, self._lock, self.policy.seed, self.weights)
        self.calibration = calibration_for(model, tokenizer, calibration)
        if self.calibration is not None:
            self.calibration.prepare()
        self._prefill = SelectivePrefill(model, spec)
        with self._lock, computing(model, OFF):
            self.weights.identity()
            self._prefill.follow(self.weights.structure)
        self._table = TokenTable(lambda: model.get_input_embeddings().weight)
        self._facts = FactTokens(tokenizer, lambda: support.vocabulary_size(model))
        embed = OFF.again()(prompt_embedding(embedding, tokenizer, self._table))  # whatever the caller has on
        self._vectors = PromptVectors(embed, foreign=embedding is not None)
        self.pool = open_pool(pool, model, tokenizer, spec.devices, embedding, self._vectors.of, self.weights)
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

    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        stop: Sequence[str] | None = None,
        seed: int | None = None,
        reuse: str | ReusePolicy | None = None,
        namespace: str | None = None,
        store: bool = True,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        **generation: Any,
    ) -> Generation:
        """Answer a prompt.

        Args:
            prompt: text (taken as it is), chat messages (through the chat template) or token ids. What messages spell
                like control tokens is text, unless they stand in a ``Chat(..., control_tokens=True)``; messages that
                end with the assistant's are the beginning of the answer.
            max_new_tokens: at most so many tokens are generated.
            temperature: 0 is greedy, otherwise sampling.
            stop: the answer ends before the first of these strings, which may be or contain special tokens.
            seed: makes sampling repeatable.
            reuse: a level or a :class:`ReusePolicy`; default: the engine's policy.
            namespace: whose references may serve, and who may be served by this prompt later.
            store: keep prompt and answer in the pool.
            timeout: seconds after which the call is given up, wherever it is; within the time of one layer.
            cancel: set from any thread, it ends the call as soon; what was generated until then is the answer, with
                ``finish_reason`` ``cancelled``.
            **generation: other fields of transformers' ``GenerationConfig``; what becomes of each is in the table of
                ``semshare_core.decode.settings``.

        Raises:
            PromptError: empty or too long a prompt. ConfigError: a setting that cannot be honoured.
            NumericalError: the model's logits are not numbers. CallTimeoutError: ``timeout`` is over.
            CallCancelledError: ``cancel`` was set before the answer began.
        """
        interrupt = Interrupt(cancel, timeout)
        sampling = self._sampling(max_new_tokens, temperature, stop, seed, generation)
        return self._answer(prompt, sampling, reuse, namespace, store, interrupt)

    def stream(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        stop: Sequence[str] | None = None,
        seed: int | None = None,
        reuse: str | ReusePolicy | None = None,
        namespace: str | None = None,
        store: bool = True,
        timeout: float | None = None,
        cancel: threading.Event | None = None,
        on_left: Callable[[ReuseReport], None] | None = None,
        **generation: Any,
    ) -> Generator[Piece, None, None]:
        """Like :meth:`generate`, piece by piece; closing the iterator ends the call within the time of one layer.

        Setting ``cancel`` does so too, from any thread and while the consumer waits for a piece; before the first token
        it ends the iterator without any piece. ``timeout`` runs from the first ``next`` to the last token, however
        slowly pieces are taken. ``on_left`` is called with the report of a stream that was closed before its last piece
        was taken.
        """
        check_limits(cancel, timeout)
        sampling = self._sampling(max_new_tokens, temperature, stop, seed, generation)
        here = Autocast.here()
        return self._stream(prompt, sampling, reuse, namespace, store, timeout, cancel, here, on_left)

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
        call = self._call(prompt, reuse, namespace, store=store, interrupt=Interrupt(cancel, timeout))
        prefilled = self._prefilled(call, store)
        call.embed_kept()
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
            call = self._call(prompt, "exact", namespace, warming=True, pinned=pin, interrupt=interrupt)
            reports.append(self._prefilled(call, store=True).report)
            call.embed_kept()  # which may take its time, and needs no cache
        return reports

    @keeps_no_rows
    def _prefilled(self, call: Call, store: bool) -> Prefill:
        def logits_of(served: Served) -> Tensor:
            logits = self._prefill.last_logits(served.cache, served.ids, served.pending)
            check_logits(logits)
            return logits

        with call.turn(self._lock, 1):
            served, logits = call.answer(1, logits_of)
            served.hand_over()
            report, check = self._finish(served, time.perf_counter(), [], store=store, copy=True)
        check()
        return Prefill(logits, served.cache, report)

    def _finish(
        self, served: Served, first_token_at: float, generated: list[int], *, store: bool, copy: bool = False
    ) -> tuple[ReuseReport, Callable[[], None]]:
        """Close the books of a call; its report, and what has it checked if the canary chooses it.

        The latter is called after the model's turn, for those who listen to the canary may be told in this thread.
        """
        asked = served.call.asked
        chosen = self.canary.chooses(asked.canary)
        replay = None
        if chosen and served.approximate and self.canary.has_room:  # copied before the pool takes the rows
            with suppress(torch.OutOfMemoryError):  # the answer is there: without room for a copy the check is dropped
                replay = Replay.of(served.ids, generated, served.cache, served.room, served.call.computed_by)
        report = served.finish(first_token_at, generated, store=store, copy=copy)
        if not chosen:
            return report, lambda: None
        if served.approximate:
            return report, partial(self.canary.check, report, asked, replay)
        return report, partial(self.canary.spare, report, asked)

    @keeps_no_rows
    def plan_features(self, prompt: Prompt, *, namespace: str | None = None) -> PlanFeatures | None:
        """What the governor would see of a prompt: looked up and matched, nothing computed; None: nothing to reuse."""
        call = self._call(prompt, "balanced", namespace)
        with self._lock, computing(self.model):  # the hooks of a call that runs would be taken for its change
            return call.features()

    def token_ids(self, prompt: Prompt) -> list[int]:
        """The ids that a prompt becomes: what the other methods see of it, checked as they check it."""
        return [int(token) for token in self._call(prompt, None, None).encoded.ids]

    def _call(
        self,
        prompt: Prompt,
        reuse: str | ReusePolicy | None,
        namespace: str | None,
        *,
        store: bool = False,
        warming: bool = False,
        pinned: bool = False,
        interrupt: Interrupt = NEVER,
    ) -> Call:
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
        asked = resolve_policy(reuse, self.policy)
        return Call(
            prompt=prompt,
            asked=asked,
            policy=self.canary.served(asked),
            namespace=namespace,
            arrived=time.perf_counter(),
            model=self.model,
            tokenizer=self.tokenizer,
            context=self.context,
            pool=self.pool,
            prefill=self._prefill,
            table=self._table,
            vectors=self._vectors,
            facts=self._facts,
            weights=self.weights,
            calibration=self.calibration,
            pinned=pinned,
            warming=warming,
            interrupt=interrupt,
        )

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
        *,
        on_token: Callable[[int], None] | None = None,
        on_prompt: Callable[[AnswerText], None] | None = None,
    ) -> Generation:
        call = self._call(prompt, reuse, namespace, store=store, interrupt=interrupt)
        sampling = call.fit(sampling)
        text = AnswerText(self.tokenizer, sampling.stop, call.encoded.ids.tolist())
        if on_prompt is not None:
            on_prompt(text)
        with call.turn(self._lock, sampling.max_new_tokens):
            served, decoded = call.answer(
                sampling.max_new_tokens,
                lambda served: decode(
                    self.model,
                    self.tokenizer,
                    served.cache,
                    served.ids,
                    sampling,
                    interrupt=interrupt,
                    on_token=on_token,
                ),
            )
            report, check = self._finish(served, decoded.first_token_at, decoded.token_ids, store=store)
            del served  # its rows leave memory before the next call's turn
        check()
        call.embed_kept()
        return Generation(text.of(decoded.token_ids), decoded.token_ids, decoded.finish_reason, report)

    def _stream(
        self,
        prompt: Prompt,
        sampling: SamplingParams,
        reuse: str | ReusePolicy | None,
        namespace: str | None,
        store: bool,
        timeout: float | None,
        cancel: threading.Event | None,
        autocast: Autocast,
        on_left: Callable[[ReuseReport], None] | None,
    ) -> Generator[Piece, None, None]:
        """The model runs in a worker thread; this generator turns its tokens into settled text."""
        tokens: queue.SimpleQueue[int | AnswerText | Generation | BaseException] = queue.SimpleQueue()
        put = tokens.put
        left = threading.Event()
        interrupt = Interrupt(cancel, timeout, left)

        def work() -> None:
            try:
                with autocast.again():
                    put(self._answer(prompt, sampling, reuse, namespace, store, interrupt, on_token=put, on_prompt=put))
            except BaseException as error:  # handed to the consumer, whose thread it belongs to
                put(error)

        context = contextvars.copy_context()
        worker = threading.Thread(target=context.run, args=(work,), name="semshare-stream", daemon=True)
        worker.start()
        try:
            ids: list[int] = []
            sent = 0
            process = os.getpid()
            while True:
                if os.getpid() != process:
                    raise ProcessError("this stream is read in a forked process, but its parent computes it: ask anew.")
                item = tokens.get()
                if isinstance(item, CallCancelledError):
                    return
                if isinstance(item, BaseException):
                    try:
                        raise item
                    finally:
                        del item  # this frame is in its traceback
                if isinstance(item, Generation):
                    on_left = None  # it takes the report with it
                    yield Piece(item.text[sent:], item.report, item.finish_reason, item.token_ids)
                    return
                if isinstance(item, AnswerText):
                    text = item
                    continue
                ids.append(item)
                settled = text.settled(ids)
                if len(settled) > sent:
                    yield Piece(settled[sent:])
                    sent = len(settled)
        finally:
            left.set()
            worker.join()
            while on_left is not None and not tokens.empty():
                if isinstance(item := tokens.get(), Generation):
                    on_left(item.report)

    def _sampling(
        self,
        max_new_tokens: int,
        temperature: float,
        stop: Sequence[str] | None,
        seed: int | None,
        extra: dict[str, Any],
    ) -> SamplingParams:
        settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "stop": stop, "seed": seed}
        return SamplingParams(**settings, **extra).ending_as(self.model)


def _compute_alone() -> None:
    """In a forked child, whose engine may be its parent's or its own."""
    torch.set_num_threads(1)  # OpenMP would wait for threads that the child does not have
    one_thread()
    torch.default_generator.seed()  # or all children would sample the same answers


forking.in_children(_compute_alone)
