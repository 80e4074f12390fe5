"""The reader: what works, what is left out and counted, what stops, each with its file and line."""

import dataclasses

import numpy as np
import pytest
import soundfile
from common import SHARED, defaults_with
from corpora import AUDIO, CHARACTERS, all_of, lines_of, load, make, noise, write

from vitslite.audio import write_wav
from vitslite.datasets.clips import ClipReader
from vitslite.datasets.corpus import DataSettings, load_corpus
from vitslite.datasets.metadata import Skipped, read_metadata
from vitslite.text.frontend import TextSettings

SR, HOP = 22050, 256


def test_a_clean_corpus(tmp_path):
    corpus = load(make(tmp_path))
    utterances = all_of(corpus)
    assert len(utterances) == 30 and not corpus.skipped.entries and corpus.validation and corpus.train
    first = utterances[0]
    assert (first.id, first.text, first.n_frames) == ("c000", "clip number 0", SR // HOP)
    assert corpus.frontend.names(first.tokens) == list("^clip number 0$") and first.onsets is None
    assert corpus.summary().splitlines()[0].endswith("+ 0 skipped")
    clip = ClipReader(SR, HOP)(first)
    assert (
        clip.dtype == np.int16 and len(clip) == first.n_frames * HOP and np.array_equal(clip, noise(1.0)[: len(clip)])
    )


def test_the_split_depends_on_the_id_alone(tmp_path):
    sides = {}
    for name, n in (("few", 60), ("many", 90)):
        corpus = load(make(tmp_path / name, n, 0.2, "a"), validation_fraction=0.2, test_fraction=0.2)
        sides[name] = {u.id: s for s in ("train", "validation", "test") for u in getattr(corpus, s)}
        assert min(len(corpus.train), len(corpus.validation), len(corpus.test)) >= 5
    assert sides["few"].items() <= sides["many"].items()
    assert len(load(tmp_path / "few", validation_fraction=0.0, test_fraction=0.0).validation) == 1


# ------------------------------------------------------------------------------------------- what works


def test_quotes_bom_line_ends_columns_and_flac(tmp_path):
    root = make(tmp_path, 9)
    write(root, [f'c{i:03d}|raw|"expedient {i}, she said' for i in range(9)])
    assert [u.text for u in all_of(load(root))] == [f'"expedient {i}, she said' for i in range(9)]
    write(root, [f"c{i:03d}|only text" for i in range(9)])
    assert {u.text for u in all_of(load(root))} == {"only text"}
    (root / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + b"".join(b"c%03d|a|b\r\n\r\n" % i for i in range(9)))
    assert [(u.id, u.text) for u in all_of(load(root))] == [(f"c{i:03d}", "b") for i in range(9)]
    (root / "wavs" / "c000.wav").unlink()
    soundfile.write(root / "wavs" / "c000.flac", noise(1.0), SR)
    assert len(all_of(load(root))) == 9


def test_other_sample_rates_and_channels_are_converted(tmp_path):
    root = make(tmp_path)
    soundfile.write(root / "wavs" / "c000.wav", np.stack([noise(2.0), noise(2.0)], 1), 44100)
    utterance = all_of(load(root))[0]
    assert utterance.n_frames == SR // HOP
    assert len(ClipReader(SR, HOP)(utterance)) == utterance.n_frames * HOP


def test_level(tmp_path):
    root = make(tmp_path)
    loud = ClipReader(SR, HOP)(all_of(load(root, peak=0.9))[0]).astype(int)
    assert abs(np.abs(loud).max() - 0.9 * 32768) < 1
    silent = dataclasses.replace(all_of(load(root, peak=0.9))[1], path=root / "silent.wav")
    write_wav(silent.path, np.zeros(SR, np.int16), SR)
    assert not ClipReader(SR, HOP)(silent).any()
    quiet = ClipReader(SR, HOP)(all_of(load(root))[0])
    assert np.corrcoef(loud, quiet)[0, 1] > 0.99999


def test_a_frontend_can_be_given(tmp_path):
    frontend = load(make(tmp_path / "old", 10, text="the clip")).frontend
    corpus = load(make(tmp_path / "new", 10, text="the {} clip"), frontend=None)
    assert corpus.frontend.n_symbols > frontend.n_symbols
    with pytest.raises(ValueError, match=r"0 usable clips.*10 skipped, unusable text: .*metadata.csv:1: .*'0' not in"):
        load(tmp_path / "new", frontend=frontend)


def test_max_utterances(tmp_path):
    root = make(tmp_path)
    (root / "wavs" / "c029.wav").unlink()
    corpus = load(root, max_utterances=12)
    assert len(all_of(corpus)) == 12 and not corpus.skipped.entries


# ------------------------------------------------------------------------------------- what is left out


def test_every_row_is_used_or_counted(tmp_path):
    root = make(tmp_path)
    lines = lines_of(root)
    (root / "wavs" / "c001.wav").unlink()
    (root / "wavs" / "c002.wav").write_bytes((root / "wavs" / "c003.wav").read_bytes()[:1000])
    (root / "wavs" / "c004.wav").write_bytes(b"")
    lines[5] = "c005|  |"
    lines[6] = "c006|" + "x" * 5000
    write_wav(root / "wavs" / "c007.wav", noise(0.1), SR)
    write_wav(root / "wavs" / "c008.wav", noise(3.0), SR)
    lines[9] = "c009|" + "many letters " * 20
    lines[10] = "c010|five_underscores"
    lines.append(lines[11])
    write(root, lines)
    corpus = load(root, min_frames=20, max_seconds=2.0)
    assert corpus.skipped.counts() == {
        "empty text": 1,
        "repeated row": 1,
        "missing audio": 1,
        "corrupt audio": 2,
        "text too long": 1,
        "too short": 1,
        "too long": 1,
        "more tokens than frames": 1,
        "unusable text": 1,
    }
    assert len(all_of(corpus)) + len(corpus.skipped.entries) == len(lines) == 31
    report = corpus.skipped.report().splitlines()
    assert len(report) == 1 + 10 and all(line.count("\t") == 3 for line in report)
    metadata = root / "metadata.csv"
    for expected in (
        f"missing audio\t{metadata}:2\tc001\tno file",
        f"corrupt audio\t{metadata}:3\tc002\t{root}/wavs/c002.wav: truncated: its data chunk says 44100 bytes",
        f"more tokens than frames\t{metadata}:10\tc009\t261 tokens, the clip has 86 frames",
        f"too short\t{metadata}:8\tc007\t8 frames (0.10 s), a training segment has 20",
        f"too long\t{metadata}:9\tc008\t3.0 s > data.max_seconds=2",
        f"repeated row\t{metadata}:31\tc011\tthe same as {metadata}:12",
    ):
        assert any(line.startswith(expected) for line in report), expected
    assert "2 skipped, corrupt audio: " in corpus.summary()


def test_tokens_are_counted_with_blanks(tmp_path):
    root = make(tmp_path, text="a text with fifty characters, more or less, number{:02d}")
    assert not load(root).skipped.entries
    with pytest.raises(ValueError, match="109 tokens, the clip has 86 frames"):
        load(root, dataclasses.replace(CHARACTERS, blanks=True))


def test_too_many_broken_clips_stop_the_run(tmp_path):
    root = make(tmp_path, 40, 0.2, "a")
    for i in range(10):
        (root / "wavs" / f"c{i:03d}.wav").unlink()
    assert len(all_of(load(root))) == 30
    (root / "wavs" / "c010.wav").write_bytes(b"<html>")
    with pytest.raises(
        ValueError, match=r"11 of 40 clips are missing, corrupt or silent \(data.max_bad=0.01\); 10 skipped, mis"
    ):
        load(root)
    assert len(all_of(load(root, max_bad=0.5))) == 29


def test_all_clips_missing(tmp_path):
    root = make(tmp_path, 5)
    (root / "wavs").rename(root / "audio")
    with pytest.raises(ValueError, match=f"5 of 5 clips are missing.*metadata.csv:1: no file {root}/wavs/c000.wav or"):
        load(root)


# ------------------------------------------------------------------------------------------- what stops


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "metadata.csv: 0 usable rows"),
        (b"\n  \n", "metadata.csv: 0 usable rows"),
        (b"a|\nb|  |  \n", "metadata.csv: 0 usable rows"),
        (b"a|x\nb\ttext\n", 'metadata.csv:2: 1 columns, expected 2 or 3 separated by "|"; looks like tab'),
        (b"a,text\n", "metadata.csv:1: 1 columns.*looks like comma"),
        (b"a|b|c\n\nd|e|f|g\n", "metadata.csv:3: 4 columns"),
        (b"a|x\nb|y\na|z\n", "metadata.csv:3: id 'a' again, with another text than at .*metadata.csv:1"),
        (b"../../etc/passwd|x\n", "metadata.csv:1: id '../../etc/passwd' is not"),
        (b"/etc/passwd|x\n", "metadata.csv:1: id '/etc/passwd' is not"),
        (b"|x\n", "metadata.csv:1: id '' is not"),
        ("a|text\n".encode("utf-16"), "looks like UTF-16"),
        ("a|text\n".encode("utf-16-be"), "looks like UTF-16"),
        ("a|x\nb|caf\xe9\n".encode("latin-1"), "metadata.csv:2: not UTF-8"),
        (None, "no such file or directory; type data.root=/path/to/LJSpeech-1.1"),
    ],
)
def test_doubtful_metadata(tmp_path, content, message):
    path = tmp_path / "metadata.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message.replace("|", r"\|").replace("..", r"\.\.")) as error:
        read_metadata(path, Skipped())
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_metadata_is_a_folder(tmp_path):
    (tmp_path / "metadata.csv").mkdir()
    with pytest.raises(ValueError, match="is a directory"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["kind=lj"], r"data.kind=lj is unknown: choose one of demo, ljspeech"),
        (["peak=2"], "data.peak=2: must be above 0 and at most 1, or null"),
        (["validation_fraction=0.6", "test_fraction=0.5"], "test_fraction=0.5 leave nothing to train on"),
        (["validation_fraction=-0.1"], "data.validation_fraction=-0.1: must be at least 0"),
        (["max_utterances=0"], "data.max_utterances=0: must be at least 1, or null"),
        (["max_seconds=0"], "data.max_seconds=0: must be above 0"),
    ],
)
def test_impossible_settings(overrides, message):
    with pytest.raises(ValueError, match=message):
        defaults_with(*(f"data.{override}" for override in overrides))


