"""What every codec must do: run over all that are registered.

``python -m pytest tests/compress/test_every_codec.py -p MODULE`` runs it over those of your module, too.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from semshare_core import PoolConfig
from semshare_core.compress.codecs import Codec, NoCodec, Pair
from semshare_core.errors import ConfigError
from semshare_core.slots import CODECS

every_codec = pytest.mark.parametrize("codec", CODECS.names())
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)

HEADS, DIM = 2, 16
LENGTHS = (1, 2, 31, 32, 33, 130)  # groups of a power of two are left with a rest, or have none


def made(name: str) -> Codec:
    codec: Codec = CODECS.get(name)()
    return codec


def rows_of(n: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Pair:
    """Keys and values of one layer; a few channels of the keys are large, as those of real models are."""
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn((1, HEADS, n, DIM), generator=generator) for _ in range(2))
    keys[..., 3] = keys[..., 3] * 2 + 20
    return keys.to(dtype), values.to(dtype)


def error(codec: Codec, rows: Pair, again: Pair) -> float:
    """The larger relative error of keys and values; of a lossless codec whether a bit differs."""
    if codec.lossless:
        return float(not all(torch.equal(a, b) for a, b in zip(rows, again, strict=True)))
    distances = [(a.float() - b.float()).norm() / a.float().norm() for a, b in zip(rows, again, strict=True)]
    return float(max(distances))


@every_codec
@every_dtype
def test_rows_come_back(codec: str, dtype: torch.dtype) -> None:
    """Bit for bit if it is lossless; else with the same shapes, and near."""
    for n in LENGTHS:
        rows = rows_of(n, dtype)
        again = made(codec).decode(made(codec).encode(rows))
        assert [(each.shape, each.dtype) for each in again] == [(each.shape, each.dtype) for each in rows]
        assert all(torch.isfinite(each).all() for each in again)
        assert error(made(codec), rows, again) < 0.5


@every_codec
def test_equal_rows_are_no_division_by_zero(codec: str) -> None:
    rows = (torch.full((1, HEADS, 40, DIM), 3.0), torch.zeros((1, HEADS, 40, DIM)))
    again = made(codec).decode(made(codec).encode(rows))
    torch.testing.assert_close(again[0], rows[0], atol=1e-2, rtol=0)
    torch.testing.assert_close(again[1], rows[1], atol=1e-2, rtol=0)


@every_codec
def test_what_is_encoded_stays_as_it_is_and_the_blobs_are_the_same_again(codec: str) -> None:
    rows, same = rows_of(50), rows_of(50)
    one, other = made(codec).encode(rows), made(codec).encode(rows)
    assert all(torch.equal(a, b) for a, b in zip(rows, same, strict=True))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@every_codec
def test_blobs_go_through_a_file(codec: str, tmp_path: Path) -> None:
    """Their names, shapes and dtypes are those of the safetensors format."""
    rows = rows_of(50, torch.bfloat16)
    blobs = made(codec).encode(rows)
    save_file({name: blob.contiguous() for name, blob in blobs.items()}, tmp_path / "rows.safetensors")
    again = made(codec).decode(load_file(tmp_path / "rows.safetensors"))
    expected = made(codec).decode(blobs)
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


@every_codec
def test_all_bytes_are_counted_and_a_lossy_codec_saves_some(codec: str) -> None:
    rows = rows_of(256)
    blobs = made(codec).encode(rows)
    held = made(codec).bytes(blobs)
    assert held == sum(blob.numel() * blob.element_size() for blob in blobs.values())
    whole = sum(each.nbytes for each in rows)
    assert held <= whole if made(codec).lossless else held < 0.9 * whole


@every_codec
def test_near_a_base_it_is_no_worse(codec: str) -> None:
    """Rows and their base as in a prompt and one that resembles it; codecs that keep no differences ignore it."""
    rows, other = rows_of(60), rows_of(60, seed=1)
    base = (rows[0] + 0.05 * other[0], rows[1] + 0.05 * other[1])
    alone = made(codec).decode(made(codec).encode(rows))
    beside = made(codec).decode(made(codec).encode(rows, base), base)
    assert error(made(codec), rows, beside) <= error(made(codec), rows, alone)


@every_codec
def test_records_can_tell_its_version(codec: str) -> None:
    assert made(codec).version >= 1
    assert made(codec).lossless in (True, False)


def test_the_pool_refuses_a_lossy_codec_and_one_without_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert PoolConfig(codec="none").codec == "none"
    monkeypatch.setitem(CODECS._members, "halves", type("Halves", (NoCodec,), {"lossless": False}))
    with pytest.raises(ConfigError, match=r"codec='halves' is lossy.*choose a lossless codec"):
        PoolConfig(codec="halves", path=tmp_path)
    monkeypatch.setitem(CODECS._members, "doubles", NoCodec)
    assert PoolConfig(codec="doubles", path=tmp_path).codec == "doubles"
    with pytest.raises(ConfigError, match="codec='doubles' is for rows in a folder: set path, too"):
        PoolConfig(codec="doubles")
