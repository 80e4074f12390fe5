"""Bad input, as a table: what it is, what is said of it, and the exit status that a command would have.

A row changes a sound corpus and names the line that must come of it: status 2, an error, is one line and stops before
anything is trained; status 0 uses the corpus and says so in its summary. The corpus itself raises no word (ROWS[0]).
"""

import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

from vitslite.audio import AudioSettings
from vitslite.datasets.corpus import Corpus, DataSettings, load_corpus
from vitslite.text.frontend import TextSettings

SR = 16000
AUDIO = AudioSettings(SR, 1024, 320, 1024, 80)
N = 24  # clips
CLIP = "wavs/c003.wav"  # the one that most rows spoil: line 4
WORDS = ["river", "garden", "window", "summer", "yellow", "silver", "market"]
WORDS += ["bridge", "kitchen", "letter", "doctor", "simple", "winter", "paper"]
NOT_APPLICABLE = {  # of the catalogue
    "A6": "stereo is averaged, as documented; what cancels is the row `cancelled stereo`",
    "A7": "other sample rates are resampled, as documented: the row `other rate`",
    "A22": "a clip that changes later: tests/datasets/test_corpus.py",
    "M21": "fewer clips than a batch: tests/datasets/test_sampler.py",
    "T2, T3": "the vocabulary is made of the corpus: no symbol of it is unknown",
    "T8": "there is no normaliser; text.voice reads digits",
}


class Row(NamedTuple):
    name: str
    spoil: Callable[[Path], object]
    says: str  # part of the line; {root} is the corpus
    status: int = 0
    text: TextSettings = TextSettings(frontend="characters")


def sentence(i: int) -> str:
    return (
        " ".join(["the"] + [WORDS[(i * k + k) % len(WORDS)] for k in range(1, 3 + i % 5)]) + f" by the {WORDS[i % 14]}."
    )


def noise(i: int, seconds: float, sample_rate: int = SR) -> np.ndarray:
    return np.random.default_rng(i).normal(0, 0.1, round(seconds * sample_rate))


def seconds_of(text: str) -> float:
    return 0.3 + 0.06 * len(text)


