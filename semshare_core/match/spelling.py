"""From the spelling of a token in its vocabulary to the text that it stands for.

Byte-level vocabularies (GPT-2, Llama 3, Qwen, SmolLM) spell every byte by a character that stands in for it: "é" is
spelled "Ã©". SentencePiece vocabularies spell the bytes of characters that they lack "<0xE0>". Both may split a
character over several tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from transformers.convert_slow_tokenizer import bytes_to_unicode

BYTE_LEVEL_SPACE = "\u0120"
SPACE = "\u2581"
_BYTE_OF = {stand_in: byte for byte, stand_in in bytes_to_unicode().items()}
_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
_LOSSLESS = "surrogateescape"  # a byte that is no character's part becomes one that is no letter, digit or space


def reader(spellings: Collection[str]) -> Callable[[str], bytes]:
    """A function from a spelling of this vocabulary to the UTF-8 bytes of its text.

    ASCII text of a byte-level vocabulary keeps its spelling, with stand-ins for spaces and line breaks: calibrations
    were measured so.
    """
    marks = [spelling[:1] for spelling in spellings]
    return _of_stand_ins if marks.count(BYTE_LEVEL_SPACE) > marks.count(SPACE) else _of_pieces


def joined(parts: Sequence[bytes]) -> list[str]:
    """For each of these neighbours in a text, the whole characters of which it has bytes."""
    owners = [number for number, part in enumerate(parts) for _ in part]
    said = [""] * len(parts)
    at = 0
    for character in b"".join(parts).decode("utf-8", _LOSSLESS):
        end = at + len(character.encode("utf-8", _LOSSLESS))
        for owner in set(owners[at:end]):
            said[owner] += character
        at = end
    return said


def is_whole(read: bytes) -> bool:
    """Whether no character is cut at either end."""
    try:
        read.decode()
    except UnicodeDecodeError:
        return False
    return True


def _of_stand_ins(spelling: str) -> bytes:
    if not all(character in _BYTE_OF for character in spelling):  # an added token
        return spelling.encode()
    read = bytes(_BYTE_OF[character] for character in spelling)
    return spelling.encode() if read.isascii() else read


def _of_pieces(spelling: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(spelling)
    return bytes.fromhex(byte[1]) if byte else spelling.encode()
