"""A prompt that is token ids already, and errors about what else people pass as one."""

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
        raise _mapping_error(prompt)
    if not hasattr(prompt, "__len__") or isinstance(prompt, bytes | bytearray | Set):
        raise PromptError(f"the prompt must be text, chat messages or token ids; got {kind}.")
    try:
        ids = np.asarray(prompt)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors on an accelerator
        raise PromptError(f"token ids must be a flat sequence of integers; got {kind}: {error}") from error
    if ids.ndim == 1 and (ids.dtype.kind in "iu" or not ids.size):
        return ids.astype(np.int64)
    details = _wrong_item(prompt)
    if ids.dtype.kind in "iu":
        remedy = "pass its first row, prompt[0]" if ids.ndim == 2 and len(ids) == 1 else "pass one prompt a call"
        details = f" of shape {list(ids.shape)}: {remedy}"
    raise PromptError(f"token ids must be a flat sequence of integers; got {kind}{details}.")


def _mapping_error(prompt: Mapping[Any, Any]) -> PromptError:
    if "role" in prompt:
        return PromptError("a single message must stand in a list of messages: pass [message].")
    if "input_ids" in prompt:  # what a tokenizer returns
        return PromptError(
            "the prompt must be the ids alone, of one prompt: pass what the tokenizer returned under 'input_ids'."
        )
    keys = ", ".join(repr(key) for key in list(prompt)[:3]) or "nothing"
    kind = type(prompt).__name__
    return PromptError(f"the prompt must be text, chat messages or token ids; got {kind} with {keys}.")


def _wrong_item(prompt: Any) -> str:
    """The first item that is no id, and how to pass such a thing."""
    if hasattr(prompt, "dtype"):
        return f" of {prompt.dtype}"
    item = next((item for item in prompt if isinstance(item, bool) or not isinstance(item, Integral)), None)
    kind = type(item).__name__
    if isinstance(item, str):
        return " with texts: pass one text a call (engine.warm takes a list of prompts)"
    if hasattr(item, "content") or isinstance(item, tuple):
        return f" with {kind}: messages are mappings, {{'role': 'user', 'content': '...'}}"
    return f" with {kind} {item!r}" if item is not None else ""
