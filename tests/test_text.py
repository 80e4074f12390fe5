"""Frontends: pronunciations that are known, what is kept and what is refused, vocabularies that travel."""

import dataclasses
import itertools

import pytest
from common import defaults_with

from vitslite.text import espeak, phonemes
from vitslite.text.characters import normalise
from vitslite.text.frontend import Frontend, TextSettings, build_frontend, intersperse_blanks

PHONES = TextSettings()
CODEPOINTS = TextSettings(units="codepoints")
CHARACTERS = TextSettings(frontend="characters")


def spoken(text, settings=PHONES):
    return build_frontend(settings, [text]).symbols(text)[1:-1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello world", "h ə l ˈoʊ w ˈɜː l d"),
        ("judge", "dʒ ˈʌ dʒ"),
        ("treasure", "t ɹ ˈɛ ʒ ɚ"),
        ("the apple", "ð ɪ ˈæ p əl"),
        ("a button", "ɐ b ˈʌ ʔ n̩"),
        ("rebel", "ɹ ˈɛ b əl"),
    ],
)
def test_known_words(text, expected):
    assert " ".join(spoken(text)) == expected
    assert "".join(spoken(text, CODEPOINTS)).replace(" ", "") == expected.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("Yes, no; one: two. Three? Four!", ",;:.?!"),
        ("Wait... what?! No", ".?"),  # a cluster is one mark
        ('He paid 3.14, in the U.S., for "it."', ",."),  # no pause in the number, nor after the abbreviation
        ("version 3.5", ""),
        ("one — two -- three", ",,"),
        ("it's a dog's life", ""),
        ("...", None),
    ],
)
def test_marks_stand_where_the_speaker_pauses(text, marks):
    if marks is None:
        with pytest.raises(ValueError, match="nothing to speak"):
            build_frontend(PHONES, ["a"]).symbols(text)
        return
    for settings in (PHONES, CODEPOINTS):
        assert "".join(s for s in spoken(text, settings) if s in phonemes.MARKS) == marks


def test_codepoints_keep_spaces_between_words_and_clauses():
    assert "".join(spoken("Hello world, this is it.", CODEPOINTS)) == "həlˈoʊ wˈɜːld, ðɪs ɪz ɪt."
    assert all(len(s) == 1 for s in spoken("Judge the button!", CODEPOINTS))
    assert " " not in spoken("Hello world, this is it.")


def test_phonemes_do_not_depend_on_what_came_before():
    texts = [f"The {word} of the young king, is it {word}?" for word in ("boat", "treasure", "lion", "read", "bass")]
    alone = [spoken(t) for t in texts]
    espeak.speak("Something else entirely!", "en-us+f5")
    assert [spoken(t) for t in reversed(texts)] == alone[::-1]


def test_normalisation():
    assert normalise(" “Curly”\u00a0 ‘it’s’…\n\tcafe\u0301\u200b ", 1) == "\"Curly\" 'it's'... café"


def test_characters_round_trip():
    frontend = build_frontend(CHARACTERS, ["The quick brown fox, jumps over the lazy dog!"])
    ids = frontend.encode("Quick,  LAZY fox!")
    assert "".join(frontend.names(ids)) == "^quick, lazy fox!$"
    assert frontend.vocabulary == sorted(frontend.vocabulary, key=lambda s: (s != "_", s))
    for reserved in ("five $", "a_b", "a^b"):
        with pytest.raises(ValueError, match="spell it out"):
            frontend.encode(reserved)
    without_edges = build_frontend(dataclasses.replace(CHARACTERS, edges=False), ["abc $5"])
    assert "".join(without_edges.names(without_edges.encode("5$ abc"))) == "5$ abc"


@pytest.mark.parametrize("settings", [PHONES, CODEPOINTS, CHARACTERS, dataclasses.replace(PHONES, blanks=True)])
def test_state_round_trip(settings):
    texts = ["Where did the young king go?", "He went home, slowly."]
    frontend = build_frontend(settings, texts)
    again = Frontend.from_state(frontend.state())
    assert again.settings == settings and again.vocabulary == frontend.vocabulary
    assert [again.encode(t) for t in texts] == [frontend.encode(t) for t in texts]
    assert build_frontend(settings, texts[::-1]).vocabulary == frontend.vocabulary
    assert all(0 <= i < frontend.n_symbols for t in texts for i in frontend.encode(t))


