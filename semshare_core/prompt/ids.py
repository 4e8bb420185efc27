"""A prompt that is token ids already, and what else people pass as one."""

from __future__ import annotations

from collections.abc import Mapping, Set
from numbers import Integral
from typing import Any

import numpy as np

from semshare_core.errors import PromptError
from semshare_core.tokens import Tokens


def ids_of(prompt: Any) -> Tokens:
    """The ids int64 [n] of a flat list, array or tensor of them.

    Raises:
        PromptError: it is something else; the message says what to pass instead.
    """
    kind = type(prompt).__name__
    if isinstance(prompt, Mapping):
        raise PromptError(_of_mapping(prompt))
    if not hasattr(prompt, "__len__") or isinstance(prompt, bytes | bytearray | Set):
        raise PromptError(f"the prompt must be text, chat messages or token ids; got {kind}.")
    try:
        ids = np.asarray(prompt)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors on an accelerator
        raise PromptError(f"token ids must be a flat sequence of integers; got {kind}: {error}") from error
    if ids.ndim == 1 and (ids.dtype.kind in "iu" or not ids.size):
        return ids.astype(np.int64)
    if ids.dtype.kind in "iu":
        shape = list(ids.shape)
        remedy = "pass its first row, prompt[0]" if ids.ndim == 2 and len(ids) == 1 else "pass one prompt a call"
        raise PromptError(f"token ids must be a flat sequence of integers; got {kind} of shape {shape}: {remedy}.")
    raise PromptError(f"token ids must be a flat sequence of integers; got {kind}{_of_what(prompt)}.")


def _of_mapping(prompt: Mapping[Any, Any]) -> str:
    if "role" in prompt:
        return "a single message must stand in a list of messages: pass [message]."
    if "input_ids" in prompt:  # what a tokenizer returns
        return "the prompt must be the ids alone, of one prompt: pass what the tokenizer returned under 'input_ids'."
    keys = ", ".join(repr(key) for key in list(prompt)[:3])
    return f"the prompt must be text, chat messages or token ids; got {type(prompt).__name__} with {keys or 'nothing'}."


def _of_what(prompt: Any) -> str:
    """What stands in it that is no id, and how that would be passed."""
    if hasattr(prompt, "dtype"):
        return f" of {prompt.dtype}"
    strange = next((item for item in prompt if isinstance(item, bool) or not isinstance(item, Integral)), None)
    kind = type(strange).__name__
    if isinstance(strange, str):
        return " with texts: pass one text a call (engine.warm takes a list of prompts)"
    if hasattr(strange, "content") or isinstance(strange, tuple):
        return f" with {kind}: messages are mappings, {{'role': 'user', 'content': '...'}}"
    return f" with {kind} {strange!r}" if strange is not None else ""
