"""Evaluation of wavs against the recordings of a corpus, and of texts that have no recording."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitslite.audio import AudioSettings, read_wav
from vitslite.audio_files import duration_info
from vitslite.datasets.metadata import Skipped, read_metadata
from vitslite.evaluation.result import Scored
from vitslite.evaluation.scoring import Scorer
from vitslite.metrics.recognition import words
from vitslite.synthesis import SpeakSettings, Synthesizer
from vitslite.text.frontend import Frontend


class Pair(NamedTuple):
    id: str
    text: str
    given: Path
    real: Path


def find_pairs(folder: Path, reference: Path) -> list[Pair]:
    """Every wav or flac in `folder` with the recording of the same name in `reference`, LJSpeech's layout.

    ValueError when there are none, and for clips that the reference does not have.
    """
    if not (reference / "metadata.csv").is_file():
        raise ValueError(f"--reference {reference}: no metadata.csv there; give a corpus in LJSpeech's layout")
    given: dict[str, Path] = {}
    for suffix in (".flac", ".wav"):  # of two files of one name the wav counts
        given |= {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob(f"*{suffix}")}
    given = {name: path for name, path in sorted(given.items()) if not name.startswith("evaluation/")}
    if not given:
        raise ValueError(f"{folder}: no .wav or .flac files to compare with {reference}")
    texts = {row.id: row.text for row in read_metadata(reference / "metadata.csv", Skipped())}
    pairs, missing = [], []
    for name, path in given.items():
        real = next((p for p in (reference / "wavs" / f"{name}{s}" for s in (".wav", ".flac")) if p.is_file()), None)
        if real is None or name not in texts:
            missing.append(name)
        else:
            pairs.append(Pair(name, texts[name], path, real))
    if missing:
        raise ValueError(
            f"{reference} lacks {len(missing)} of the {len(given)} clips, the first {missing[0]}: it needs a line in "
            "metadata.csv and a file in wavs/ for each"
        )
    return pairs


def readable(pairs: list[Pair]) -> tuple[list[Pair], list[str]]:
    """Those whose files have a header of audio with samples after it, and a line for each of the others.

    ValueError when none is left.
    """
    left, notes = [], []
    for pair in pairs:
        try:
            for path in (pair.given, pair.real):
                duration_info(path)
        except ValueError as error:
            notes.append(str(error))
        else:
            left.append(pair)
    if not left:
        raise ValueError(f"none of the {len(pairs)} clips can be read; the first: {notes[0]}")
    return left, notes


def common_sample_rate(pairs: list[Pair], wanted: int | None = None) -> int:
    """The sample rate of all files, or `wanted`. ValueError when they differ, or have less than is wanted.

    An empty upper band would dominate the distances, so nothing is compared above the lowest rate.
    """
    paths = [path for pair in pairs for path in (pair.real, pair.given)]
    rates = {path: duration_info(path).sample_rate for path in paths}
    lowest, highest = min(paths, key=rates.__getitem__), max(paths, key=rates.__getitem__)
    if wanted is None and rates[lowest] != rates[highest]:
        raise ValueError(
            f"{lowest} has {rates[lowest]} Hz, {highest} has {rates[highest]}: add --sample-rate {rates[lowest]} to "
            "compare both there"
        )
    if wanted is not None and wanted > rates[lowest]:
        raise ValueError(f"--sample-rate {wanted}: {lowest} has {rates[lowest]} Hz; give that or less")
    return wanted or rates[lowest]


def comparison_audio(sample_rate: int) -> AudioSettings:
    """Spectrograms of 20 ms steps and at least 40 ms windows, at any sample rate."""
    n_fft = 2 ** int(np.ceil(np.log2(0.04 * sample_rate)))
    return AudioSettings(sample_rate, n_fft, 2 * round(0.01 * sample_rate), n_fft)


def score_pairs(pairs: list[Pair], scorer: Scorer) -> Iterator[Scored]:
    """What cannot be measured becomes a note of the scorer; ValueError when that is all."""
    n_notes, n_scored = len(scorer.notes), 0
    for pair in pairs:
        try:
            scored = _score_pair(pair, scorer)
        except ValueError as error:
            scorer.notes.append(str(error))
        else:
            n_scored += 1
            yield scored
    if not n_scored:
        raise ValueError(f"none of the {len(pairs)} clips can be measured; the first: {scorer.notes[n_notes]}")


def _score_pair(pair: Pair, scorer: Scorer) -> Scored:
    """ValueError names the file that cannot be measured."""
    rate = scorer.audio.sample_rate
    wavs = {"recording": read_wav(pair.real, rate), "given": read_wav(pair.given, rate)}
    wavs = {kind: wav.astype(np.float32) / 32768 for kind, wav in wavs.items()}
    try:
        measures, heard = scorer.score(pair.text, wavs, str(pair.given))
    except ValueError as error:
        raise ValueError(f"{pair.given}: {error}") from error
    return Scored(pair.id, pair.text, wavs, heard, measures)


def read_texts(path: Path, frontend: Frontend) -> list[str]:
    """One sentence per line; empty lines are passed over. ValueError names the line that cannot be spoken or heard."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        fault = error.strerror if isinstance(error, OSError) and error.strerror else f"not UTF-8 text ({error})"
        raise ValueError(f"--texts {path}: {fault.lower()}; give a file with one sentence per line") from error
    texts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not words(line):
            raise ValueError(f"{path}:{number}: text {line.strip()!r}: no words to recognise")
        try:
            frontend.encode(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        texts.append(line.strip())
    if not texts:
        raise ValueError(f"--texts {path}: no text in it; give one sentence per line")
    return texts


def score_texts(voice: Synthesizer, texts: list[str], scorer: Scorer, settings: SpeakSettings) -> Iterator[Scored]:
    """What is heard in texts without recordings, their rate and level."""
    for number, text in enumerate(texts, 1):
        name, wavs = f"text-{number:04d}", {"spoken": voice.speak(text, settings)}
        measures, heard = scorer.score(text, wavs, name)
        yield Scored(name, text, wavs, heard, measures)
