"""The demo corpus: the same bytes however it is made, sentences that cover English, onsets that are true."""

import hashlib
import json
import multiprocessing
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from common import ROOT

from vitslite.audio import read_wav
from vitslite.datasets import demo
from vitslite.datasets.demo import load_grammar, make_demo_corpus, make_sentences
from vitslite.datasets.demo_worker import NOISE_LEVEL, PAD_SECONDS
from vitslite.datasets.onsets import phone_onsets
from vitslite.text.frontend import TextSettings, build_frontend
from vitslite.text.phonemes import STRESS

CONSONANTS = "p b t d k ɡ tʃ dʒ f v θ ð s z ʃ ʒ h m n ŋ l ɹ j w ɾ ʔ n̩ əl"
VOWELS = "iː i ɪ ᵻ ɛ æ ɑː ɔː ɔ ʌ ə ɐ ʊ uː ɜː ɚ eɪ aɪ ɔɪ aʊ oʊ ɑːɹ ɔːɹ ɛɹ ɪɹ ʊɹ aɪɚ aɪə iə"
N = 120  # three chunks, the last one short


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_demo_corpus(tmp_path_factory.mktemp("demo"), N, jobs=2)


def digest(root):
    files = sorted(p for p in root.rglob("*") if p.suffix in (".wav", ".csv", ".jsonl"))
    return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in files)).hexdigest()


def records(root):
    found = [json.loads(line) for line in (root / "alignments.jsonl").read_text().splitlines()]
    return [record | {"phones": [tuple(phone) for phone in record["phones"]]} for record in found]


def texts(root):
    return [line.split("|")[1] for line in (root / "metadata.csv").read_text().splitlines()]


def test_sentences_are_different_deterministic_and_cover_english():
    sentences = make_sentences(640, 0, load_grammar())
    assert len(set(sentences)) == 640 and sentences == make_sentences(700, 0, load_grammar())[:640]
    assert sentences != make_sentences(640, 1, load_grammar())
    assert all(s[0].isupper() and s[-1] in ".?!" and "{" not in s for s in sentences)
    found = [s.lstrip(STRESS) for text in sentences for s in build_frontend(TextSettings(), [text]).symbols(text)]
    rare = {phone: found.count(phone) for phone in f"{CONSONANTS} {VOWELS}".split() if found.count(phone) < 20}
    assert not rare
    assert set(found) >= set("^$,.;:?!")


def test_layout_and_audio(corpus):
    assert sorted(p.stem for p in (corpus / "wavs").iterdir()) == [f"demo-{i:05d}" for i in range(N)]
    assert [line.count("|") for line in (corpus / "metadata.csv").read_text().splitlines()] == [2] * N
    for record in records(corpus)[::10]:
        clip = read_wav(corpus / "wavs" / f"{record['id']}.wav", 22050).astype(int)
        n_pad = round(PAD_SECONDS * 22050)
        assert record["sample_rate"] == 22050 and record["n_samples"] == len(clip)
        assert 1.0 < len(clip) / 22050 < 7.0 and 5000 < np.abs(clip).max() < 32767
        for end in (clip[:n_pad], clip[-n_pad:]):
            assert np.abs(end).max() == NOISE_LEVEL and abs(end.mean()) < 0.2
        assert record["phones"][0][1] >= n_pad and record["phones"][-1][1] <= len(clip) - n_pad


def test_onsets_are_where_the_sound_begins(corpus):
    """A burst or a fricative after a pause: the level jumps at the first onset (within 10 ms)."""
    late = []
    for record in records(corpus):
        clip = read_wav(corpus / "wavs" / f"{record['id']}.wav", 22050).astype(int)
        loud = np.flatnonzero(np.abs(clip) > 100)[0]
        first = next(onset for name, onset in record["phones"] if name)
        late.append((loud - first) / 22.05)
    assert np.percentile(np.abs(late), 50) < 10


def test_bytes_do_not_depend_on_jobs_or_interruptions(corpus, tmp_path):
    again = make_demo_corpus(tmp_path / "one job", N, jobs=1)
    assert again.name == corpus.name and digest(again) == digest(corpus)
    for path in (again / "DONE", again / "alignments.jsonl", again / "chunks" / "00050.jsonl"):
        path.unlink()
    (again / "wavs" / "demo-00060.wav").write_bytes(b"half")
    (again / "wavs" / "demo-00061.wav.tmp.1").write_bytes(b"half")
    kept = again / "wavs" / "demo-00003.wav"
    before = kept.stat().st_mtime_ns
    make_demo_corpus(tmp_path / "one job", N, jobs=2)
    assert digest(again) == digest(corpus) and kept.stat().st_mtime_ns == before
    assert not list(again.rglob("*.tmp.*"))
    (again / "wavs" / "demo-00003.wav").write_bytes(b"other")
    assert digest(again) != digest(corpus)


