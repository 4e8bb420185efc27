"""The workloads on made-up texts, and the readers on made-up packages. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.corpora import CorpusUnavailable, Row, bible, clients, fetch, pydoc_text, read_rows, write_rows, ztext
from benchmarks.corpora.archives import unpack, unpack_deb_without_dpkg
from benchmarks.workloads.codes import FACTS, answered_code, code_lookups
from benchmarks.workloads.multi_turn import Message, conversations, replay
from benchmarks.workloads.paraphrase import TAIL, paraphrases
from benchmarks.workloads.passages import cut_to_tokens, gather_tokens, pack_passages, word_count
from benchmarks.workloads.shared_prefix import shared_prefixes
from benchmarks.workloads.shuffled_edits import replace_words, shuffled_edits
from benchmarks.workloads.unrelated import unrelated, word_runs


def _texts(count: int, lines: int = 30, syllables: str = "ka lo mi ne ru sa ti vo") -> list[str]:
    """Texts of made-up words, lines of 8 to 20 words each."""
    rng = random.Random(f"{count} {lines} {syllables}")
    parts = syllables.split()

    def word() -> str:
        return "".join(rng.choice(parts) for _ in range(rng.randint(1, 4)))

    def line() -> str:
        return " ".join(word() for _ in range(rng.randint(8, 20))).capitalize() + "."

    return ["\n".join(line() for _ in range(lines)) for _ in range(count)]


TEXTS = _texts(60)


# passages


def test_passages_keep_their_size_and_never_repeat_a_line() -> None:
    cut = list(pack_passages(TEXTS, word_count, 40, 70, random.Random(1)))
    lines = [line for passage in cut for line in passage.split("\n")]
    assert len(cut) > 100
    assert all(40 <= word_count(passage) <= 70 for passage in cut)
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize("tokens", [0, 1, 7, 10**6])
def test_cut_to_tokens_is_the_longest_fitting_beginning(tokens: int) -> None:
    text = TEXTS[0]
    cut = cut_to_tokens(text, tokens, word_count)
    assert text.startswith(cut)
    assert word_count(cut) == min(tokens, word_count(text))


def test_gathering_more_than_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match="are needed"):
        gather_tokens(TEXTS[:2], 10**6, word_count, random.Random(0))


# shuffled edits


def test_edits_are_five_percent_of_the_words() -> None:
    for pair in shuffled_edits(TEXTS, word_count, tokens=4600, seeds=range(3)):
        changed = words = 0
        for position, target in enumerate(pair.target_passages):
            source = pair.reference_passages[pair.order[position]].lower().split()
            assert len(source) == len(target.split())
            words += len(source)
            changed += sum(a != b for a, b in zip(source, target.lower().split(), strict=True))
        assert 0.04 <= changed / words <= 0.06
        assert changed == pair.edited_words
        assert words == pair.words


def test_shuffled_edits_have_the_size_asked_for_and_another_order() -> None:
    for pair in shuffled_edits(TEXTS, word_count, tokens=4600):
        assert abs(word_count(pair.reference_prompt) - 4600) < 150
        assert 30 <= len(pair.reference_passages) <= 42
        assert len(set(pair.reference_passages)) == len(pair.reference_passages)
        assert sorted(pair.order) == list(range(len(pair.order))) != list(pair.order)
        assert pair.reference_prompt.endswith(pair.tail)
        assert pair.target_prompt.endswith(pair.tail)


def test_shuffled_edits_are_the_same_for_the_same_seed_alone() -> None:
    first, again, other = (shuffled_edits(TEXTS, word_count, tokens=1000, seeds=[seed])[0] for seed in (1, 1, 2))
    assert first == again
    assert first.target_prompt != other.target_prompt


def test_replaced_words_come_from_the_text_and_keep_their_capital() -> None:
    passages = ["One two three four. Five six seven eight.", "Nine ten eleven twelve."]
    edited, changed, words = replace_words(passages, 0.5, random.Random(0))
    stock = {word.strip(".").lower() for passage in passages for word in passage.split()}
    assert (changed, words) == (6, 12)
    assert {word.strip(".").lower() for passage in edited for word in passage.split()} <= stock
    assert all(passage[0].isupper() and passage.endswith(".") for passage in edited)


def test_too_little_text_for_shuffled_edits_is_refused() -> None:
    with pytest.raises(ValueError, match="short of"):
        shuffled_edits(TEXTS[:3], word_count, tokens=100_000)


# codes


def test_codes_differ_everywhere_and_never_leak() -> None:
    lookups = code_lookups(TEXTS, word_count, count=40)
    for lookup in lookups:
        old, new = (_codes(prompt) for prompt in (lookup.prompt_reference, lookup.prompt_target))
        assert len(set(old)) == len(set(new)) == FACTS
        assert set(old).isdisjoint(new)
        assert lookup.gold in new
        assert lookup.old in old
        assert old.index(lookup.old) == new.index(lookup.gold)
        assert lookup.gold not in lookup.prompt_reference
        assert lookup.old not in lookup.prompt_target
    assert len({lookup.gold for lookup in lookups}) > 30


def test_only_the_codes_differ_and_the_question_asks_for_the_gold_one() -> None:
    for lookup in code_lookups(TEXTS, word_count, count=20):
        swapped = lookup.prompt_reference
        for old, new in zip(_codes(lookup.prompt_reference), _codes(lookup.prompt_target), strict=True):
            swapped = swapped.replace(old, new)
        assert swapped == lookup.prompt_target
        asked = lookup.prompt_target.rsplit("Answer: The ", 1)[1]
        assert f"{asked} {lookup.gold}." in lookup.prompt_target
        assert f"{asked} {lookup.old}." in lookup.prompt_reference


def test_codes_are_the_same_for_the_same_seed_alone() -> None:
    assert code_lookups(TEXTS, word_count, count=3) == code_lookups(TEXTS, word_count, count=5)[:3]
    assert code_lookups(TEXTS, word_count, count=1)[0] != code_lookups(TEXTS, word_count, count=1, seed=1)[0]


def test_filler_with_digits_is_left_out() -> None:
    with pytest.raises(ValueError, match="without digits"):
        code_lookups(["In the year 1999 nothing of note took place."] * 50, word_count)


@pytest.mark.parametrize(
    ("text", "code"), [(" 4821.", "4821"), ("no code", None), ("12345", None), (" 99 or 1234, 5678", "1234")]
)
def test_the_first_code_in_an_answer_counts(text: str, code: str | None) -> None:
    assert answered_code(text) == code


def _codes(prompt: str) -> list[str]:
    return [code for word in prompt.split() if (code := answered_code(word))]


# conversations


def test_a_replay_grows_by_the_answer_and_the_next_question() -> None:
    talk = conversations(TEXTS, word_count, count=1, turns=3)[0]
    seen: list[list[Message]] = []

    def answer(messages: list[Message]) -> str:
        seen.append(messages)
        return f"answer {len(seen)}"

    held = replay(talk, answer)
    assert held.answers == ("answer 1", "answer 2", "answer 3")
    assert [len(prompt) for prompt in held.prompts] == [2, 4, 6]
    assert [list(prompt) for prompt in held.prompts] == seen
    for earlier, later in zip(held.prompts, held.prompts[1:], strict=False):
        assert later[: len(earlier)] == earlier
    assert [message["role"] for message in held.prompts[-1]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert tuple(message["content"] for message in held.prompts[-1][1::2]) == talk.user_turns


def test_conversations_are_fifty_and_each_has_a_passage_of_its_own() -> None:
    made = conversations(TEXTS, word_count)
    assert made == conversations(TEXTS, word_count)
    assert made != conversations(TEXTS, word_count, seed=1)
    assert len({talk.user_turns[0] for talk in made}) == len(made) == 50
    assert all(len(set(talk.user_turns)) == 3 for talk in made)


def test_too_little_text_for_the_conversations_is_refused() -> None:
    with pytest.raises(ValueError, match="passages"):
        conversations(TEXTS[:1], word_count)


# shared prefix, miss, paraphrase


def test_shared_prefixes_share_the_prefix_and_nothing_more() -> None:
    made = shared_prefixes(TEXTS, word_count, prefix_tokens=2000, tail_tokens=60, count=3)
    assert len({pair.target_prompt for pair in made}) == 3
    assert len({pair.reference_prompt for pair in made}) == 1
    for pair in made:
        reference, target = (prompt.removeprefix(pair.prefix) for prompt in (pair.reference_prompt, pair.target_prompt))
        assert word_count(pair.prefix) == 2000
        assert word_count(reference) == word_count(target) == 60
        assert reference[0] != target[0]
    assert made == shared_prefixes(TEXTS, word_count, prefix_tokens=2000, tail_tokens=60, count=3)


def test_an_unrelated_prompt_shares_no_run_of_words_with_the_pool() -> None:
    others = [*_texts(40, syllables="ka lo xo zu"), *TEXTS[:5]]  # some lines are the pool's own
    miss = unrelated(TEXTS, others, word_count, tokens=3000)
    known = {run for prompt in miss.pool_prompts for run in word_runs(prompt)}
    assert word_count(miss.prompt) == 3000
    assert known.isdisjoint(run for line in miss.prompt.split("\n") for run in word_runs(line))


def test_paraphrases_end_in_the_same_instruction() -> None:
    made = paraphrases([Row(id="a", reference="old words", target="new words")])
    assert (made[0].reference_prompt, made[0].target_prompt) == ("old words" + TAIL, "new words" + TAIL)


# corpora


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
