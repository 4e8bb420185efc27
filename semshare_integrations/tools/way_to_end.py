"""How a reply that is held to a grammar can end: the shortest way from where it stands, found by walking it.

The walk asks llguidance what may come next, so it knows whatever the grammar says: patterns, formats, least lengths,
required properties. Only few of the tokens that may come next are tried, those that end things first; hence the way
that is found is a way, and seldom not the shortest.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

_TRIED = 12  # tokens that are tried where several may come next
_NARROW = 256  # tokens that a single way is followed: it may go on for ever, with the digits of a number, say
_WIDE = 8  # ways that are followed at once
_WIDEST = 48
_MOST_STEPS = 20_000  # that are tried in one walk, about a second: a way that is longer than that counts as none

# what ends something first, what begins something last
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
    """The tokens of a vocabulary that are tried, in this order, and how many bytes, 255 at most, each of it spells."""

    tried: Numbers
    first_byte: dict[int, int]
    lengths: Bytes  # small, for all of them are looked at in every step

    @classmethod
    def of(cls, spelled: Sequence[bytes]) -> Spelling:
        """The tokens of one byte, and those of several that do nothing but end JSON."""
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
    """Whether a reply may end where ``matcher`` stands."""
    return not matcher.is_error() and bool(matcher.is_accepting() or matcher.is_stopped())


def leads_to_end(matcher: Any, way: Sequence[int]) -> bool:
    """Whether ``way`` may follow where ``matcher`` stands, and end there."""
    trial = matcher.deep_copy()
    return trial.try_consume_tokens(list(way)) == len(way) and ended(trial)


def way_to_end(
    matcher: Any, spelling: Spelling, limit: int, tags: Collection[int] = (), *, thorough: bool = True
) -> list[int] | None:
    """Tokens that bring a reply to its end from where ``matcher`` stands; None: none of at most ``limit`` were found.

    Args:
        matcher: of llguidance; left as it is.
        spelling: of the vocabulary.
        limit: at most so many tokens.
        tags: added tokens that may be the way out of free text.
        thorough: follow several ways at once where a single one does not end.
    """
    narrow = _walk(matcher, spelling, min(limit, _NARROW), tags, 1)  # finds nearly always one, and takes a millisecond
    return _walk(matcher, spelling, limit, tags, _WIDE) if narrow is None and thorough else narrow


def shortest_way_to_end(matcher: Any, spelling: Spelling, limit: int, tags: Collection[int] = ()) -> list[int] | None:
    """:func:`way_to_end`, with more care for its length than for time."""
    narrow = _walk(matcher, spelling, min(limit, _NARROW), tags, 1)
    wide = _walk(matcher, spelling, limit if narrow is None else len(narrow) - 1, tags, _WIDEST)
    return narrow if wide is None else wide


def _walk(matcher: Any, spelling: Spelling, limit: int, tags: Collection[int], width: int) -> list[int] | None:
    """Follow the ``width`` most promising ways at once, token by token."""
    waiting: dict[int, list[tuple[int, Any, tuple[int, ...]]]] = {0: [(0, matcher.deep_copy(), ())]}
    tried = 0
    for count in range(limit + 1):
        if not waiting or tried > _MOST_STEPS:
            return None
        nodes = sorted(waiting.pop(count, []), key=lambda node: node[0])  # stable: by rank, then by parent
        done = next((tokens for _, at, tokens in nodes if ended(at)), None)
        if done is not None:
            return list(done)
        seen: set[bytes] = set()
        followed = 0
        for _, at, tokens in nodes:
            bits = at.compute_bitmask()
            if bits in seen:  # the same may follow: letters of a string, say
                continue
            seen.add(bits)
            followed += 1
            for rank, step in enumerate(_steps(at, bits, spelling, tags)):
                tried += 1
                after = at.deep_copy()
                if after.try_consume_tokens(step) == len(step):
                    waiting.setdefault(count + len(step), []).append((rank, after, (*tokens, *step)))
                    if width == 1:
                        break
            if followed == width:
                break
    return None


def _steps(matcher: Any, bits: bytes, spelling: Spelling, tags: Collection[int]) -> list[list[int]]:
    """What is tried next, best first: what must come, if only one thing can."""
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
        # behind what ends something: a number has no last digit, and a token of three could follow for ever
        ends = sum(spelling.first_byte.get(step[0], 0) in _ENDING or step[0] in tags for step in steps)
        steps.insert(min(2, ends), [longest])
    return steps
