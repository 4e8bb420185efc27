"""The errors SemShare raises. Every message says what was wrong and what to do about it."""

from __future__ import annotations


class SemShareError(Exception):
    """Base of every error that SemShare raises on purpose."""


class ConfigError(SemShareError, ValueError):
    """A setting has a value that cannot be honoured."""


class PromptError(SemShareError, ValueError):
    """A prompt cannot be answered: empty, longer than the context, or made of unknown token ids."""


class PromptTooLongError(PromptError):
    """A prompt leaves no room for an answer in the model's context."""


class ModelError(SemShareError):
    """A model or tokenizer cannot be loaded."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """There is no model under the name or path that was given."""


class UnsupportedModelError(ModelError):
    """The model was loaded but its KV cache cannot be rearranged; the message names the reason."""


class TokenizerMismatchError(ModelError):
    """The tokenizer produces ids that the model has no embedding for."""


class MissingDependencyError(SemShareError, ImportError):
    """An optional package is absent or broken; the message names the extra that installs it."""


class ProcessError(SemShareError, RuntimeError):
    """What was made in another process cannot be used in this one, which was forked from it."""


class NestedCallError(SemShareError, RuntimeError):
    """Code that runs inside a call has called the same model, which is free when that call ends."""


class NotPicklableError(SemShareError, TypeError):
    """It holds what belongs to this process, such as a loaded model; the message says what to pickle instead."""


class NumericalError(SemShareError, ArithmeticError):
    """The model computed logits that are not numbers, so nothing it says can be trusted."""


class DeviceMemoryError(SemShareError, MemoryError):
    """A call needs more memory than the device has, also after the pool's rows have left it; nothing was lost."""


class CallTimeoutError(SemShareError, TimeoutError):
    """A call took longer than its ``timeout`` and was given up; the model is free again."""


class CallCancelledError(SemShareError):
    """A call was cancelled before its answer began; the model is free again."""


class PoolFileError(SemShareError):
    """The pool's folder, or a file in it, cannot be read or written."""


class PoolLockedError(PoolFileError):
    """Another process, or another pool of this one, owns the folder."""


class DamagedFileError(PoolFileError):
    """A file of the pool is not what was written: cut short, changed, missing, or something else altogether."""


class NewerFileError(PoolFileError):
    """A file of the pool was written by a later version of SemShare."""


class ForeignFileError(PoolFileError):
    """A file of the pool was written for another model, tokenizer or dtype."""


class PoolWarning(UserWarning):
    """The pool's folder needs attention: files are passed over, or nothing more can be written."""


class QualityWarning(UserWarning):
    """Answers lie farther from the full prefill's than their level promises, or that could not be measured."""


class EmbeddingWarning(UserWarning):
    """Prompts cannot be embedded: they are searched by their prefixes and runs of tokens alone."""


class GenerationWarning(UserWarning):
    """The model's own generation config asks for something that does not happen here."""
