"""Scores of synthesised audio against recordings, per utterance and for the whole set, with bootstrap intervals.

Every measure of an utterance is a ratio: errors over words, milliseconds over tokens, or a plain value over 1. The
figure of a set is the ratio of the sums; its 95 % interval comes from drawing the utterances again with replacement
(bootstrap; Efron 1979), with the same draws every time.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from tabulate import tabulate

from vitslite.audio import AudioSettings, LogMel
from vitslite.evaluation.judges import Judge, judged
from vitslite.metrics import acoustics, recognition
from vitslite.metrics.recognition import Recogniser
from vitslite.metrics.sound import Sound, sound
from vitslite.metrics.statistics import NOT_MEASURED, significant

N_RESAMPLES = 1000
Ratio = tuple[int | float, int | float]  # numerator, denominator


class Measure(NamedTuple):
    label: str
    unit: str  # of the stored value; fractions are shown in per cent


MEASURES = {
    "word_error_rate": Measure("word error rate", "fraction"),
    "excess_word_error_rate": Measure("the same minus the recording's", "fraction"),
    "character_error_rate": Measure("character error rate", "fraction"),
    "mel_cepstral_distortion": Measure("mel-cepstral distortion", "dB"),
    "log_f0_error": Measure("log-F0 error, rms per utterance", "semitones"),
    "voicing_error": Measure("voicing error along the warped path", "fraction"),
    "log_mel_l1": Measure("log-mel L1, same timing", "nats"),
    "high_buzz": Measure("repetition at one hop, above 4.5 kHz", "correlation"),
    "mid_buzz": Measure("repetition at one hop, 1.5 to 4.5 kHz", "correlation"),
    "harmonicity": Measure("harmonics-to-noise ratio", "dB"),
    "harmonicity_lost": Measure("the same minus the recording's", "dB"),
    "slow_modulation": Measure("modulation at 8 to 25 Hz", "dB"),
    "slow_modulation_lost": Measure("the same minus the recording's", "dB"),
    "fast_modulation": Measure("modulation at 25 to 50 Hz", "dB"),
    "fast_modulation_lost": Measure("the same minus the recording's", "dB"),
    "length_error": Measure("length, off the recording's", "fraction"),
    "words_per_minute": Measure("speaking rate", "words/min"),
    "diversity": Measure("diversity: log-mel L1 between two draws", "nats"),
    "rms_db": Measure("level", "dBFS"),
    "clipped": Measure("clipped samples", "fraction"),
    "silent": Measure("silent frames", "fraction"),
    "kl": Measure("KL on the path found", "nats/frame"),
    "kl_over_paths": Measure("KL over all paths", "nats/frame"),
    "hindsight": Measure("KL that the search gains by hindsight", "nats/frame"),
    "nll": Measure("-log p(log-mel | text)", "nats/frame"),
    "nll_over_paths": Measure("the same over all paths", "nats/frame"),
    "duration_error": Measure("duration, spoken against found, per token", "ms"),
    "alignment_error": Measure("phoneme onsets, mean error", "ms"),
    "alignment_median": Measure("phoneme onsets, median error", "ms"),
    "alignment_within_20ms": Measure("phoneme onsets within 20 ms", "fraction"),
    "alignment_within_50ms": Measure("phoneme onsets within 50 ms", "fraction"),
    "word_onset_error": Measure("word onsets, mean error", "ms"),
    "word_onset_median": Measure("word onsets, median error", "ms"),
    "word_onset_within_20ms": Measure("word onsets within 20 ms", "fraction"),
    "word_onset_within_50ms": Measure("word onsets within 50 ms", "fraction"),
    "word_onset_uniform_error": Measure("word onsets, mean error of evenly spread tokens", "ms"),
}
SEMITONES = 12 / math.log(2)  # per nat of frequency


class Estimate(NamedTuple):
    """A figure of the set with the ends of its 95 % interval; None where one utterance alone gives no interval."""

    value: float
    low: float | None
    high: float | None
    n: int  # utterances that have this measure


class Voiced(NamedTuple):
    """What the distances need of one recording."""

    wav: Float[np.ndarray, " S"]
    cepstrum: Float[np.ndarray, "C T"]
    f0: Float[np.ndarray, " T"]
    sound: Sound


class Scorer:
    """Measures recordings; the same input gives the same figures, in any order.

    `measures` are those of this scorer, the judges' included; `notes` say what has no figure, and why.
    """

    def __init__(self, audio: AudioSettings, recogniser: Recogniser | None, judges: Sequence[Judge] = ()):
        self.audio = audio
        self.recogniser = recogniser
        self.judges = judges
        self.measures = MEASURES | {judge.name: Measure(judge.label, judge.unit) for judge in judges}
        self.notes: list[str] = []
        self._log_mel = LogMel(audio)

    def log_mel(self, wav: Float[np.ndarray, " S"]) -> Float[np.ndarray, "M T"]:
        return self._log_mel(torch.from_numpy(wav)[None, None], torch.tensor([len(wav)]))[0].numpy()

    def score(
        self, text: str, wavs: dict[str, Float[np.ndarray, " _"]], clip: str = "a clip"
    ) -> tuple[dict[str, dict[str, Ratio]], dict[str, str]]:
        """(measures, what was heard) of each wav, samples in [-1, 1]; with distances to the one named "recording".

        `clip` is what notes call it.
        """
        analysed = {kind: self._analyse(kind, wav) for kind, wav in wavs.items()}
        heard = {}
        if self.recogniser is not None:
            heard = {kind: self.recogniser.transcribe(wav, self.audio.sample_rate) for kind, wav in wavs.items()}
        rows, words = {}, recognition.words(text)
        for kind, voiced in analysed.items():
            level = acoustics.level(voiced.wav, self.audio.hop_length)
            rows[kind] = {name: (getattr(level, name), 1.0) for name in ("rms_db", "clipped", "silent")}
            rows[kind] |= {name: (value, 1.0) for name, value in voiced.sound._asdict().items()}
            if words:
                rows[kind]["words_per_minute"] = (len(words), len(voiced.wav) / self.audio.sample_rate / 60)
            if words and heard:
                rows[kind] |= self._errors(text, heard[kind], heard.get("recording"))
            if "recording" in analysed:
                rows[kind] |= self._distances(voiced, analysed["recording"])
            rows[kind] |= self._judged(voiced.wav, wavs.get("recording"), f"{clip}, {kind}")
            # Silence has no level in dB, and what is never voiced no pitch: such an utterance does not count there.
            rows[kind] = {name: ratio for name, ratio in rows[kind].items() if math.isfinite(ratio[0])}
        return rows, heard

    def _analyse(self, kind: str, wav: Float[np.ndarray, " S"]) -> Voiced:
        if len(wav) < self.audio.hop_length:
            raise ValueError(f"the {kind} recording has {len(wav)} samples, less than one spectrogram frame")
        cepstrum, f0 = acoustics.mel_cepstrum(self.log_mel(wav)), acoustics.pitch(wav, self.audio)[0]
        return Voiced(wav, cepstrum, f0, sound(wav, self.audio.sample_rate, self.audio.hop_length))

    def _errors(self, text: str, heard: str, heard_in_recording: str | None) -> dict[str, Ratio]:
        c = recognition.count_errors(text, heard)
        rates: dict[str, Ratio] = {
            "word_error_rate": (c.word_errors, c.words),
            "character_error_rate": (c.character_errors, c.characters),
        }
        if heard_in_recording is not None:  # paired: the interval of a difference, not the difference of intervals
            excess = c.word_errors - recognition.count_errors(text, heard_in_recording).word_errors
            rates["excess_word_error_rate"] = (excess, c.words)
        return rates

    def _distances(self, x: Voiced, real: Voiced) -> dict[str, Ratio]:
        path = acoustics.warp(x.cepstrum, real.cepstrum)
        pitch = acoustics.pitch_errors(x.f0, real.f0, path)
        return {
            "mel_cepstral_distortion": (acoustics.mel_cepstral_distortion(x.cepstrum, real.cepstrum, path), 1.0),
            "log_f0_error": (pitch.log_f0_rmse * SEMITONES, 1.0),
            "voicing_error": (pitch.voicing, 1.0),
            **{
                f"{name}_lost": (getattr(x.sound, name) - getattr(real.sound, name), 1.0)
                for name in ("harmonicity", "slow_modulation", "fast_modulation")  # paired, as excess_word_error_rate
            },
            "length_error": (abs(len(x.wav) - len(real.wav)), len(real.wav)),
        }

    def _judged(
        self, wav: Float[np.ndarray, " S"], real: Float[np.ndarray, " _"] | None, clip: str
    ) -> dict[str, Ratio]:
        """The judges' scores; who cannot judge a clip has none of it, and the others go on."""
        scores: dict[str, Ratio] = {}
        lacking: dict[str, list[str]] = {}  # by the reason
        for judge in self.judges:
            try:
                scores[judge.name] = (judged(judge, wav, real, self.audio.sample_rate), 1.0)
            except ValueError as error:
                lacking.setdefault(str(error), []).append(judge.name)
        self.notes += [f"{clip}: no figure of {', '.join(names)}: {reason}" for reason, names in lacking.items()]
        return scores


