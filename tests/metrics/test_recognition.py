"""Recognisers: what was said is heard, what was not is not, and each error says what to type instead."""

import functools
import itertools
import json
import sys
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from common import SHARED
from torch import nn

from vitslite import build
from vitslite.audio import AudioSettings, read_wav, resampled
from vitslite.datasets.corpus import DataSettings, load_corpus
from vitslite.datasets.demo import Grammar, load_grammar, make_sentences
from vitslite.metrics import recognition
from vitslite.metrics.recognisers import SAMPLE_RATE, NotInstalledError, prepared
from vitslite.metrics.recognition import (
    Recogniser,
    WordAligner,
    build_recogniser,
    count_errors,
    grammar_arcs,
    words,
)
from vitslite.text.frontend import TextSettings

SR = 22050


def noise(n, level=0.1, seed=0):
    return np.random.default_rng(seed).normal(0, level, n).astype(np.float32)


def samples(path):
    return read_wav(path, SR).astype(np.float32) / 32768


@pytest.fixture(scope="module")
def corpus(cache):
    return load_corpus(DataSettings(n_sentences=60, cache=str(cache)), TextSettings(), AudioSettings())


@pytest.fixture(scope="module")
def clips(corpus):
    """(text, samples) of 20 sentences."""
    return [(u.text, samples(u.path)) for u in corpus.train[:20]]


@pytest.fixture(scope="module")
def sphinx():
    return build_recogniser("grammar")


# ------------------------------------------------------------------------------------------------- words and errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The CAT sat.", "the cat sat"),
        ("A well-known — half–done--thing", "a well known half done thing"),
        ("I don't; rock'n'roll!", "i don't rock'n'roll"),
        ("'Tis \"the\" dogs' 'own'", "tis the dogs own"),
        ("It’s ‘odd’", "it's odd"),
        ("In 1984: 3.14", "in 1984 3 14"),
        ("Straße, ÉVA, naïve", "straße éva naïve"),
        ("cafe\u0301", "café"),  # an accent as a code point of its own
        ("snake_case\tand\nlines", "snake case and lines"),
    ],
)
def test_words(text, expected):
    assert words(text) == expected.split(" ")


@pytest.mark.parametrize("text", ["", "  ", "... -- ?!", "'", "’ ‘", "_"])
def test_no_words(text):
    assert words(text) == []
    with pytest.raises(ValueError, match="no words to recognise"):
        count_errors(text, "a word")


