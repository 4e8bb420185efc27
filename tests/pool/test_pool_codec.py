"""Rows of the folder in a codec of one's own: written and read through it, and left alone where it is missing."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from semshare_core import PoolConfig, SemShareEngine
from semshare_core.cli.pool_archive import export_entries, import_entries
from semshare_core.cli.pool_folder import damage, look
from semshare_core.compress.codecs import Blobs, Codec, Pair
from semshare_core.errors import DamagedFileError, PoolWarning
from semshare_core.pool.disk import PoolFolder
from semshare_core.pool.disk.segment_file import StoredRows
from semshare_core.slots import CODECS
from stored_entries import MODEL, SHAPES, all_rows, keep, make_rows, same_bits, segment_id
from tiny_canary import TEXT
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("error::semshare_core.errors.PoolWarning"),
]


class Deflated(Codec):
    """Bytes deflated; dtype and shape beside them."""

    lossless = True

    def encode(self, rows: Pair, base: Pair | None = None) -> Blobs:
        blobs: Blobs = {}
        for name, tensor in zip("kv", rows, strict=True):
            packed = zlib.compress(tensor.view(torch.uint8).numpy().tobytes(), 1)
            blobs[f"{name}.packed"] = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
            blobs[f"{name}.shape"] = torch.tensor(tensor.shape)
            blobs[f"{name}.like"] = tensor.new_zeros(1)
        return blobs

    def decode(self, blobs: Blobs, base: Pair | None = None) -> Pair:
        keys, values = (
            torch.frombuffer(
                bytearray(zlib.decompress(blobs[f"{name}.packed"].numpy().tobytes())), dtype=blobs[f"{name}.like"].dtype
            ).reshape(blobs[f"{name}.shape"].tolist())
            for name in "kv"
        )
        return keys, values


@pytest.fixture
def deflated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS._members, "deflated", Deflated)


def engine_at(path: Path, codec: str = "deflated", **config: object) -> SemShareEngine:
    return SemShareEngine(tiny_model("llama"), tiny_tokenizer(), pool=PoolConfig(path=path, codec=codec, **config))


def blobs_of(path: Path) -> set[str]:
    with safe_open(path, "pt") as file:
        return {name.partition(".")[2] for name in file.keys()}  # noqa: SIM118 -- no mapping


def served(engine: SemShareEngine, prompt: str) -> tuple[int, Tensor, list[int]]:
    """The length of the prefix that came from the pool, logits and tokens, at the lossless level."""
    made = engine.prefill(prompt, reuse="exact", store=False)
    tokens = engine.generate(prompt, max_new_tokens=6, reuse="exact", store=False).token_ids
    return made.report.prefix_tokens, made.logits, list(tokens)


def keep_deflated(folder: PoolFolder) -> None:
    record = keep(folder, "one", (("a", 3), ("b", 5)))
    segments = tuple(segment._replace(codec="deflated") for segment in record.segments)
    folder.write_record(replace(record, segments=segments))


@pytest.mark.usefixtures("deflated")
def test_what_was_stored_in_it_serves_exact_calls_after_a_restart(tmp_path: Path) -> None:
    prompt = TEXT + " And what then?"
    engine = engine_at(tmp_path)
    engine.warm([TEXT])
    _, logits, tokens = served(engine, prompt)
    engine.pool.close()
    (file,) = all_rows(tmp_path)
    assert blobs_of(file) == {f"{name}.{blob}" for name in "kv" for blob in ("packed", "shape", "like")}
    for settings in ({}, {"codec": "none"}, {"read_only": True}, {"max_bytes": 0}):
        engine = engine_at(tmp_path, **settings)  # type: ignore[arg-type]
        prefix, logits_again, tokens_again = served(engine, prompt)
        assert prefix > 32
        assert torch.equal(logits, logits_again)
        assert tokens == tokens_again
        engine.pool.close()


@pytest.mark.usefixtures("deflated")
def test_an_entry_may_have_segments_in_several_codecs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shares its beginning with one that was written earlier. Without one of the codecs it cannot be served."""
    longer = TEXT + " The answer stands on the next page, where nobody looks for it. " * 3
    for codec, prompt in (("none", TEXT), ("deflated", longer)):
        engine = engine_at(tmp_path, codec)
        engine.warm([prompt])
        before = served(engine, longer + "Where?")
        engine.pool.close()
    assert sorted("k" in blobs_of(file) for file in all_rows(tmp_path)) == [False, True]
    engine = engine_at(tmp_path, "none")
    prefix, logits, tokens = served(engine, longer + "Where?")
    assert prefix == before[0] > len(TEXT)
    assert torch.equal(before[1], logits)
    assert before[2] == tokens
    engine.pool.close()
    monkeypatch.delitem(CODECS._members, "deflated")
    with pytest.warns(PoolWarning, match="codec 'deflated' 1"):
        engine = engine_at(tmp_path, "none")
    assert engine.pool.stats().entries == 0
    engine.pool.close()
    assert len(all_rows(tmp_path)) == 2