@pytest.fixture(scope="session")
def sound_corpus(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    (root / "wavs").mkdir()
    for i in range(N):
        soundfile.write(root / "wavs" / f"c{i:03d}.wav", noise(i, seconds_of(sentence(i))), SR, subtype="PCM_16")
    write(root, lambda i, text: f"c{i:03d}|{text}")
    return root


def load(root: Path, text: TextSettings, **data) -> Corpus:
    settings = DataSettings(kind="ljspeech", root=str(root), cache=str(root / "cache"), **data)
    return load_corpus(settings, text, AUDIO, 16)


# ------------------------------------------------------------------------------------------------ what a row does


def write(root: Path, line: Callable[[int, str], str], text: Callable[[int], str] = sentence) -> None:
    lines = "".join(f"{line(i, text(i))}\n" for i in range(N))
    (root / "metadata.csv").write_text(lines, encoding="utf-8")


def lines(line: Callable[[int, str], str], text: Callable[[int], str] = sentence):
    return lambda root: write(root, line, text)


def one_line(replacement: str, number: int = 4):
    """That line of metadata.csv."""

    def spoil(root):
        written = (root / "metadata.csv").read_text(encoding="utf-8").splitlines()
        written[number - 1] = replacement
        (root / "metadata.csv").write_text("\n".join(written) + "\n", encoding="utf-8", newline="")

    return spoil


def metadata(change: Callable[[bytes], bytes]):
    return lambda root: (root / "metadata.csv").write_bytes(change((root / "metadata.csv").read_bytes()))


def clip(change: Callable[[np.ndarray], np.ndarray], rate: int = SR, **how):
    """The samples of a clip, changed."""

    def spoil(root):
        samples, _ = soundfile.read(root / CLIP)
        soundfile.write(root / CLIP, change(samples), rate, **({"subtype": "PCM_16"} | how))

    return spoil


def content(change: Callable[[bytes], bytes], name: str = CLIP):
    return lambda root: (root / name).write_bytes(change((root / CLIP).read_bytes()))


def replaced(make: Callable[[Path], object], name: str = CLIP):
    """Something else in the place of a file."""

    def spoil(root):
        (root / name).unlink()
        make(root / name)

    return spoil


def band_limited(samples: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(samples)
    spectrum[len(spectrum) // 2 :] = 0
    return np.fft.irfft(spectrum, len(samples))


def lying_flac(root: Path) -> None:
    """A FLAC header of 2**36 - 1 samples over one second."""
    (root / CLIP).unlink()
    flac = root / CLIP.replace("wav", "flac").replace("flacs", "wavs")
    soundfile.write(flac, noise(3, 1.0), SR)
    written = bytearray(flac.read_bytes())
    written[21] |= 0x0F
    written[22:26] = b"\xff" * 4
    flac.write_bytes(bytes(written))


def slipped(root: Path) -> None:
    """A line is missing, and all texts after it stand beside the clip before their own."""
    for i in range(5, N - 1):
        shutil.copy(root / f"wavs/c{i + 1:03d}.wav", root / f"wavs/c{i:03d}.wav")


def copied(root: Path) -> None:
    shutil.copy(root / "wavs/c005.wav", root / CLIP)


def renamed(change: Callable[[str], str]):
    def spoil(root):
        write(root, lambda i, text: f"Zoë{i}|{text}")
        for i in range(N):
            (root / f"wavs/c{i:03d}.wav").rename(root / f"wavs/{change(f'Zoë{i}')}.wav")

    return spoil


def linked_out(root: Path) -> None:
    outside = shutil.move(root / CLIP, root.parent / f"{root.name}-outside.wav")
    (root / CLIP).symlink_to(outside)


CHINESE, GREEK = "你好世界朋友今天天气很好我们去公园他在学校学习", "αβγδεζηθικλμνξοπρστυφχψω"
PHONEMES = TextSettings()
AT = "{root}/metadata.csv:4: "
ROWS = [
    Row("a sound corpus", lambda root: None, f"{N} rows = "),
    # metadata
    Row("M1 an opening quote", one_line('c003|"the river garden, she said, by the bridge.'), "+ 0 skipped"),
    Row(
        "M2 tabs",
        metadata(lambda b: b.replace(b"|", b"\t")),
        'metadata.csv:1: 1 columns, expected 2 or 3 separated by "|"; looks like tab',
        2,
    ),
    Row("M2 commas", metadata(lambda b: b.replace(b"|", b",")), "looks like comma", 2),
    Row("M3 too few columns", one_line("c003"), AT + "1 columns", 2),
    Row("M4 too many columns", one_line("c003|a|b|c"), AT + "4 columns", 2),
    Row("M5 byte order mark", metadata(lambda b: b"\xef\xbb\xbf" + b), "+ 0 skipped"),
    Row("M6 Windows line ends", metadata(lambda b: b.replace(b"\n", b"\r\n")), "+ 0 skipped"),
    Row("M8 UTF-16", metadata(lambda b: b.decode().encode("utf-16")), "looks like UTF-16; save it as UTF-8", 2),
    Row("a NUL", metadata(lambda b: b.replace(b"river", b"ri\0er", 1)), "metadata.csv:1: a NUL character", 2),
    Row("Latin-1", metadata(lambda b: b + "c|café\n".encode("latin-1")), "metadata.csv:25: not UTF-8", 2),
    Row("M10 a row twice", metadata(lambda b: b + b.splitlines(keepends=True)[3]), "1 skipped, repeated row"),
    Row("M10 an id twice", metadata(lambda b: b + b"c003|another\n"), "id 'c003' again, with another text than at", 2),
    Row(
        "M11 a missing clip", replaced(lambda path: None), "1 skipped, missing audio: " + AT + "no file {root}/" + CLIP
    ),
    Row("M11 no folder", lambda root: (root / "wavs").rename(root / "audio"), "24 of 24 clips are missing", 2),
    Row(
        "a clip of another kind",
        lambda root: (root / CLIP).rename(root / "wavs/c003.mp3"),
        "(there is c003.mp3: convert it",
    ),
    Row(
        "M13 a path out of the corpus", one_line("../../etc/passwd|x"), AT + "id '../../etc/passwd' is not the name", 2
    ),
    Row("M13 hidden inside", one_line("a/../../b|x"), AT + "id 'a/../../b' is not the name", 2),
    Row("M14 an absolute path", one_line("/etc/passwd|x"), AT + "id '/etc/passwd' is not the name", 2),
    Row("M16 an empty file", metadata(lambda b: b""), "metadata.csv: 0 usable rows", 2),
    Row("M16 a header alone", metadata(lambda b: b"id|text\n"), "metadata.csv: 0 usable rows", 2),
    Row(
        "M16 a header",
        metadata(lambda b: b"file_name|transcription\n" + b),
        "1 skipped, names of columns: {root}/metadata.csv:1",
    ),
    Row("M18 a line of 10 MB", one_line("c003|" + "x" * 10**7), "10000000 characters > data.max_characters=1000"),
    Row("M19 a folder", replaced(Path.mkdir, "metadata.csv"), "metadata.csv: is a directory", 2),
    Row("M19 a pipe", replaced(os.mkfifo, "metadata.csv"), "metadata.csv: a pipe or a device, not a file", 2),
    Row(
        "M20 an utterance twice",
        lambda root: (copied(root), one_line(f"c003|{sentence(5)}")(root)),
        "1 skipped, repeated clip: {root}/metadata.csv:6: recording and text of",
    ),
    Row(
        "a speaker as text",
        lines(lambda i, text: f"c{i:03d}|{text}|{['alice', 'bob'][i % 2]}"),
        "column 3, which would be spoken, holds labels (alice, bob)",
        2,
    ),
    Row(
        "seconds as text",
        lines(lambda i, text: f"c{i:03d}|{text}|{1 + i / 7:.2f}"),
        "holds numbers (1.00, 1.14, 1.29)",
        2,
    ),
    Row("a language as text", lines(lambda i, text: f"c{i:03d}|{text}|en"), "holds labels (en)", 2),
    Row("an id as text", lines(lambda i, text: f"c{i:03d}|{text}|spk{i}"), "far shorter than a text (spk0", 2),
    Row(
        "numbers alone",
        lines(lambda i, text: f"c{i:03d}|{i * 3.5:.1f}"),
        "column 2, which would be spoken, holds numbers",
        2,
    ),
    Row(
        "speakers beside",
        lines(lambda i, text: f"c{i:03d}|{['alice', 'bob'][i % 2]}|{text}"),
        "columns: {root}/metadata.csv:1: column 2 holds labels (alice, bob): if they are speakers",
    ),
    Row("ids with folder and suffix", lines(lambda i, text: f"wavs/c{i:03d}.wav|{text}"), "24 doubtful, file names: "),
    Row("ids of another case", lines(lambda i, text: f"C{i:03d}|{text}"), "24 doubtful, file names: "),
    Row("files in NFD", renamed(lambda n: unicodedata.normalize("NFD", n)), "another normal form of Unicode"),
    Row("a link out of the corpus", linked_out, "is a link out of the corpus, to "),
    # audio
    Row(
        "A1 an empty clip",
        content(lambda b: b""),
        "1 skipped, corrupt audio: " + AT + "{root}/" + CLIP + ": empty file",
    ),
    Row("A2 a header alone", clip(lambda x: x[:0]), CLIP + ": 0 samples, a header without audio"),
    Row("A3 half a clip", content(lambda b: b[: len(b) // 2]), "truncated: its data chunk says"),
    Row(
        "A5 random bytes", content(lambda b: np.random.default_rng(0).bytes(5000)), "not an audio file that can be read"
    ),
    Row("A5 a web page", content(lambda b: b"<!DOCTYPE html>"), "a web page, not audio"),
    Row(
        "A5 a Git LFS pointer", content(lambda b: b"version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"
    ),
    Row("A6 stereo", clip(lambda x: np.stack([x, x * 0], 1)), "+ 0 skipped"),
    Row("cancelled stereo", clip(lambda x: np.stack([x, -0.9 * x], 1)), "1 doubtful, channels that cancel: " + AT),
    Row("A7 other rate", clip(lambda x: np.repeat(x, 2), 2 * SR), "+ 0 skipped"),
    *(
        Row(f"A8-A11 {kind}", clip(lambda x: x, subtype=kind), "+ 0 skipped")
        for kind in ("PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
    ),
    Row("integers as floats", clip(lambda x: x * 32768, subtype="FLOAT"), "1 skipped, badly scaled: " + AT),
    Row(
        "not a number",
        clip(lambda x: np.where(x == x.max(), np.nan, x), subtype="FLOAT"),
        "contains NaN or infinite samples",
    ),
    Row("A14 silence", clip(lambda x: 0 * x), "1 skipped, silent: " + AT + "less than 0.1 s above -60 dBFS"),
    Row("A14 a constant", clip(lambda x: 0 * x + 0.5), "1 skipped, silent: " + AT),
    Row(
        "A14 all silent",
        lambda root: [soundfile.write(p, np.zeros(SR), SR) for p in (root / "wavs").iterdir()],
        "24 of 24 clips are missing, corrupt or silent",
        2,
    ),
    Row("A15 clipped", clip(lambda x: np.clip(x * 20, -1, 1)), "1 doubtful, clipped: " + AT),
    Row("A15 clipped and turned down", clip(lambda x: 0.4 * np.clip(x * 5, -1, 1)), "1 doubtful, clipped: " + AT),
    Row("A16 offset", clip(lambda x: x + 0.3), "1 doubtful, offset: " + AT),
    Row("very quiet", clip(lambda x: x / 100), "1 doubtful, level: " + AT),
    Row("band-limited", clip(band_limited), "1 doubtful, band-limited: " + AT + "nothing above 4."),
    Row("A17 a short clip", clip(lambda x: x[:100]), "1 skipped, too short: " + AT),
    Row(
        "A18 40 minutes",
        clip(lambda x: np.zeros(2400 * 8000), 8000, subtype="PCM_U8"),
        "2400.0 s > data.max_seconds=20",
    ),
    Row("A20 FLAC named wav", clip(lambda x: x, format="FLAC"), "+ 0 skipped"),
    Row("A21 a folder named wav", replaced(Path.mkdir), "1 skipped, corrupt audio"),
    Row("a pipe named wav", replaced(os.mkfifo), "a pipe or a device, not a file"),
    Row("a device named wav", replaced(lambda path: path.symlink_to("/dev/zero")), "a pipe or a device, not a file"),
    Row("a link to nothing", replaced(lambda path: path.symlink_to("nothing")), "1 skipped, missing audio"),
    Row("a header that lies", lying_flac, "its header says 68719476735 samples, more than a file of its size"),
    Row(
        "half a FLAC",
        lambda root: [clip(lambda x: x, format="FLAC")(root), content(lambda b: b[: len(b) // 2])(root)],
        "1 skipped, corrupt audio: " + AT,
    ),
    Row(
        "a recording twice",
        copied,
        "1 doubtful, same recording: {root}/metadata.csv:6: the samples of {root}/metadata.csv:4",
    ),
    Row("T5 far too short", clip(lambda x: x[: len(x) // 3]), "1 doubtful, too short for its text: " + AT),
    Row("T5 far too long", clip(lambda x: np.tile(x, 3)), "1 doubtful, too long for its text: " + AT),
    Row("texts that slipped", slipped, "1 doubtful, texts out of step: {root}/metadata.csv:"),
    # text
    Row("T1 no text", one_line("c003|   "), "1 skipped, empty text: {root}/metadata.csv:4"),
    Row("T2 marks alone", one_line("c003|..."), "1 skipped, unusable text: " + AT, text=PHONEMES),
    Row(
        "T4 more tokens than frames",
        one_line("c003|" + "many letters " * 30),
        "1 skipped, more tokens than frames: " + AT,
    ),
    Row("T6 a long text", one_line("c003|" + "a " * 2500), "4999 characters > data.max_characters=1000"),
    Row(
        "capitals",
        lines(lambda i, text: f"c{i:03d}|{text.upper()}"),
        "24 doubtful, capitals alone: {root}/metadata.csv:1",
    ),
    Row(
        "another script",
        lines(lambda i, text: f"c{i:03d}|{CHINESE[i % 20 : i % 20 + 4]}"),
        "script: {root}/metadata.csv:1: text.voice=en-us does not read CJK",
        text=PHONEMES,
    ),
    Row(
        "a script that is spelled",
        lines(lambda i, text: f"c{i:03d}|{GREEK[i % 20 : i % 20 + 4]}"),
        "does not read GREEK",
        text=PHONEMES,
    ),
    Row(
        "an invisible character",
        one_line("c003|the gar\u00adden by the river."),
        "1 doubtful, invisible or broken characters: " + AT + "U+00AD",
    ),
    Row(
        "a lost character",
        one_line("c003|the caf\ufffd by the river."),
        "1 doubtful, invisible or broken characters: " + AT,
    ),
    Row(
        "UTF-8 read as Latin-1",
        one_line("c003|the cafÃ© by the river."),
        "1 doubtful, encoding: " + AT + "'the cafÃ© by the river.' reads as 'the café",
    ),
    Row("markup", one_line("c003|the <b>garden</b> &amp; the river."), "1 doubtful, markup: " + AT + "'<b>'"),
    Row(
        "a mark without effect",
        one_line("c003|the garden ¦ the river by the bridge."),
        "marks without effect: " + AT + "'¦' (U+00A6)",
        text=PHONEMES,
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_said(row, sound_corpus, tmp_path):
    root = shutil.copytree(sound_corpus, tmp_path / "corpus")
    row.spoil(root)
    try:
        said, status = load(root, row.text).summary(), 0
    except ValueError as error:
        said, status = str(error), 2
        assert "\n" not in said
    assert (row.says.replace("{root}", str(root)) in said, status) == (True, row.status), said
    if row is ROWS[0] or row.says == "+ 0 skipped":
        assert len(said.splitlines()) == 1, said  # no word of doubt about what is sound