def test_two_processes_make_one_corpus(corpus, tmp_path):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=make_demo_corpus, args=(tmp_path, N, 0, "en-us+f5", 1)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert digest(tmp_path / corpus.name) == digest(corpus)


def test_what_changes_the_bytes_changes_the_folder(corpus, tmp_path):
    grammar = tmp_path / "grammar.txt"
    grammar.write_text("thing = boat bridge\n> the {thing}.\n> my {thing}?\n")
    names = {
        make_demo_corpus(tmp_path, 2, seed, voice, 1, grammar).name
        for seed, voice in ((0, "en-us+f5"), (1, "en-us+f5"), (0, "en-us"))
    }
    grammar.write_text("thing = boat bridge\n> the {thing}.\n> our {thing}?\n")
    names.add(make_demo_corpus(tmp_path, 2, 0, "en-us", 1, grammar).name)
    assert len(names) == 4 and corpus.name not in names


@pytest.mark.parametrize("settings", [TextSettings(), TextSettings(units="codepoints")], ids=["phones", "codepoints"])
@pytest.mark.parametrize("blanks", [False, True])
def test_every_phone_has_its_onset(corpus, settings, blanks):
    settings.blanks = blanks
    frontend = build_frontend(settings, texts(corpus))
    for record, text in zip(records(corpus), texts(corpus), strict=True):
        onsets = phone_onsets(record["phones"], frontend.symbols(text), settings)
        names = [(name, sample) for name, sample in record["phones"] if name]
        tokens = frontend.names(frontend.encode(text))
        assert [sample for _, sample in onsets] == [sample for _, sample in names]
        for (token, _), (name, _) in zip(onsets, names, strict=True):
            step = 2 if blanks else 1
            width = 1 if settings.units == "phones" else len(name)
            assert "".join(tokens[token : token + step * width : step]) == name


def test_onsets_of_other_tokens_are_none(corpus):
    phones, text = records(corpus)[0]["phones"], texts(corpus)[0]
    symbols = build_frontend(TextSettings(), [text]).symbols(text)
    assert phone_onsets(phones, symbols, TextSettings()) is not None
    assert phone_onsets(phones, symbols[:-3] + symbols[-2:], TextSettings()) is None
    assert phone_onsets(phones, [*symbols, "p"], TextSettings()) is None
    assert phone_onsets(phones[:-3], symbols, TextSettings()) is None
    assert phone_onsets(phones, ["ʒ" if s == symbols[2] else s for s in symbols], TextSettings()) is None
    assert phone_onsets(phones, list(text), TextSettings(frontend="characters")) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a = b\nc d\n", ":2: expected"),
        ("a = b\n> the {thing}\n", ":2: no word list named 'thing'"),
        ("a = b\n", "no templates"),
        ("a = b\n> the {a}\n", "only 1 different"),
        (None, "is missing: install vitslite again"),
    ],
)
def test_faults_of_the_grammar(tmp_path, content, message):
    path = tmp_path / "grammar.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        make_demo_corpus(tmp_path, 5, grammar_file=path)


def test_unknown_voice_and_sizes(tmp_path):
    with pytest.raises(ValueError, match="no voice variant 'typo'"):
        make_demo_corpus(tmp_path, 5, voice="en-us+typo")
    with pytest.raises(ValueError, match="at least 1 sentence"):
        make_demo_corpus(tmp_path, 0)


def test_a_failing_worker_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_ROOT", tmp_path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="could not be spoken: exit status 1"):
        make_demo_corpus(tmp_path, 5)
    assert not list(tmp_path.rglob("DONE"))


def test_the_script(tmp_path, monkeypatch, capsys):
    script = ROOT / "scripts" / "make_demo_corpus.py"
    monkeypatch.setattr(sys, "argv", [script.name, str(tmp_path), "--sentences", "3"])
    runpy.run_path(str(script), run_name="__main__")
    root = Path(capsys.readouterr().out.strip().partition("data.root=")[2])
    assert (root / "DONE").is_file() and len(list((root / "wavs").iterdir())) == 3
    monkeypatch.setattr(sys, "argv", [script.name, str(tmp_path), "--voice", "xx"])
    with pytest.raises(SystemExit, match="^error: espeak-ng has no voice 'xx'"):
        runpy.run_path(str(script), run_name="__main__")
