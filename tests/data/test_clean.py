from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tramontane.data.clean import drop_boilerplate, mask_personal_data, quality_problem, tidy
from tramontane.data.language import is_language
from tramontane.data.recipe import Quality

QUALITIES: tuple[Quality, ...] = ("none", "prose", "web")
PROSE = (
    "The old house stood at the end of the lane, and nobody had lived in it for years. Every evening the children "
    "walked past the gate with their school bags and looked up at the dark windows. Once they thought that they saw a "
    "light behind the curtains, but when they came back with a lantern there was only dust. \n\n"
    "It was Clara who found the key. She had been looking for a ball that had rolled under the hedge, and there it "
    "lay, cold and heavy, with a ribbon tied to its ring. Her brother wanted to be careful, yet he went with her."
)


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("non\u00a0breaking\u200b zero", "non breaking zero"),
        ("e\u0301te\u0301", "été"),
        ("donâ€™t, cafÃ©, â€œyesâ€\x9d", "don’t, café, “yes”"),
        ("Âge, naïve, São Paulo, È vero", "Âge, naïve, São Paulo, È vero"),  # right as it is
        ("\n \n    def f():\n\n\n        return 1  \n", "    def f():\n\n\n        return 1"),
        ("\ufeffsoft\u00adhyphen\x00", "softhyphen"),
    ],
)
def test_tidy(text: str, tidied: str) -> None:
    assert tidy(text) == tidied


def test_space_is_folded_on_demand() -> None:
    assert tidy("  a  \n\n\n\n\nb\t\n", fold_space=True) == "a\n\nb"


def test_straight_quotes_on_demand() -> None:
    assert tidy("“It’s …” non‑stop") == "“It’s …” non‑stop"
    assert tidy("“It’s …” non‑stop", straight_quotes=True) == '"It\'s ..." non-stop'


PRINTABLE = st.characters(codec="latin-1", exclude_characters=[*map(chr, range(0x80, 0xA0)), "\u00ad"])


@given(st.text(PRINTABLE, max_size=60))
def test_tidying_twice_changes_nothing_more(text: str) -> None:
    once = tidy(text, straight_quotes=True)
    assert tidy(once, straight_quotes=True) == once


def test_good_prose_passes_all_filters() -> None:
    for quality in QUALITIES:
        assert quality_problem(PROSE, quality) is None
    rng = random.Random(2)
    words = [word.strip(".,\n") for word in PROSE.split()]
    book = " ".join(" ".join(rng.choices(words, k=12)) + "." for _ in range(9_000))
    assert quality_problem(book, "prose") is None  # a whole book is no fault


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("  \n-- ", "no letters"),
        ("Too short to keep.", "fewer than 50 words"),
        ("a " * 60, "mean word length"),
        (PROSE + " #" * 40, "too many # or ellipses"),
        (" ".join(f"{number} the of 12345 and 77889 98765" for number in range(1000, 1030)), "fewer than 80 %"),
        ("zebra giraffe lion tiger " * 20, "fewer than 2 stop words"),
        ("\n".join(f"- the point number {n} of many that we have" for n in range(20)), "bullet points only"),
        (
            "\n".join(f"the story {'goes on ' * (n % 5)}{n} of it and more..." for n in range(20)),
            "lines end in ellipses",
        ),
        ("The same line to be read again and again.\n" * 30, "repeated lines"),
        ("\n\n".join([PROSE.replace("\n", " ")] * 4), "repeated lines"),
        (PROSE + " and again he said to her" * 25, "gram"),
    ],
)
def test_gopher_rules(text: str, problem: str) -> None:
    found = quality_problem(text, "prose")
    assert found is not None
    assert problem in found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (PROSE + " lorem ipsum dolor", "lorem ipsum"),
        (PROSE + " function() { return 1 }", "curly brackets"),
        (PROSE.replace(". ", "\n").replace(".", ""), "closing punctuation"),
        ("\n".join(" ".join(PROSE.split()[n : n + 4]) + "." for n in range(0, 88, 4)), "short lines"),
    ],
)
def test_web_rules_come_on_top(text: str, problem: str) -> None:
    assert quality_problem(text, "prose") is None
    found = quality_problem(text, "web")
    assert found is not None
    assert problem in found


def test_page_furniture_goes_line_by_line() -> None:
    text = "A sentence stays.\nAll rights reserved.\nWe use cookies to improve.\nIt uses cookie dough."
    assert drop_boilerplate(text) == "A sentence stays.\nIt uses cookie dough."


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to jane.doe+x@mail.example.org now", "write to [email] now"),
        ("at 192.168.0.17, version 1.2.3.4.5", "at [ip], version 1.2.3.4.5"),
        ("card 4111 1111 1111 1111", "card [card]"),
        ("serial 4111 1111 1111 1112", "serial 4111 1111 1111 1112"),  # the check digit is wrong
        ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN [iban]."),
        ("call 408-247-8880 or +44 20 7946 0958", "call [phone] or [phone]"),
        ("In 1914-1918 he paid 12.50 for 3 of 10", "In 1914-1918 he paid 12.50 for 3 of 10"),
    ],
)
def test_personal_data(text: str, masked: str) -> None:
    assert mask_personal_data(text) == masked


def test_language() -> None:
    french = "Le vent souffle sur les collines et les enfants racontent des histoires au coin du feu."
    assert is_language(PROSE, "en")
    assert not is_language(french, "en")
    assert is_language(french, "fr")
    assert is_language("Oui.", "en")  # too short to tell