def test_a_corpus_of_yours_has_a_place():
    with pytest.raises(ValueError, match="data.root=/path/to/LJSpeech-1.1"):
        load_corpus(DataSettings(kind="ljspeech"), CHARACTERS, AUDIO)


def test_one_clip_is_not_enough(tmp_path):
    with pytest.raises(ValueError, match="1 usable clips, need at least 2"):
        load(make(tmp_path, 1))


def test_a_clip_that_changes_after_the_check_is_named(tmp_path):
    utterance = all_of(load(make(tmp_path)))[0]
    write_wav(utterance.path, noise(0.5), SR)
    with pytest.raises(ValueError, match=r"c000.wav: changed since the start: 11025 samples, 22016 expected"):
        ClipReader(SR, HOP)(utterance)
    utterance.path.unlink()
    with pytest.raises(ValueError, match="c000.wav: no such file"):
        ClipReader(SR, HOP)(utterance)


def test_a_damaged_alignment_file_is_named(tmp_path):
    root = make(tmp_path)
    (root / "alignments.jsonl").write_text('{"id": "c000", "sample_rate": 22050, "phones": []}\n{"id": 3\n')
    with pytest.raises(ValueError, match=r"alignments.jsonl:2: not an alignment"):
        load(root)


# ------------------------------------------------------------------------------------------ real corpora


