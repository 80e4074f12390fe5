"""Sentences: what is one and what is two, in several languages; nothing gets lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitslite.synthesis import MAX_CHARACTERS, pieces_to_speak
from vitslite.text.sentences import split_sentences


@pytest.mark.parametrize(
    ("voice", "sentences"),
    [
        ("en-us", ["Dr. Fox saw two giants."]),
        ("en-us", ["Ruth met Mr. Fox at 5 p.m. in St. Louis.", "They left."]),
        ("en-us", ["See no. 7."]),
        ("en-us", ["Visit the U.S. king."]),
        ("en-us", ["wait... what?", "J. R. R. Tolkien wrote 3.14, e.g. this.", "Yes!"]),
        ("en-us+f5", ["Prof. X. lives at No. 5 Main St. in town.", "Mrs. Smith vs. Dr. No, Jr. went."]),
        ("de", ["Er kam z.B. am 3. Mai.", "Dr. Fox kam auch."]),
        ("fr", ["M. Dupont est là.", "Mme. Oui arrive."]),
        ("es", ["El Sr. García llegó.", "¿Qué tal?", "¡Bien!"]),
        ("ru", ["А. С. Пушкин писал.", "Да?"]),
        ("pl", ["Dr. Kowalski przyszedł.", "Tak."]),
        ("sv", ["T.ex. kl. 5 kom han.", "Ja."]),
        ("hi", ["हाँ।", "नहीं।", "क्या?"]),
        ("ar", ["نعم.", "لا؟", "حسنا."]),
        ("ur", ["جی۔", "نہیں۔"]),
        ("hy", ["Այո։", "Ոչ։"]),
        ("am", ["ሰላም።", "እንዴት ነህ?"]),
    ],
)
def test_sentences(voice, sentences):
    assert split_sentences(" ".join(sentences), voice) == sentences
    assert split_sentences("\n\n".join(sentences), voice) == sentences


@pytest.mark.parametrize(
    ("voice", "sentences"), [("cmn", ["你好。", "你好吗？", "很好！"]), ("ja", ["はい。", "元気ですか？"])]
)
def test_sentences_without_spaces(voice, sentences):
    assert split_sentences("".join(sentences), voice) == sentences


def test_blank_lines_part_and_others_do_not():
    assert split_sentences("A headline\n\nand a text\nof two lines\n \n end") == [
        "A headline",
        "and a text of two lines",
        "end",
    ]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.text(alphabet=st.one_of(st.sampled_from(list("aB1 .?!,\n\"'")), st.characters())),
    st.sampled_from(["en-us", "cmn", "xx"]),
)
def test_nothing_is_lost(text, voice):
    assert "".join("".join(split_sentences(text, voice)).split()) == "".join(text.split())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(["word", "ab, ", "x" * 700, " ", ". "]), max_size=40))
def test_what_is_spoken_at_once_is_short(parts):
    text = "".join(parts)
    pieces = pieces_to_speak(text, "en-us")
    assert all(0 < len(piece) <= MAX_CHARACTERS for piece in pieces)
    assert [c for piece in pieces for c in piece if c.isalnum()] == [c for c in text if c.isalnum()]
    assert pieces == [p for piece in pieces for p in pieces_to_speak(piece, "en-us")]  # as if it were alone
