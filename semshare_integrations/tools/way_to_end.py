"""Find the shortest way to the end of a reply in a grammar, by a search.

The search asks llguidance which tokens may come next, so it respects the whole grammar: patterns, formats, least
lengths, required properties. It tries only a few of these tokens, first those that end something. So it always finds a
valid way, and nearly always the shortest.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semshare_core.process.interrupt import NEVER, Interrupt

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

_TRIED = 12  # tokens that are tried at each step
_NARROW = 256  # the longest single way while an answer is generated
_WIDE = 8  # ways that are followed at the same time
_WIDEST = 48
_MOST_STEPS = 20_000  # steps of one search, about a second; a longer search finds nothing
_MOST_SECONDS = 2.0  # of processor time: a step in a pattern with many states takes milliseconds

# first the letters that end something, last those that begin something
_ORDER = (
    b'"}]',
    b",:",
    b"123456789",
    b"0",
    b"ntf",
    b"abcdeghijklmopqrsuvwxyz",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    b"-.",
    b"{[",
)
_REST = len(_ORDER)
_ENDING = _ORDER[0] + _ORDER[1]


@dataclass(frozen=True)
class Spelling:
    """The tokens that the search tries, in this order, their first bytes, and the lengths of all tokens in bytes."""

    tried: Numbers
    first_byte: dict[int, int]
    lengths: Bytes  # at most 255: a small type, because each step reads all of them

    @classmethod
    def of(cls, spelled: Sequence[bytes]) -> Spelling:
        """Try the tokens of one byte, and those of several bytes that only end JSON."""
        ranked: list[tuple[int, int, int]] = []
        for token, text in enumerate(spelled):
            if len(text) == 1 or (text and not text.strip(b'"}], ')):
                rank = next((at for at, kind in enumerate(_ORDER) if text[:1] in kind), _REST)
                ranked.append((rank, -len(text), token))
        tried = [token for _, _, token in sorted(ranked)]
        return cls(
            np.asarray(tried, np.int64),
            {token: spelled[token][0] for token in tried},
            np.asarray([min(len(text), 255) for text in spelled], np.uint8),
        )


def ended(matcher: Any) -> bool:
    """Whether a reply may end at the present state of ``matcher``."""
    return not matcher.is_error() and bool(matcher.is_accepting() or matcher.is_stopped())


def leads_to_end(matcher: Any, way: Sequence[int]) -> bool:
    """Whether ``way`` may follow the present state of ``matcher`` and end the reply."""
    trial = matcher.deep_copy()
    return trial.try_consume_tokens(list(way)) == len(way) and ended(trial)


def way_to_end(
    matcher: Any,
    spelling: Spelling,
    limit: int,
    tags: Collection[int] = (),
    *,
    thorough: bool = True,
    interrupt: Interrupt = NEVER,
) -> list[int] | None:
    """Tokens that end a reply from the present state of ``matcher``; None if no way was found.

    Args:
        matcher: llguidance's; it does not change.
        spelling: of the vocabulary.
        limit: the largest number of tokens.
        tags: added tokens that may end free text.
        thorough: follow several ways if a single one does not end.
        interrupt: ends the search with an error.
    """
    narrow = _single(matcher, spelling, min(limit, _NARROW), tags, interrupt)  # nearly always succeeds, in milliseconds
    return _search(matcher, spelling, limit, tags, _WIDE, interrupt) if narrow is None and thorough else narrow


def shortest_way_to_end(
    matcher: Any, spelling: Spelling, limit: int, tags: Collection[int] = (), interrupt: Interrupt = NEVER
) -> list[int] | None:
    """:func:`way_to_end`, but slower and with a shorter result."""
    narrow = _single(matcher, spelling, limit, tags, interrupt)
    wide = _search(matcher, spelling, limit if narrow is None else len(narrow) - 1, tags, _WIDEST, interrupt)
    return narrow if wide is None else wide


class _Effort:
    """Ends a search that takes too long, or that nobody waits for."""

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt
        self._end = time.thread_time() + _MOST_SECONDS
        self._steps = 0

    def spent(self, steps: int) -> bool:
        """Count ``steps``. Says whether it is time to give up."""
        self._interrupt.check()
        self._steps += steps
        return self._steps > _MOST_STEPS or time.thread_time() > self._end


def _single(
    matcher: Any, spelling: Spelling, limit: int, tags: Collection[int], interrupt: Interrupt
) -> list[int] | None:
    """Take the first step after which other tokens may follow than before it: more letters end no string.

    If there is none, a pattern or a least length wants more: then take the longest.
    """
    effort = _Effort(interrupt)
    at, bits, tokens = matcher.deep_copy(), matcher.compute_bitmask(), list[int]()
    while not ended(at):
        idle: list[tuple[int, Any, list[int]]] = []
        for step in _steps(at, bits, spelling, tags):
            after = at.deep_copy()
            if effort.spent(1):
                return None
            if after.try_consume_tokens(step) != len(step):
                continue
            follow = after.compute_bitmask()
            if follow != bits or ended(after):
                at, bits = after, follow
                tokens += step
                break
            idle.append((int(spelling.lengths[step].sum()), after, step))
        else:
            if not idle:
                return None
            _, at, step = max(idle, key=lambda found: found[0])
            tokens += step
        if len(tokens) > limit:
            return None
    return tokens


def _search(
    matcher: Any, spelling: Spelling, limit: int, tags: Collection[int], width: int, interrupt: Interrupt
) -> list[int] | None:
    """Follow the ``width`` best ways at the same time, token by token (beam search).

    The best have fewest idle steps, after which the same tokens may follow as before: they have come farthest.
    """
    effort = _Effort(interrupt)
    waiting: dict[int, list[_Node]] = {0: [_Node(matcher.deep_copy())]}
    for count in range(limit + 1):
        if not waiting:
            return None
        nodes = sorted(waiting.pop(count, []), key=lambda node: (node.idle, node.rank))  # stable: then by parent
        done = next((node.tokens for node in nodes if ended(node.at)), None)
        if done is not None:
            return list(done)
        seen: set[bytes] = set()
        for node in nodes:
            bits = node.at.compute_bitmask()
            if bits in seen:  # the same tokens may follow, for example the letters of a string
                continue
            seen.add(bits)
            steps = _steps(node.at, bits, spelling, tags)
            if effort.spent(len(steps)):
                return None
            for rank, step in enumerate(steps):
                after = node.at.deep_copy()
                if after.try_consume_tokens(step) == len(step):
                    child = _Node(after, node.idle + (bits == node.before), rank, (*node.tokens, *step), bits)
                    waiting.setdefault(count + len(step), []).append(child)
            if len(seen) == width:
                break
    return None


@dataclass(frozen=True)
class _Node:
    """A way so far.

    Attributes:
        at: the matcher behind it.
        idle: how many of its steps, but the last, changed nothing.
        rank: of its last step among those of the step before.
        before: the tokens that might follow before its last step.
    """

    at: Any
    idle: int = 0
    rank: int = 0
    tokens: tuple[int, ...] = ()
    before: bytes = b""


def _steps(matcher: Any, bits: bytes, spelling: Spelling, tags: Collection[int]) -> list[list[int]]:
    """The next steps to try, the best first. If only one continuation is possible, it is the only step."""
    if forced := matcher.compute_ff_tokens():
        return [list(forced)]
    allowed: Mask = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little").astype(bool)
    steps = [[token] for token in tags if allowed[token]]
    begun: dict[int, int] = {}
    for token in spelling.tried[allowed[spelling.tried]].tolist():
        first = spelling.first_byte[token]
        begun[first] = begun.get(first, 0) + 1
        if begun[first] <= 2:
            steps.append([token])
        if len(steps) >= _TRIED:
            break
    sized = spelling.lengths * allowed[: len(spelling.lengths)]
    longest = int(sized.argmax())  # a pattern or a least length may want many bytes
    if sized[longest] > 1:
        # after the tokens that end something: a number has no last digit, and long tokens could follow for ever
        ends = sum(spelling.first_byte.get(step[0], 0) in _ENDING or step[0] in tags for step in steps)
        steps.insert(min(2, ends), [longest])
    return steps