@pytest.mark.parametrize(("name", "n"), [("ljspeech_mini", 60), ("kathleen", 547)])
def test_real_recordings(tmp_path, name, n):
    if not (SHARED / name).is_dir():
        pytest.skip(f"no {name} beside the repository")
    data = DataSettings(kind="ljspeech", root=str(SHARED / name), cache=str(tmp_path), peak=0.9)
    corpus = load_corpus(data, TextSettings(), AUDIO, min_frames=32)
    assert len(all_of(corpus)) == n and all(u.n_frames > len(u.tokens) for u in all_of(corpus))
    clip = ClipReader(SR, HOP)(corpus.train[0])
    assert len(clip) == corpus.train[0].n_frames * HOP


def test_the_demo_corpus_comes_with_onsets(tmp_path):
    data = DataSettings(cache=str(tmp_path), n_sentences=50)
    corpus = load_corpus(data, TextSettings(blanks=True), AUDIO, min_frames=32)
    for u in all_of(corpus):
        samples = [sample for _, sample in u.onsets]
        assert samples == sorted(samples) and samples[-1] < u.n_frames * HOP
        assert all(u.tokens[token] != 0 for token, _ in u.onsets)
    coarse = load_corpus(data, TextSettings(), dataclasses.replace(AUDIO, sample_rate=11025, hop_length=128), 16)
    for fine, half in zip(all_of(corpus), all_of(coarse), strict=True):
        assert [t for t, _ in fine.onsets] == [2 * t + 1 for t, _ in half.onsets]
        assert all(abs(a / 2 - b) <= 0.5 for (_, a), (_, b) in zip(fine.onsets, half.onsets, strict=True))
    assert len([p for p in tmp_path.iterdir() if p.name.startswith("demo-")]) == 1
