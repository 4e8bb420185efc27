"""The vectors of an engine's prompts. An encoder is foreign code: it may fail, be slow, or call the engine itself.

So it runs while no lock is held, a request that must end does not wait for it, and an answer never depends on it.
"""

from __future__ import annotations

import contextvars
import threading
import warnings
from contextvars import ContextVar

import numpy as np
from numpy.typing import NDArray

from semshare_core.embed.encoder import Embed
from semshare_core.errors import EmbeddingWarning, SemShareError
from semshare_core.process.forking import whole
from semshare_core.process.interrupt import NEVER, Interrupt
from semshare_core.tokens import Tokens

NO_VECTORS: NDArray[np.float32] = np.zeros((0, 0), np.float32)
"""Of a prompt that could not be embedded: it is found by its prefix and its runs of tokens alone."""

_running: ContextVar[frozenset[int]] = ContextVar("semshare_encoders", default=frozenset())


class PromptVectors:
    """Embeds prompts. Thread-safe.

    Args:
        embed: from tokens to vectors.
        foreign: whether that is somebody else's code; otherwise the model's token table, which costs next to nothing.
    """

    def __init__(self, embed: Embed, *, foreign: bool) -> None:
        self._embed = embed
        self.foreign = foreign
        self._guard = whole(threading.Lock())
        self._failing = False

    def of(self, tokens: Tokens, interrupt: Interrupt = NEVER) -> NDArray[np.float32]:
        """Unit rows float32 [m, dim]; none if the encoder fails, with a warning, or if it is the encoder that asks.

        An encoder that calls the engine would otherwise be called by the engine in turn, and so on for ever.

        Raises:
            ConfigError: the encoder gives something else than vectors. ModelError: it cannot be loaded.
            CallTimeoutError, CallCancelledError: ``interrupt`` ended the call before the encoder was done.
        """
        if not self.foreign:
            return self._embed(tokens)
        if id(self) in _running.get():
            return NO_VECTORS
        context = contextvars.copy_context()
        context.run(_running.set, _running.get() | {id(self)})
        try:
            vectors = interrupt.wait_for(lambda: context.run(self._embed, tokens))
        except SemShareError:
            raise
        except Exception as error:  # whatever a service may raise
            self.warn(error)
            return NO_VECTORS
        with self._guard:
            self._failing = False
        return vectors

    def of_kept(self, tokens: Tokens, interrupt: Interrupt = NEVER) -> NDArray[np.float32]:
        """:meth:`of` for a prompt in the pool. Nothing is raised, because its answer is there and must not be lost."""
        try:
            return self.of(tokens, interrupt)
        except SemShareError as error:
            if not interrupt.due:
                self.warn(error)
            return NO_VECTORS

    def warn(self, error: Exception) -> None:
        """Warn that the encoder failed, once until it answers again."""
        with self._guard:
            first, self._failing = not self._failing, True
        if first:
            warnings.warn(
                f"embedding= failed ({type(error).__name__}: {error}). Until it answers again, prompts are searched by "
                "their prefixes and runs of tokens alone, and what is kept is not found by its likeness.",
                EmbeddingWarning,
                stacklevel=2,
            )
