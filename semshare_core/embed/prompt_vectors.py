"""The vectors of an engine's prompts. An encoder is foreign code: it may fail, be slow, or ask the engine itself.

So it runs while no lock is held, a call that must end leaves it behind, and an answer never depends on it.
"""

from __future__ import annotations

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
        foreign: whether that is somebody else's code; else it is the model's token table, and costs next to nothing.
    """

    def __init__(self, embed: Embed, *, foreign: bool) -> None:
        self._embed = embed
        self.foreign = foreign
        self._guard = whole(threading.Lock())
        self._failing = False

    def of(self, tokens: Tokens, interrupt: Interrupt = NEVER) -> NDArray[np.float32]:
        """Unit rows float32 [m, dim]; none where the encoder fails, which is warned of, or where it is it that asks.

        An encoder that asks the engine would otherwise be asked by the engine in turn, and so on for ever.

        Raises:
            ConfigError: the encoder gives something else than vectors. ModelError: it cannot be loaded.
            CallTimeoutError, CallCancelledError: ``interrupt`` ended the call before the encoder was done.
        """
        if not self.foreign:
            return self._embed(tokens)
        if id(self) in _running.get():
            return NO_VECTORS
        try:
            vectors = interrupt.wait_for(lambda: self._run(tokens))
        except SemShareError:
            raise
        except Exception as error:  # whatever a service may raise
            self.warn(error)
            return NO_VECTORS
        with self._guard:
            self._failing = False
        return vectors

    def of_kept(self, tokens: Tokens, interrupt: Interrupt = NEVER) -> NDArray[np.float32]:
        """:meth:`of` for what is kept already: nothing is raised, for the answer is there and must not be lost."""
        try:
            return self.of(tokens, interrupt)
        except SemShareError as error:
            if not interrupt.due:
                self.warn(error)
            return NO_VECTORS

    def _run(self, tokens: Tokens) -> NDArray[np.float32]:
        before = _running.set(_running.get() | {id(self)})
        try:
            return self._embed(tokens)
        finally:
            _running.reset(before)

    def warn(self, error: Exception) -> None:
        """Tell that the encoder failed: once, until it answers again."""
        with self._guard:
            first, self._failing = not self._failing, True
        if first:
            warnings.warn(
                f"embedding= failed ({type(error).__name__}: {error}). Until it answers again, prompts are searched by "
                "their prefixes and runs of tokens alone, and what is kept is not found by its likeness.",
                EmbeddingWarning,
                stacklevel=2,
            )