def distance(a, b):
    @functools.cache
    def of_first(i, j):
        if i == 0 or j == 0:
            return i + j
        return min(of_first(i - 1, j) + 1, of_first(i, j - 1) + 1, of_first(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return of_first(len(a), len(b))


def test_errors_are_edit_distances():
    random = np.random.default_rng(0)
    lexicon = np.array(["the", "then", "a", "cat", "cart", "art", "don't"])
    place_by_place = 0
    for _ in range(60):
        said, heard = (list(random.choice(lexicon, random.integers(1, 9))) for _ in range(2))
        text, got = " ".join(said), " ".join(heard)
        counts = count_errors(f"{text.capitalize()}!", f" {got.upper()},")
        assert counts == (distance(said, heard), len(said), distance(text, got), len(text))
        place_by_place += counts.word_errors != sum(a != b for a, b in itertools.zip_longest(said, heard))
    assert place_by_place > 10  # the check can fail: words compared place by place give other counts


def test_errors_of_nothing_and_of_everything_heard():
    assert count_errors("The cat, sat!", "the cat sat") == (0, 3, 0, 11)
    for silent in ("", " ", "..."):
        assert count_errors("The cat, sat!", silent) == (3, 3, 11, 11)
    with pytest.raises(ValueError, match="no words"):
        count_errors("...", "the cat")


# ---------------------------------------------------------------------------------------------------- pocketsphinx


def rate(texts, heard):
    counts = [count_errors(text, h) for text, h in zip(texts, heard, strict=True)]
    return sum(c.word_errors for c in counts) / sum(c.words for c in counts)


def test_demo_sentences_are_heard_and_others_are_not(sphinx, clips):
    texts = [text for text, _ in clips]
    heard = [sphinx.transcribe(wav, SR) for _, wav in clips]
    assert isinstance(sphinx, Recogniser) and rate(texts, heard) <= 0.05
    # The check can fail: the words of another sentence, noise and silence are not taken for this one.
    assert rate(texts, heard[1:] + heard[:1]) > 0.8
    assert rate(texts[:3], [sphinx.transcribe(noise(len(wav)), SR) for _, wav in clips[:3]]) > 0.8
    for silent in (np.zeros(SR, np.float32), np.zeros(0, np.float32)):
        assert rate(texts[:1], [sphinx.transcribe(silent, SR)]) > 0.8


def test_level_and_sample_rate_do_not_matter(sphinx, clips):
    for _, wav in clips[:3]:
        heard = sphinx.transcribe(wav, SR)
        assert sphinx.transcribe(wav * 0.1, SR) == heard
        assert rate([heard], [sphinx.transcribe(resampled(wav, SR, 44100), 44100)]) <= 0.2
        assert rate([heard], [sphinx.transcribe(resampled(wav, SR, 16000), 16000)]) <= 0.2
        assert sphinx.transcribe(wav, 2 * SR) != heard  # the check can fail: at twice the speed it is another text


def test_clips_are_prepared_alike(clips):
    wav, n_pad = clips[0][1], int(0.2 * SAMPLE_RATE)
    speech = prepared(wav, SR)
    inside = speech[n_pad:-n_pad]
    assert len(inside) == -(-len(wav) * SAMPLE_RATE // SR) and np.abs(speech).max() == pytest.approx(0.5)
    for pad in (speech[:n_pad], speech[-n_pad:]):
        assert 0 < np.abs(pad).max() < 1e-3
    np.testing.assert_allclose(prepared(wav * 0.1, SR), speech, atol=1e-6)
    assert len(prepared(np.zeros(0, np.float32), SR)) == 2 * n_pad


def heard_with_scores(sphinx, clips):
    """Texts, and how well the grammar fitted: the score reacts to any change of the features."""
    return [(sphinx.transcribe(wav, SR), sphinx._decoder.hyp().score) for _, wav in clips]


def test_what_was_heard_before_does_not_matter(sphinx, clips, monkeypatch):
    clips = clips[:6]
    forward, backward = heard_with_scores(sphinx, clips), heard_with_scores(sphinx, clips[::-1])
    assert forward == backward[::-1]

    class KeepsMeans:  # the decoder, but the cepstral means of a clip go on into the next
        def __init__(self, decoder):
            self.decoder = decoder

        def __getattr__(self, name):
            return (lambda *_: None) if name == "reinit_feat" else getattr(self.decoder, name)

    monkeypatch.setattr(sphinx, "_decoder", KeepsMeans(sphinx._decoder))
    forward, backward = heard_with_scores(sphinx, clips), heard_with_scores(sphinx, clips[::-1])
    assert forward != backward[::-1]


def test_language_model_hears_a_real_voice():
    rows = real_rows()[:3]
    recogniser = build_recogniser("pocketsphinx")
    heard = [recogniser.transcribe(samples(path), SR) for _, path in rows]
    assert "language model" in recogniser.name and rate([text for text, _ in rows], heard) < 0.7
    assert "(" not in "".join(heard)  # marks of other pronunciations


def real_rows():
    """(text, file) of a real voice."""
    folder = SHARED / "kathleen"
    if not (folder / "metadata.csv").is_file():
        pytest.skip("needs recordings of a real voice in ../shared/kathleen")
    lines = (folder / "metadata.csv").read_text(encoding="utf-8").splitlines()
    return [(text, folder / "wavs" / f"{name}.flac") for name, text, _ in (line.split("|") for line in lines)]


# --------------------------------------------------------------------------------------------------------- grammar


def accepts(arcs, sentence):
    states = {0}
    for word in words(sentence):
        states = {target for state, target, _, on in arcs if state in states and on == word}
    return 1 in states


def leaving(arcs):
    """The sum of the probabilities out of every state."""
    return {state: sum(p for source, _, p, _ in arcs if source == state) for state, *_ in arcs}


def test_grammar_has_the_sentences_of_the_corpus():
    arcs = grammar_arcs(load_grammar(), lambda word: True)
    assert leaving(arcs) == {state: pytest.approx(1.0) for state in {a[0] for a in arcs}}
    assert 1 not in leaving(arcs) and {a[1] for a in arcs} - {1} == set(leaving(arcs)) - {0}  # no dead ends
    for sentence in make_sentences(300, 3, load_grammar()):
        spoken = words(sentence)
        assert accepts(arcs, sentence)
        for wrong in ([*spoken, "boat"], spoken[:-1], spoken[::-1], ["xyzzy", *spoken[1:]]):
            assert not accepts(arcs, " ".join(wrong))
    # The check can fail: without one of its arcs a state loses some of its probability.
    assert min(leaving(arcs[1:]).values()) < 0.999


def test_grammar_has_no_other_sentences():
    grammar = Grammar({"a": ["one", "two"], "b": ["cat", "dog", "don't"]}, ["{a} {b}.", "The {b}, {a}!", "{b}?"], "")
    arcs = grammar_arcs(grammar, lambda word: True)

    def sentences(state):
        if state == 1:
            return {"": 1.0}
        return {
            f"{word} {rest}".strip(): p * q
            for source, target, p, word in arcs
            if source == state
            for rest, q in sentences(target).items()
        }

    a, b = grammar.words.values()
    expected = [[f"{x} {y}" for x in a for y in b], [f"the {y} {x}" for x in a for y in b], b]
    assert sentences(0) == {s: pytest.approx(1 / 3 / len(kind)) for kind in expected for s in kind}


def test_words_without_pronunciation_are_named():
    grammar = Grammar({"thing": ["boat", "xyzzyq"]}, ["the {thing}.", "a qwrtz {thing}"], "")
    with pytest.raises(ValueError, match="no pronunciation for qwrtz, xyzzyq: use other words"):
        recognition.PocketSphinx(grammar)


# ------------------------------------------------------------------------------------------------------ word onsets


@pytest.fixture(scope="module")
def aligner():
    return WordAligner()


def test_word_onsets_are_the_true_ones(corpus, aligner):
    errors, refused = [], 0
    utterances = corpus.train[:12]
    for utterance in utterances:
        wav, spoken = samples(utterance.path), words(utterance.text)
        onsets, tokens = aligner.onsets(utterance.text, wav, SR), corpus.frontend.word_starts(utterance.text)
        assert len(onsets) == len(spoken) and onsets[0] >= 0 and onsets[-1] < len(wav) / SR
        assert all(a < b for a, b in itertools.pairwise(onsets))
        if len(tokens) != len(spoken):
            continue  # espeak-ng has run two words into one
        true = np.array([dict(utterance.onsets)[token] for token in tokens]) / SR
        errors.append(np.abs(np.array(onsets) - true).mean())
        wrong = aligner.onsets(" ".join(spoken[::-1]), wav, SR)
        refused += wrong is None or np.abs(np.array(wrong) - true).mean() > 0.1
    assert len(errors) > len(utterances) / 2
    assert np.mean(errors) < 0.03 and max(errors) < 0.06
    assert refused == len(errors)  # the check can fail: the words in another order are not found, or far away


def test_no_word_begins_before_the_recording(corpus, aligner):
    for utterance in corpus.train[:6]:
        wav = samples(utterance.path)[utterance.onsets[0][1] :]  # the first word is at the very start
        assert 0 <= aligner.onsets(utterance.text, wav, SR)[0] < 0.06


def test_word_onsets_of_unknown_words_and_of_no_speech(clips, aligner):
    text, wav = clips[0]
    assert aligner.onsets(f"{text} xyzzyq", wav, SR) is None
    assert aligner.onsets(text, noise(SR // 10), SR) is None  # too short for the words
    assert len(aligner.onsets(text, wav, SR)) == len(words(text))  # and it goes on
    assert aligner.onsets("?!", wav, SR) is None


def test_word_onsets_move_with_a_real_voice(aligner):
    """Half a second of faint noise before a clip moves every onset by half a second."""
    for text, path in real_rows()[:6]:
        wav = samples(path)
        onsets = aligner.onsets(text, wav, SR)
        later = aligner.onsets(text, np.concatenate([noise(SR // 2, 1e-4), wav]), SR)
        assert len(onsets) == len(words(text)) and onsets[0] >= 0 and onsets[-1] < len(wav) / SR
        assert all(a < b for a, b in itertools.pairwise(onsets))
        assert np.median(np.abs(np.array(later) - onsets - 0.5)) <= 0.0201
        wrong = aligner.onsets(" ".join(words(text)[::-1]), wav, SR)
        assert wrong is None or np.abs(np.array(wrong) - onsets).mean() > 0.05


# ----------------------------------------------------------------------------------------------------------- kinds


def test_kinds(tmp_path):
    assert build_recogniser("none") is None
    assert build_recogniser("auto", is_demo=True).name.endswith("demo grammar")
    assert build_recogniser("auto").name.endswith("its language model")
    (tmp_path / "empty").mkdir()
    for kind, message in (
        (
            "whisper",
            "recogniser 'whisper': type auto, grammar, pocketsphinx, none, whisper:base, whisper:FOLDER",
        ),
        (str(tmp_path / "absent"), "or the folder of a transformers model"),
        ("NOT_ASR_AT_ALL", "recogniser NOT_ASR_AT_ALL: torchaudio.pipelines has none of this name"),
        (str(tmp_path / "empty"), "empty: not a speech recognition model"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            build_recogniser(kind)
        assert "\n" not in str(error.value) and not isinstance(error.value, NotInstalledError)


@pytest.mark.parametrize("kind", ["auto", "grammar", "pocketsphinx", "transformers"])
def test_missing_packages_are_named(tmp_path, monkeypatch, kind):
    package = "transformers" if kind == "transformers" else "pocketsphinx"
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NotInstalledError, match=f"pip install {package}"):
        build_recogniser(str(tmp_path) if kind == "transformers" else kind)


class SpellingModel(nn.Module):
    """Scores of a CTC model that hears `frames`, a label each, in whatever it is given."""

    def __init__(self, labels, frames):
        super().__init__()
        self.scores = torch.eye(len(labels))[[labels.index(label) for label in frames]][None]

    def forward(self, waveforms):
        assert waveforms.ndim == 2 and len(waveforms) == 1
        return self.scores, None


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ("--SSS-EE--E-|||TT-HH-EE|-", "see the"),  # a blank parts the same letter twice
        ("--SSS-EEEEE-|||TT-HH-EE|-", "se the"),  # the check can fail: without it there is one
        ("|-H-|-", "h"),
        ("----", ""),
    ],
)
def test_pipelines_of_torchaudio_are_decoded_greedily(monkeypatch, frames, text):
    from torchaudio import pipelines

    labels = tuple("-|ETHS")
    bundle = SimpleNamespace(get_labels=lambda: labels, get_model=lambda: SpellingModel(labels, frames))
    monkeypatch.setattr(pipelines, "FAKE_ASR_BASE", bundle, raising=False)
    recogniser = build_recogniser("FAKE_ASR_BASE")
    assert recogniser.name == "torchaudio FAKE_ASR_BASE" and recogniser.transcribe(noise(SR), SR) == text


def test_weights_that_cannot_be_downloaded(monkeypatch):
    from torchaudio import pipelines

    def fail():
        raise URLError("no\nnetwork")

    bundle = SimpleNamespace(get_labels=lambda: ("-",), get_model=fail)
    monkeypatch.setattr(pipelines, "FAKE_ASR_BASE", bundle, raising=False)
    with pytest.raises(ValueError, match="FAKE_ASR_BASE: its weights cannot be downloaded.*; use auto") as error:
        build_recogniser("FAKE_ASR_BASE")
    assert "\n" not in str(error.value)


def test_models_of_transformers_are_read_from_their_folder(tmp_path):
    """A tiny random CTC model, against its scores decoded here."""
    transformers = pytest.importorskip("transformers")
    labels = ["<pad>", "|", *"ABCDEFGH"]
    (tmp_path / "vocab.json").write_text(json.dumps({label: i for i, label in enumerate([*labels, "<unk>"])}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), bos_token=None, eos_token=None)
    extractor = transformers.Wav2Vec2FeatureExtractor()
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(tmp_path)
    convolutions = {"conv_dim": (16, 16), "conv_stride": (20, 16), "conv_kernel": (20, 16)}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.Wav2Vec2Config(vocab_size=len(labels), pad_token_id=0, **convolutions, **positions, **sizes)
    torch.manual_seed(0)
    model = transformers.Wav2Vec2ForCTC(config).eval()
    nn.init.normal_(model.lm_head.weight)  # else nearly every frame is the same letter
    model.save_pretrained(tmp_path)

    def decoded(wav):
        with torch.no_grad():
            scores = model(**extractor(prepared(wav, SR), sampling_rate=SAMPLE_RATE, return_tensors="pt")).logits[0]
        best = [label for label, _ in itertools.groupby(scores.argmax(-1).tolist())]
        return " ".join("".join(labels[i] for i in best if i).lower().replace("|", " ").split())

    recogniser, loud, low = build_recogniser(str(tmp_path)), noise(SR // 2), np.cumsum(noise(SR // 2))
    assert isinstance(recogniser, Recogniser) and recogniser.name == f"transformers {tmp_path.name}"
    heard = [" ".join(recogniser.transcribe(wav, SR).split()) for wav in (loud, low, loud)]
    assert heard == [decoded(loud), decoded(low), decoded(loud)]
    assert len(heard[0]) > 3 and heard[0] != heard[1]  # the check can fail: another sound is another text


# ---------------------------------------------------------------------------------------------------------- of a run


def listener(compose, *overrides):
    return build.recogniser(build.parse(compose("validation.n_heard=3", "data.root=unused", *overrides), []))


def test_who_listens_to_a_run(compose):
    assert listener(compose).name.endswith("demo grammar")
    assert listener(compose, "data.kind=ljspeech").name.endswith("its language model")
    assert listener(compose, "text.voice=en-gb").name.endswith("demo grammar")
    assert listener(compose, "text.voice=de").name.endswith("demo grammar")  # whose recordings are English anyway
    assert listener(compose, "text.voice=de", "data.kind=ljspeech") is None
    assert listener(compose, "text.voice=de", "data.kind=ljspeech", "text.frontend=characters") is None
    assert listener(compose, "text.voice=de", "data.kind=ljspeech", "validation.recogniser=grammar").name.endswith(
        "demo grammar"
    )
    assert listener(compose, "validation.n_heard=0") is None
    assert listener(compose, "validation.recogniser=none") is None
    with pytest.raises(ValueError, match="recogniser 'typo': type auto"):
        listener(compose, "validation.recogniser=typo")


def test_a_run_goes_on_without_a_recogniser_it_did_not_ask_for(compose, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    assert listener(compose) is None
    note = capsys.readouterr().out
    assert note.startswith("note: no word error rates") and "pip install pocketsphinx" in note and note.count("\n") == 1
    with pytest.raises(NotInstalledError, match="pip install pocketsphinx"):
        listener(compose, "validation.recogniser=grammar")