def estimate(ratios: list[Ratio]) -> Estimate:
    """The ratio of the sums over utterances."""
    numerators, denominators = np.array(ratios, dtype=np.float64).T
    return _estimate(lambda drawn: numerators[drawn].sum() / denominators[drawn].sum(), len(ratios))


def estimate_median(values: list[Float[np.ndarray, " _"]]) -> Estimate:
    """The median of all utterances' values together, and its interval over utterances."""
    return _estimate(lambda drawn: np.median(np.concatenate([values[i] for i in drawn])), len(values))


def _estimate(statistic: Callable[[Int[np.ndarray, " N"]], float], n: int) -> Estimate:
    """A statistic of n utterances, by their indices, and its interval: they are drawn with replacement."""
    low = high = None
    if n > 1:
        draws = np.random.default_rng(0).integers(0, n, (N_RESAMPLES, n))  # the same every time
        low, high = np.percentile([statistic(drawn) for drawn in draws], [2.5, 97.5]).tolist()
    return Estimate(float(statistic(np.arange(n))), low, high, n)


def summarise(rows: list[dict[str, Ratio]], measures: Mapping[str, Measure] = MEASURES) -> dict[str, Estimate]:
    """One estimate per measure, over the utterances that have it."""
    found = {name: [row[name] for row in rows if name in row] for name in measures}
    return {name: estimate(ratios) for name, ratios in found.items() if sum(r[1] for r in ratios) > 0}