def test_blanks():
    assert intersperse_blanks([5, 7]) == [0, 5, 0, 7, 0]
    plain = build_frontend(PHONES, ["hello"])
    blanked = Frontend(dataclasses.replace(PHONES, blanks=True), plain.vocabulary)
    assert blanked.encode("hello")[1::2] == plain.encode("hello") and 0 not in plain.encode("hello")


def test_given_symbols_fix_the_ids():
    settings = TextSettings(units="codepoints", edges=False, blanks=True, symbols="_ ,.abhəlˈoʊwɜːdɪa")
    frontend = build_frontend(settings, ["bad"])
    assert frontend.n_symbols == 18 and frontend.encode("hello")[1::2] == [6, 7, 8, 9, 10, 11]
    assert Frontend(settings, list("_aba"))._ids["a"] == 3  # a repeated symbol has its last place, as in VITS
    phones = build_frontend(TextSettings(symbols="_ ^ $ h ə l ˈoʊ"), [])
    assert phones.encode("hello") == [1, 3, 4, 5, 6, 2]


def test_stress_unseen_in_training_falls_back_on_another():
    frontend = build_frontend(PHONES, ["hello hug"])  # has ˈoʊ and ˈʌ, not oʊ nor ʌ
    assert "oʊ" not in frontend.vocabulary
    assert frontend._places("oʊ") == frontend._places("ˌoʊ") == frontend._places("ˈoʊ") != []
    assert frontend._places("aʊ") == []


def test_unknown_symbols_are_named():
    frontend = build_frontend(CHARACTERS, ["the cat sat"])
    with pytest.raises(
        ValueError, match=r"'z' 'q' not in the vocabulary of 10 symbols \(first after '\^the '\); respell"
    ):
        frontend.encode("the zqz cat")
    with pytest.raises(ValueError, match="'dʒ'"):
        build_frontend(PHONES, ["the cat"]).encode("the judge")
    for empty in ("", "  ", "\u200b"):
        with pytest.raises(ValueError, match="nothing to speak"):
            frontend.encode(empty)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["frontend=letters"], "text.frontend=letters is unknown: choose one of phonemes, characters"),
        (["units=phonemes"], "text.units=phonemes is unknown: choose one of phones, codepoints"),
        (["voice=xx"], "no voice 'xx'"),
        (["voice=en-us+typo"], "no voice variant 'typo'"),
        (["frontend=characters", "symbols=abc"], "must start with '_'"),
        (["symbols=_abc"], "must start with '_', the blank, not '_abc'"),
        (["frontend=characters", "symbols=_abc"], "text.edges=false"),
    ],
)
def test_impossible_settings(overrides, message):
    with pytest.raises(ValueError, match=message):
        build_frontend(defaults_with(*(f"text.{override}" for override in overrides)).text, ["abc"])


