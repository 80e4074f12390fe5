"""What the front end reads in the languages that the documents name, and what it refuses."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitslite.datasets.demo import load_grammar
from vitslite.text import espeak
from vitslite.text.frontend import Frontend, TextSettings, build_frontend


def read(voice: str, text: str, version: int = 2, **options) -> str:
    symbols = Frontend(TextSettings(voice=voice, version=version, edges=False, **options), ["_"]).symbols(text)
    return unicodedata.normalize("NFC", " ".join(symbols))  # as these files are written


@pytest.mark.parametrize(
    ("voice", "text", "expected"),
    [
        ("en-us", "Dr. Fox left. Why?", "d ˈɑː k t ɚ f ˈɑː k s l ˈɛ f t . w ˈaɪ ?"),
        ("de", "Silben\u00adtrennung am 3. Mai.", "z ˈɪ l b ə n t ɾ ˌɛ n ʊ ŋ a m d ɾ ˈaɪ m ˈaɪ ."),
        ("fr", "M. Dupont, oui ?", "ˈɛ m d y p ˈɔ̃ , w ˈi ?"),
        ("ru", "Привет, мир!", "p rʲ i vʲ ˈe t , mʲ ˈi r !"),
        ("uk", "Добрий день!", "d ˈo b r ɪ j d ˈɛ ɲ !"),
        ("el", "Πώς είσαι; Καλά.", "p ˈo s ˌi s e ? k a l ˈa ."),
        ("hy", "Ո՞վ է։ Այո։", "ˈo v ˈe ? aɪ ˈo ."),
        ("ar", "نعم، لا؟", "n ˈa ʕ a m , l ˈaː ?"),
        ("fa", "می\u200cخواهم بروم.", "m i x ˈɑ h a m b e r ˈa v a m ."),
        ("ur", "جی۔ نہیں؟", "ɟ ˈiː . n a h ˈiː n ?"),
        ("hi", "हाँ। नहीं?", "h ˈã . n ˈʌ h ĩ ?"),
        ("bn", "আমি ভাত খাই।", "ˌa m i bʰ ˈa t o kʰ ˈa i ."),
        ("ml", "അവന്\u200d വന്നു.", "ˈɐ v ə n v ˈɐ n n u ."),
        ("am", "ሰላም። እንዴት፧", "s ˈə l a m . ʔ ˈɨ n ɨ d e t ?"),
        ("ko", "안녕하세요.", "ˈɐ n n j ʌ ŋ h ˌɐ s e j ˌo ."),
        ("ja", "「カタカナ」。はい？", "k ˌä t ä k ˈä n ä . h ˈä i ?"),
        ("cmn", "妈麻马骂吗？你好。", "m ˈɑ55 m ˈɑ35 m ˈɑ214 m ˈɑ51 m ˈɑ11 ? n i214 χ ˈɑu214 ."),
        ("cmn-latn-pinyin", "ma1 ma2 ma3 ma4", "m ˈɑ55 m ˈɑ35 m ˈɑ214 m ˈɑ51"),
        ("yue", "媽麻馬罵。", "m ˈaa1 m ˈaa4 m ˈaa5 m ˈaa6 ."),
        ("vi", "ma má mà mả mã mạ", "m ˈaː m ˈaː3 m ˌaː2 m ˈaː4 m ˈaː5 m ˈaː6"),
    ],
)
def test_languages(voice, text, expected):
    assert read(voice, text) == expected
    codepoints = read(voice, text, units="codepoints").replace(" ", "")
    assert unicodedata.normalize("NFC", codepoints) == expected.replace(" ", "")


def test_what_version_1_reads_is_what_stored_voices_were_trained_on():
    assert TextSettings().version == 1
    assert read("cmn", "妈骂", 1) == "m ˈɑ5 m ˈɑ5"  # one symbol for two tones
    assert read("hi", "हाँ।", 1) == "h ˈã"
    assert read("en-us", "Dr. Fox", 1) == "d ˈɑː k t ɚ . f ˈɑː k s"


def test_both_versions_read_the_demo_alike():
    grammar = load_grammar()
    words = [word for words in grammar.words.values() for word in words]
    texts = [*grammar.templates, *words, "The young fox, and the king: where? Here!"]
    texts = [t.replace("{", "").replace("}", "").replace("_", " ") for t in texts]
    assert [read("en-us", t, 1) for t in texts] == [read("en-us", t, 2) for t in texts] and len(texts) > 50


@pytest.mark.parametrize(
    ("voice", "a", "b"),
    [
        ("en-us", "inter\u00adnational", "international"),
        ("en-us", "inter\u200bnat\u2060io\u200dnal\ufeff", "international"),
        ("en-us", "ＡＢＣ１２？", "ABC12?"),
        ("en-us", "HELLO WORLD, STOP!", "hello world, stop!"),
        ("ru", "ПРИВЕТ МИР!", "привет мир!"),
        ("ja", "ｶﾀｶﾅ", "カタカナ"),
        ("hi", "क\u094d\u200dष", "क\u094dष"),
        ("cmn", "你好！", "你好!"),
    ],
)
def test_what_looks_alike_reads_alike(voice, a, b):
    assert read(voice, a) == read(voice, b)


def test_capitals_in_a_text_stay():
    assert read("en-us", "NASA") == read("en-us", "NASA", 1)
    assert read("en-us", "The US and us") == read("en-us", "The US and us", 1)


@pytest.mark.parametrize(
    ("voice", "text", "word"),
    [
        ("ja", "今日はいい天気です。", "今日"),
        ("en-us", "Today is 今日.", "今日"),
        ("en-us", "привет", "привет"),
        ("de", "Guten שלום", "שלום"),
        ("ko", "안녕 今", "今"),
    ],
)
def test_scripts_that_the_voice_spells_are_refused(voice, text, word):
    with pytest.raises(ValueError, match=f"the voice {voice} does not read '{word}.*it says"):
        read(voice, text)
    assert read(voice, text, 1)  # as it was
    frontend = build_frontend(
        TextSettings(voice=voice, version=2), [text, "2"]
    )  # one text does not take the others with it
    assert frontend.encode("2")
    with pytest.raises(ValueError, match="no text with anything to speak; the first: .*does not read"):
        build_frontend(TextSettings(voice=voice, version=2), [text])


@pytest.mark.parametrize(("voice", "text"), [("ru", "США"), ("cmn", "他她它"), ("fr", "αβγ"), ("en-us", "café α 😀 №")])
def test_scripts_that_the_voice_reads_are_not(voice, text):
    assert read(voice, text)


@pytest.mark.parametrize("voice", ["th", "my", "shn"])
def test_voices_that_lose_sounds_are_refused(voice):
    with pytest.raises(ValueError, match=f"text.voice={voice}: .*use text=characters"):
        build_frontend(TextSettings(voice=voice, version=2), ["a"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *(
            ("zh", "cmn"),
            ("zh-cn", "cmn"),
            ("mandarin", "cmn"),
            ("fr-fr", "fr"),
            ("jp", "ja"),
            ("kr", "ko"),
            ("cz", "cs"),
        ),
        *(
            ("de-de", "de"),
            ("en_US", "en-us"),
            ("en-gb", "en"),
            ("pt-pt", "pt"),
            ("no", "nb"),
            ("gr", "el"),
            ("dk", "da"),
        ),
        *(("germann", "de"), ("deu", "de"), ("ja-jp", "ja"), ("english", "en-us")),
    ],
)
def test_names_of_languages_that_people_type(typed, meant):
    with pytest.raises(ValueError, match=rf"no voice '{typed}': did you mean {meant} \("):
        read(typed, "a")
    espeak.clauses("a", meant)


VOICES = ["en-us", "de", "cmn", "yue", "vi", "hi", "ar", "fa", "ja", "el", "hy", "ru"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.text(max_size=40),
    st.sampled_from(VOICES),
    st.sampled_from(["phonemes", "characters"]),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_any_text_is_read_or_refused_in_words(text, voice, frontend, version, codepoints):
    units = "codepoints" if codepoints else "phones"
    front = Frontend(TextSettings(frontend=frontend, voice=voice, units=units, version=version), ["_"])
    try:
        symbols = front.symbols(text)
    except ValueError as error:
        assert str(error)
        return
    assert symbols == front.symbols(text) and all(symbols) and len(symbols) > 2
    assert all(1 <= start < len(symbols) for start in front.word_starts(text))
