"""Ages and sizes as people write them."""

from __future__ import annotations

import re

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def read_age(text: str) -> float:
    """Seconds of an age such as ``90m``, ``12h``, ``30d`` or ``2w``."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])", text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no age: write a number and s, m, h, d or w, as 30d.")
    return float(found[1]) * _SECONDS[found[2]]


def read_bytes(text: str) -> int:
    """Bytes of a size such as ``500MB`` or ``2GiB``."""
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise typer.BadParameter(f"{text!r} is no size: write a number and a unit, as 500MB or 2GiB.") from error


def age(seconds: float) -> str:
    """The two largest units of an age: ``3d 4h``."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit in "dhms":
        count, left = divmod(left, _SECONDS[unit])
        if count or (parts and len(parts) < 2):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