def test_phonemes_are_cached_in_a_file_that_notices_damage(tmp_path, monkeypatch):
    texts = ["The king.", "The boat?"]
    first = phonemes.phonemise_all(texts, "en-us", "phones", 2, tmp_path)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    calls = []
    real = phonemes.phonemes
    monkeypatch.setattr(phonemes, "phonemes", lambda *args: calls.append(args) or real(*args))
    assert phonemes.phonemise_all(texts, "en-us", "phones", 2, tmp_path) == first and not calls
    for damaged in (
        good[: len(good) // 2],
        b"",
        good.replace("ŋ".encode(), b"n"),
        bytes([good[0] ^ 1]) + good[1:],
    ):
        file.write_bytes(damaged)
        assert phonemes.phonemise_all(texts, "en-us", "phones", 2, tmp_path) == first
        assert len(calls) == 2 and file.read_bytes() == good
        calls.clear()
    for other in ((texts[:1], "en-us", "phones", 2), (texts, "en", "phones", 2), (texts, "en-us", "codepoints", 2)):
        phonemes.phonemise_all(*other, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_events_of_speech_are_the_phonemes_of_the_text():
    text = "The king's boat passed under every bridge in the afternoon."
    for i in range(100):  # the library loses the first events after this, if nothing is done about it
        espeak.clauses(f"The cat number {i} sat on the mat.", "en-us")
    speech = espeak.speak(text, "en-us+f5")
    names = [name for name, _ in speech.phones if name]
    assert names == [s for s in spoken(text) if s not in phonemes.MARKS]
    onsets = [sample for _, sample in speech.phones]
    assert onsets == sorted(onsets) and onsets[-1] <= len(speech.samples) and speech.sample_rate == 22050


# -------------------------------------------------------------------------------------------------- where words begin

SETTINGS = [PHONES, CODEPOINTS, CHARACTERS]
IDS = ["phones", "codepoints", "characters"]


def spoken_words(frontend, text):
    """The symbols of a text from each word's start to the next, marks and spaces taken off."""
    symbols, starts = frontend.symbols(text), frontend.word_starts(text)
    if frontend.settings.blanks:
        assert all(start % 2 for start in starts)  # blanks stand at even places
        starts = [start // 2 for start in starts]
    pieces = ["".join(symbols[a:b]) for a, b in itertools.pairwise([*starts, len(symbols)])]
    return [piece.strip(f"{phonemes.MARKS}^$ -'\"") for piece in pieces]


@pytest.mark.parametrize("settings", SETTINGS, ids=IDS)
@pytest.mark.parametrize("blanks", [False, True])
@pytest.mark.parametrize("edges", [False, True])
def test_words_begin_where_the_same_words_alone_begin(settings, blanks, edges):
    text = "Judge treasure, kittens: rebel? Don't! Museum -- button"
    alone = ["judge", "treasure", "kittens", "rebel", "don't", "museum", "button"]
    frontend = build_frontend(dataclasses.replace(settings, blanks=blanks, edges=edges), [text])
    without = dataclasses.replace(settings, edges=False)
    expected = ["".join(build_frontend(without, [word]).symbols(word)) for word in alone]
    assert spoken_words(frontend, text) == expected
    # Each index is of a token: a letter or phone, which is the first of the word in the ids too.
    names = frontend.names(frontend.encode(text))
    starts = frontend.word_starts(text)
    assert [names[start] for start in starts] == [frontend.symbols(text)[s // 2 if blanks else s] for s in starts]
    # The check can fail: one token further on there are other words.
    step = 2 if blanks else 1
    frontend.word_starts = lambda _: [start + step for start in starts]
    assert spoken_words(frontend, text) != expected


def test_word_starts_are_after_the_spaces_and_the_same_in_both_units():
    texts = [
        "In the morning, I went to the end of the road; nobody was there.",
        'He paid 3.14, in the U.S., for "it."',
        "Wait... what?! I've got 42 well-known boats — don't you",
    ]
    for text in texts:
        frontend = build_frontend(CODEPOINTS, [text])
        symbols = frontend.symbols(text)
        assert frontend.word_starts(text) == [1, *(i + 1 for i, s in enumerate(symbols) if s == " ")]
        assert spoken_words(frontend, text) == spoken_words(build_frontend(PHONES, [text]), text)


def test_word_starts_of_characters_are_those_of_the_letters():
    frontend = build_frontend(CHARACTERS, ["abc"])
    text = "“It’s”  2 dogs' well-known—bones, café don't!"
    symbols = ["^", *"\"it's\" 2 dogs' well-known-bones, café don't!", "$"]
    expected = [
        i
        for i, symbol in enumerate(symbols)
        if symbol.isalnum() and not (symbols[i - 1].isalnum() or symbols[i - 1] == "'" and symbols[i - 2].isalnum())
    ]
    assert frontend.symbols(text) == symbols
    assert frontend.word_starts(text) == expected and len(expected) == 8
    assert frontend.word_starts("...") == []


def test_espeak_runs_some_words_together():
    frontend = build_frontend(PHONES, ["the end of the road"])
    assert spoken_words(frontend, "the end of the road") == ["ðɪ", "ˈɛnd", "ʌvðə", "ɹˈoʊd"]
