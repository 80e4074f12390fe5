"""Noise for recordings and random tokens for texts: as long as speech is, with nothing in it to learn."""

import statistics
from pathlib import Path

import numpy as np

from vitslite import audio
from vitslite.audio import AudioSettings
from vitslite.datasets.corpus import Corpus, Utterance
from vitslite.text.frontend import BLANK, Frontend, TextSettings

N_SYMBOLS = 178  # of VITS
FRAMES_PER_TOKEN = 2.5  # 5 phonemes in 0.3 s at 86 frames a second, with blanks between them
SHORTEST, LONGEST = 1.11, 10.1  # seconds, of the 13,100 clips of LJSpeech
N_CLIPS = 13_100
_LOG_MEDIAN, _LOG_STD = 2.7497, 0.8  # of the uncut lognormal; cut, it has LJSpeech's mean, 6.57 s, and spread, 2.19 s


def speech_lengths(n: int) -> list[float]:
    """Seconds of n clips, like LJSpeech's: lognormal, cut where its shortest and longest clips are."""
    normal = statistics.NormalDist(_LOG_MEDIAN, _LOG_STD)
    low, high = (normal.cdf(float(np.log(seconds))) for seconds in (SHORTEST, LONGEST))
    shares = np.random.default_rng(0).uniform(low, high, n)
    return [float(np.exp(normal.inv_cdf(share))) for share in shares]


def speech_frames(n: int, settings: AudioSettings) -> list[int]:
    """As `speech_lengths`, in frames."""
    return [int(seconds * settings.frames_per_second) for seconds in speech_lengths(n)]


def n_tokens_of(n_frames: int) -> int:
    return max(1, round(n_frames / FRAMES_PER_TOKEN))


def write_corpus(folder: Path, frame_lengths: list[int], settings: AudioSettings) -> Corpus:
    """Clips of these lengths as 16-bit wavs in `folder`; the first three are also there for validation."""
    random = np.random.default_rng(0)
    utterances = []
    for i, n_frames in enumerate(frame_lengths):
        path = folder / f"{i:05d}.wav"
        noise = random.normal(0, 0.1, n_frames * settings.hop_length).astype(np.float32)
        audio.write_wav(path, noise, settings.sample_rate)
        tokens = random.integers(1, N_SYMBOLS, n_tokens_of(n_frames)).tolist()
        utterances.append(Utterance(path.stem, f"noise {i}", path, tokens, n_frames))
    frontend = Frontend(TextSettings(frontend="characters"), [BLANK, *(f"{i}" for i in range(1, N_SYMBOLS))])
    return Corpus(utterances, utterances[:3], [], frontend, folder)