@pytest.mark.usefixtures("deflated")
def test_damage_in_a_blob_is_found_and_the_call_computes_its_prompt(tmp_path: Path) -> None:
    prompt = TEXT + " And what then?"
    engine = engine_at(tmp_path)
    engine.warm([TEXT])
    _, logits, tokens = served(engine, prompt)
    engine.pool.close()
    (file,) = all_rows(tmp_path)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with look(tmp_path) as folder:
        assert [type(error) for error, _ in damage(folder)] == [DamagedFileError]
    engine = engine_at(tmp_path)
    with pytest.warns(PoolWarning, match="does not match its checksum"):
        made = engine.prefill(prompt, reuse="exact", store=False)
    assert torch.allclose(made.logits, logits, atol=1e-4)
    assert list(engine.generate(prompt, max_new_tokens=6, reuse="exact", store=False).token_ids) == tokens
    assert engine.pool.stats().entries == 0
    engine.pool.close()
    assert not all_rows(tmp_path)


@pytest.mark.usefixtures("deflated")
@pytest.mark.parametrize("without", ["none registered", "another version", "a lossy one"])
def test_entries_wait_on_disk_for_the_codec_that_wrote_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    engine = engine_at(tmp_path)
    engine.warm([TEXT])
    engine.pool.close()
    (file,) = all_rows(tmp_path)
    with monkeypatch.context() as patch:
        if without == "none registered":
            patch.delitem(CODECS._members, "deflated")
        else:
            patch.setattr(Deflated, *(("version", 2) if without == "another version" else ("lossless", False)))
        for read_only in (True, False):
            with pytest.warns(PoolWarning, match="codec 'deflated' 1: import the file that registers it"):
                engine = engine_at(tmp_path, "none", read_only=read_only)
            assert served(engine, TEXT)[0] == 0
            engine.pool.close()
        assert file.exists()
    engine = engine_at(tmp_path)
    assert served(engine, TEXT + " And then?")[0] > 32
    engine.pool.close()


def test_the_commands_need_no_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They list entries, verify every byte and copy files as they are."""
    old, new, archive = tmp_path / "old", tmp_path / "new", tmp_path / "pool.tar"
    with monkeypatch.context() as patch:
        patch.setitem(CODECS._members, "deflated", Deflated)
        with PoolFolder(old, MODEL, codec="deflated") as folder:
            keep_deflated(folder)
    with look(old) as folder:
        assert [record.id for record in folder.records()] == ["one"]
        assert not list(damage(folder))
    assert export_entries(old, archive).copied == 1
    assert import_entries(new, archive).copied == 1
    monkeypatch.setitem(CODECS._members, "deflated", Deflated)
    with PoolFolder(new, MODEL) as folder:
        (record,) = folder.records()
        for ref in record.segments:
            rows = StoredRows(folder.rows, ref)
            for layer, pair in enumerate(make_rows(ref.id, ref.tokens)):
                assert all(same_bits(a, b) for a, b in zip(rows.layer(layer), pair, strict=True))
                dtype, heads, dim = SHAPES[layer]
                told = [(each.dtype, tuple(each.shape)) for each in rows.like(layer)]
                assert told == [(dtype, (1, heads, 0, dim)), (dtype, (1, heads, 0, dim + 1))]


@pytest.mark.usefixtures("deflated")
def test_rows_in_another_codec_than_the_record_says_are_damaged(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL, codec="deflated") as folder:
        record = keep(folder, "one", (("a", 3),))  # says that they are in `none`
        with pytest.raises(DamagedFileError, match=r"'deflated'.* instead of 'none' 1"):
            StoredRows(folder.rows, record.segments[0]).layer(0)
        with pytest.raises(DamagedFileError, match="instead of"):
            folder.rows(segment_id("a")).verify(record.segments[0])


@pytest.mark.usefixtures("deflated")
def test_a_codec_that_fails_or_gives_other_rows_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Pair:
        raise zlib.error("no more")

    def others(*_: object) -> Pair:
        return torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 9)

    with PoolFolder(tmp_path, MODEL, codec="deflated") as folder:
        keep_deflated(folder)
        rows = folder.rows(segment_id("a"))
        for decode, why in ((fails, "cannot decode layer 0.*no more"), (others, "layer 0 has other rows")):
            monkeypatch.setattr(Deflated, "decode", decode)
            with pytest.raises(DamagedFileError, match=why):
                rows.layer(0)


@pytest.mark.usefixtures("deflated")
def test_what_a_codec_cannot_encode_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Blobs:
        raise zlib.error("no more")

    monkeypatch.setattr(Deflated, "encode", fails)
    engine = engine_at(tmp_path)

    def warm() -> None:
        engine.warm([TEXT])
        engine.pool.flush()

    with pytest.warns(PoolWarning, match=r"Codec 'deflated' cannot encode .*no more.*goes on without it"):
        warm()
    assert served(engine, TEXT + " And then?")[0] > 32
    engine.pool.close()
    assert not all_rows(tmp_path)
