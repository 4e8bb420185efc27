"""The readers of corpora on made-up packages. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.corpora import CorpusUnavailable, Row, bible, clients, fetch, pydoc_text, read_rows, write_rows, ztext
from benchmarks.corpora.archives import unpack, unpack_deb_without_dpkg


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = [
        Row(id="1", reference="a\nb\u2028c", target="d", question="q", gold="g", old="o"),
        Row(id="2", reference="", target="é"),
    ]
    write_rows(tmp_path / "deep" / "rows.jsonl", rows)
    assert read_rows(tmp_path / "deep" / "rows.jsonl") == rows
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["rows.jsonl"]


def test_a_damaged_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "1", "reference": "a"}\n')
    with pytest.raises(ValidationError):
        read_rows(tmp_path / "rows.jsonl")


def _tiny_bible(books: int, chapters: int) -> dict[str, tuple[str, ...]]:
    return {f"B{book}.{n}": ("one two three four",) * (n + 1) for book in range(books) for n in range(1, chapters + 1)}


def test_pairs_are_spread_over_the_books_and_within_the_bounds() -> None:
    reference, target = _tiny_bible(6, 5), _tiny_bible(6, 5)
    target["B0.3"] = (*target["B0.3"], "a verse more")  # counted differently: no alignment
    del target["B1.3"]
    pairs = bible.select_pairs(reference, target, 6, 12, 20)
    assert len({pair.id.split(".")[0] for pair in pairs}) == 6
    assert all(12 <= len(pair.target_text.split()) <= 20 for pair in pairs)
    assert {"B0.3", "B1.3"}.isdisjoint(pair.id for pair in pairs)
    assert len(bible.select_pairs(reference, target, 4, 12, 20)) == 4
    assert len(bible.select_pairs(reference, target, 100, 12, 20)) == 6 * 3 - 2
    assert bible.select_pairs({}, {}, 4, 1, 9) == []


def test_bible_rows_and_texts_come_from_the_chapters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bible, "chapters", lambda translation: {"Gen.1": (f"In {translation}",) * 400})
    rows = bible.rows()
    assert [(row.id, row.reference.split()[1], row.target.split()[1]) for row in rows] == [
        ("bible-Gen.1", "kjv", "web")
    ]
    assert bible.chapter_texts()[0].split("\n")[0] == "In web"
    assert bible.chapter_texts(min_words=10_000) == []


def test_markup_goes_and_words_stay() -> None:
    markup = (
        '<w lemma="strong:H0430">God</w><note placement="foot"><reference>1:1 </reference>A note.</note>'
        '<w>made</w><title type="x">A title</title><note>x</note>, <divineName>Lord</divineName> &amp; <l/>all<lb/>'
    )
    assert ztext.plain(markup) == "God made, Lord & all"


def test_ztext_chapters_are_found_by_their_markers(tmp_path: Path) -> None:
    _write_module(
        tmp_path,
        [
            "",
            '<div osisID="Gen" type="book"/>',
            '<chapter n="1" osisID="Gen.1" sID="Gen.1"/>',
            "First.",
            "Second.",
            "",
            'Third.<chapter eID="Gen.1"/>',
            '<title>Psalm</title><chapter osisID="Gen.2" sID="Gen.2"/> ',
            "<w>Fourth</w>.",
        ],
    )
    assert ztext.read_chapters(tmp_path) == {"Gen.1": ("First.", "Second.", "Third."), "Gen.2": ("Fourth.",)}
    (tmp_path / "nt.bzz").write_bytes(b"damaged")
    with pytest.raises(CorpusUnavailable, match="nt cannot be read"):
        ztext.read_chapters(tmp_path)


def _write_module(folder: Path, entries: list[str]) -> None:
    blocks = [zlib.compress("".join(entries).encode())]
    lengths = [len(entry.encode()) for entry in entries]
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    for testament, verses in (("ot", list(zip(starts, lengths, strict=True))), ("nt", [])):
        (folder / f"{testament}.bzz").write_bytes(blocks[0])
        (folder / f"{testament}.bzs").write_bytes(struct.pack("<III", 0, len(blocks[0]), sum(lengths)))
        (folder / f"{testament}.bzv").write_bytes(b"".join(struct.pack("<IIH", 0, at, size) for at, size in verses))


def test_pydoc_passages_are_whole_and_tell_nothing_about_the_machine() -> None:
    passages = pydoc_text.passages("textwrap")
    assert len(passages) >= 4
    assert all(passage.strip() for passage in passages)
    assert all(len(passage.split()) >= 60 for passage in passages)
    everything = "\n\n".join(passages)
    assert everything.split() == pydoc_text.texts(["textwrap"])[0].split()
    assert str(Path(pydoc_text.__file__).anchor) + "usr" not in everything
    assert "textwrap.py" not in everything
    assert passages == pydoc_text.passages("textwrap")


def test_a_missing_module_is_an_unavailable_corpus() -> None:
    with pytest.raises(CorpusUnavailable, match="no module"):
        pydoc_text.module_text("no_such_module_anywhere")


# fetching


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(fetch.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "corpora"


def _tarball(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def _pin_of(content: bytes) -> fetch.Pin:
    return fetch.Pin("npm", "@scope/words", "1.0", hashlib.sha256(content).hexdigest())


def _serve(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[str]:
    """Let the registry hand out `content`; the list that is returned grows by a name a download."""
    calls: list[str] = []

    def download(package: str, version: str, into: Path) -> Path:
        calls.append(package)
        (into / "words.tar.xz").write_bytes(content)
        return into / "words.tar.xz"

    monkeypatch.setitem(fetch._DOWNLOAD, "npm", download)
    return calls


def test_a_package_is_fetched_and_unpacked_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = _tarball(words="some words")
    calls, pin = _serve(monkeypatch, content), _pin_of(content)
    for _ in range(2):
        assert (fetch.fetch_unpacked(pin) / "words").read_text() == "some words"
    assert calls == ["@scope/words"]
    assert fetch.fetch(pin).is_relative_to(cache)
    assert not list(cache.glob(".work-*"))


def test_a_damaged_cached_file_is_fetched_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = _tarball(words="some words")
    calls, pin = _serve(monkeypatch, content), _pin_of(content)
    fetch.fetch(pin).write_bytes(b"damaged")
    assert fetch.fetch(pin).read_bytes() == content
    assert len(calls) == 2
    fetch.forget(pin)
    fetch.fetch(pin)
    assert len(calls) == 3


def test_another_content_than_the_pinned_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(monkeypatch, b"something else")
    with pytest.raises(CorpusUnavailable, match="is pinned"):
        fetch.fetch(_pin_of(b"the pinned content"))
    assert not list(cache.rglob("*.xz"))


def test_a_cache_folder_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(fetch.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(CorpusUnavailable, match="cannot be written"):
        fetch.fetch(_pin_of(b""))


@pytest.mark.parametrize("client", [clients.apt_download, clients.npm_download])
def test_a_missing_client_is_told(client: fetch.Download, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CorpusUnavailable, match="not installed"):
        client("words", "1.0", tmp_path)


def test_a_debian_package_that_moved_on_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "apt-get").write_text(
        "#!/bin/sh\ncase \"$*\" in *update*) exit 0;; esac\necho 'E: gone' >&2; exit 100\n"
    )
    (tmp_path / "apt-cache").write_text("#!/bin/sh\necho '  Candidate: 2.0'\n")
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    clients._own_package_lists.cache_clear()
    with pytest.raises(CorpusUnavailable, match=r"1\.0 is pinned, but this machine's Debian offers 2\.0"):
        clients.apt_download("words", "1.0", tmp_path)
    clients._own_package_lists.cache_clear()


def test_a_debian_package_is_unpacked_without_dpkg(tmp_path: Path) -> None:
    members = {"debian-binary": b"2.0", "control.tar.xz": b"odd", "data.tar.xz": _tarball(words="some words")}
    (tmp_path / "words.deb").write_bytes(b"!<arch>\n" + b"".join(_ar_member(*member) for member in members.items()))
    unpack_deb_without_dpkg(tmp_path / "words.deb", tmp_path / "into")
    assert (tmp_path / "into" / "words").read_text() == "some words"


@pytest.mark.parametrize("name", ["a.deb", "a.whl", "a.tgz"])
def test_a_file_that_is_no_archive_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(CorpusUnavailable, match=r"cannot be unpacked|not a Debian package"):
        unpack(tmp_path / name, tmp_path / "into")


def _ar_member(name: str, content: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)
