"""The readers of HotpotQA and of the Factbook's editions on made-up files. Nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.case import answers
from benchmarks.corpora import CorpusUnavailable, factbook, factbook_facts, hotpotqa
from benchmarks.corpora.factbook_facts import FACTS, amount, fact_questions, person, place, same_answer
from hotpot_sample import hotpot_file

# HotpotQA


def test_only_questions_whose_answer_is_looked_up_are_read() -> None:
    asked = hotpotqa.read_questions(hotpot_file(6))
    assert [each.answer for each in asked] == [f"city{number}" for number in range(6)]
    assert asked[0].paragraphs[0] == "Fact 0\nThe tower of town0 stands in city0. It is old."
    odd = json.loads(hotpot_file(3))
    odd[0]["answer"], odd[1]["answer"] = "yes", "not told anywhere"
    odd[2]["question"] = "Is it city2 or city9?"  # named, so that no text is needed to say it
    assert hotpotqa.read_questions(json.dumps(odd).encode()) == ()


@pytest.mark.parametrize("content", [b"[]", b"no json", b'[{"question": "?"}]'])
def test_another_file_than_hotpotqa_is_an_unavailable_corpus(content: bytes) -> None:
    with pytest.raises(CorpusUnavailable, match="not a HotpotQA file"):
        hotpotqa.read_questions(content)


def test_shared_pairs_share_what_they_say_in_another_order() -> None:
    asked = hotpotqa.read_questions(hotpot_file(9))
    pairs = hotpotqa.shared_pairs(asked)
    assert pairs == hotpotqa.shared_pairs(asked)
    assert len(pairs) == 4
    for pair in pairs:
        common = set(pair.earlier.paragraphs) & set(pair.asked.paragraphs)
        assert len(common) == pair.shared == 4
        assert [p for p in pair.earlier.paragraphs if p in common] != [p for p in pair.asked.paragraphs if p in common]
        assert answers(pair.asked.text, [pair.asked.answer])
        assert pair.old == pair.earlier.answer
        assert not answers(pair.asked.text, [pair.old])
    used = [each.id for pair in pairs for each in (pair.earlier, pair.asked)]
    assert len(used) == len(set(used))
    assert hotpotqa.shared_pairs(asked, min_shared=5) == []
    assert hotpotqa.shared_pairs(asked, max_shared=3) == []
    with pytest.raises(ValueError, match="at least 2"):
        hotpotqa.shared_pairs(asked, min_shared=1)


@pytest.mark.parametrize("same", [True, False])
def test_reordered_pairs_have_the_same_paragraphs_in_another_order(same: bool) -> None:
    asked = hotpotqa.read_questions(hotpot_file(4))
    pairs = hotpotqa.reordered_pairs(asked, same_question=same)
    for pair in pairs:
        assert pair.earlier.paragraphs != pair.asked.paragraphs
        assert sorted(pair.earlier.paragraphs) == sorted(pair.asked.paragraphs)
        assert (pair.earlier.question == pair.asked.question) is same
        assert not answers(pair.asked.text, [pair.old] if pair.old else [])
    assert pairs != hotpotqa.reordered_pairs(asked, same_question=same, seed=1)


def test_hotpotqa_rows_carry_both_texts_and_the_question() -> None:
    pair = hotpotqa.shared_pairs(hotpotqa.read_questions(hotpot_file(2)))[0]
    (row,) = hotpotqa.rows([pair])
    assert (row.reference, row.target) == (pair.earlier.text, pair.asked.text)
    assert (row.question, row.gold, row.old) == ("Where does the tower of town1 stand?", "city1", "city0")


# Factbook


def _country(**government: str) -> dict[str, Any]:
    return {
        "Introduction": {"Background": {"text": "A land of <em>hills</em>.<br><br><strong>note:</strong>&nbsp;old"}},
        "Geography": {
            "Area": {
                "total ": {"text": "1,234 sq km"},
                "note": "an <strong>odd</strong> note",
                "water": {"text": None},
            },
            "Coastline": {"text": "0 km (landlocked)"},
        },
        "Economy": {"GDP": {"text": "left out"}},
        "Government": {
            "Country name": {"conventional short form": {"text": "Hilland (the)"}},
            "Capital": {"name": {"text": government.get("capital", "Bras&iacute;lia")}},
            "Executive branch": {"chief of state": {"text": government.get("chief", "King Otto II")}},
        },
    }


def _folders(root: Path, old: dict[str, Any], new: dict[str, Any]) -> tuple[Path, Path]:
    for edition, content in (("old", old), ("new", new)):
        for region, name in (("europe", "hl"), ("world", "xx"), ("europe", f"{edition[0]}x")):
            (root / edition / region).mkdir(parents=True, exist_ok=True)
            (root / edition / region / f"{name}.json").write_text(json.dumps(content))
    return root / "old", root / "new"


def test_a_profile_is_plain_text_by_sections() -> None:
    profile = factbook.read_profile(_country())
    assert profile is not None
    assert profile.text == (
        "Hilland\n\nIntroduction\nBackground: A land of hills.; note: old\n\n"
        "Geography\nArea: total: 1,234 sq km\nArea: note: an odd note\nCoastline: 0 km (landlocked)\n\n"
        "Government\nCountry name: conventional short form: Hilland (the)\nCapital: name: Brasília\n"
        "Executive branch: chief of state: King Otto II"
    )
    assert factbook.read_profile({"Geography": {"Area": {"text": "an ocean"}}}) is None


def test_fields_that_were_renamed_have_one_label() -> None:
    old = _country() | {"Geography": {"Elevation extremes": {"highest point": {"text": "Big Hill 99 m"}}}}
    profile = factbook.read_profile(old)
    assert profile is not None
    assert profile.fields["Geography: Elevation: highest point"] == "Big Hill 99 m"


def test_countries_of_both_editions_are_read(tmp_path: Path) -> None:
    folders = _folders(tmp_path, _country(), _country(capital="Newtown"))
    (pair,) = factbook.read_editions(*folders)
    assert pair.code == "hl"
    assert "Newtown" in pair.new.text
    assert "Newtown" not in pair.old.text
    (folders[0] / "europe" / "hl.json").write_text("{")
    with pytest.raises(CorpusUnavailable, match=r"hl\.json cannot be read"):
        factbook.read_editions(*folders)
    with pytest.raises(CorpusUnavailable, match="no country profiles"):
        factbook.read_editions(tmp_path / "nowhere", folders[1])


def test_old_answers_are_those_that_the_new_text_does_not_hold(tmp_path: Path) -> None:
    old = _country(capital="Brasilia", chief="King Otto HILL (since 1990); Heir Prince KARL")
    new = _country(chief="Queen Anna VAN DER BERG (since 2020)")
    (country,) = factbook.read_editions(*_folders(tmp_path, old, new))
    asked = {each.id: each for each in fact_questions([country])}
    assert set(asked) == {"hl-capital", "hl-chief-of-state", "hl-area"}  # no coast, and no other field
    assert (asked["hl-capital"].gold, asked["hl-capital"].old) == ("Brasília", "")
    assert (asked["hl-area"].gold, asked["hl-area"].old) == ("1,234", "")
    assert (asked["hl-chief-of-state"].gold, asked["hl-chief-of-state"].old) == ("VAN DER BERG", "HILL")
    row = factbook_facts.rows([asked["hl-chief-of-state"]])[0]
    assert row.question == "Who is the chief of state of Hilland?"
    assert answers(row.target, [row.gold])
    assert answers(row.reference, [row.old])
    assert not answers(row.target, [row.old])

    new["Introduction"]["Background"]["text"] = "Otto Hill was its king."
    (country,) = factbook.read_editions(*_folders(tmp_path, old, new))
    assert {each.old for each in fact_questions([country])} == {""}


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("President Heinz FISCHER (since 8 July 2004)", "FISCHER"),
        ("Queen ELIZABETH II (since 1952); Heir Prince CHARLES", "ELIZABETH II"),
        ("Ambassador (vacant); Chargé d'Affaires James ROSCOE (since 2025)", "ROSCOE"),
        ("President Luiz Inácio LULA da Silva", "LULA"),
        ("Donald J. TRUMP, also of the US", "TRUMP"),
        ("none; the US does not have an embassy", ""),
        ("", ""),
    ],
)
def test_a_person_is_the_first_name_in_capitals(said: str, name: str) -> None:
    assert person(said) == name


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Mont Blanc 4,807 m", "Mont Blanc"),
        ("K2 (Mt. Godwin-Austen) 8,611 m", "K2"),
        ("Dufourspitze on Monte Rosa 4,634 m", "Dufourspitze"),
        ("Washington, DC", "Washington"),
        ("unnamed elevation 105 m", ""),
    ],
)
def test_a_place_is_its_name_alone(said: str, name: str) -> None:
    assert place(said) == name


@pytest.mark.parametrize(
    ("said", "number"), [("643,801 sq km ; 551,500", "643,801"), ("68.5 km", "68.5"), ("0 km (none)", ""), ("NA", "")]
)
def test_an_amount_is_the_first_number(said: str, number: str) -> None:
    assert amount(said) == number


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("ELSISI", "EL-SISI", True),
        ("LUKASHENKO", "LUKASHENKA", True),
        ("Bogota", "Bogotá", True),
        ("HAAS", "HASLER", False),
        ("1,234", "1234", True),
        ("1,234", "1,235", False),
    ],
)
def test_spellings_of_one_name_are_the_same_answer(old: str, new: str, same: bool) -> None:
    assert same_answer(old, new) is same


def test_every_fact_names_the_country() -> None:
    assert len({fact.name for fact in FACTS}) == len({fact.field for fact in FACTS}) == 9
    assert all("{name}" in fact.question for fact in FACTS)


def test_letters_that_grow_when_folded_do_not_break_an_answer() -> None:
    assert answers("İstanbul, 1,234 people, İ,", ["1234"])
    assert not answers("İİ 1, 234", ["1234"])