def table(
    columns: dict[str, dict[str, Estimate]], measures: Mapping[str, Measure] = MEASURES, style: str = "plain"
) -> str:
    """The estimates as lines of text, in a style of tabulate: a row per measure, a column per kind of recording."""
    return tabulate([["", *columns], *table_rows(columns, measures)], "firstrow", tablefmt=style, disable_numparse=True)


def table_rows(columns: dict[str, dict[str, Estimate]], measures: Mapping[str, Measure] = MEASURES) -> list[list[str]]:
    """The cells of `table`: the measure with its unit, then each column's figure."""
    n_most = max(x.n for column in columns.values() for x in column.values())
    rows = []
    for name, (label, unit) in measures.items():
        if any(name in column for column in columns.values()):
            cells = [in_words(column.get(name), unit == "fraction", n_most) for column in columns.values()]
            rows.append([f"{label}, {'%' if unit == 'fraction' else unit}", *cells])
    return rows


def in_words(x: Estimate | None, is_fraction: bool, n_most: int) -> str:
    """The value, its interval, and of how many utterances where it is not of all."""
    if x is None:
        return NOT_MEASURED
    scale = 100 if is_fraction else 1
    interval = (
        "" if x.low is None or x.high is None else f" [{significant(x.low * scale)}, {significant(x.high * scale)}]"
    )
    return f"{significant(x.value * scale)}{interval}{f' n={x.n}' if x.n < n_most else ''}"
