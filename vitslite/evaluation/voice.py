"""Evaluation of a trained voice on sentences that it was not trained on.

    recording
    Griffin-Lim  its log-mel spectrogram made audio without learning: what a decoder must beat
    copy      copy-synthesis: decoded from the posterior of the recording, or from its log-mel, where that is the latent
    paced     spoken from text with the durations that the alignment search finds in the recording
    spoken    spoken from text alone: prior sample, predicted durations

copy against paced is the gap between posterior and prior (sampled at `noise_scale`), paced against spoken is what the
predicted durations cost.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitslite import randomness
from vitslite.audio import Features
from vitslite.datasets.corpus import Utterance
from vitslite.datasets.loader import fixed_batches
from vitslite.evaluation.griffin_lim import GriffinLim
from vitslite.evaluation.judges import Judge
from vitslite.evaluation.result import MODEL, Scored
from vitslite.evaluation.scoring import Ratio, Scorer
from vitslite.metrics.acoustics import log_mel_l1
from vitslite.metrics.alignment import onset_errors
from vitslite.metrics.over_paths import utterance_sums
from vitslite.metrics.recognisers import NotInstalledError
from vitslite.metrics.recognition import Recogniser, WordAligner
from vitslite.model.alignment import SEARCHES
from vitslite.model.synthesis import Synthesis
from vitslite.monitoring.views import View, views
from vitslite.objectives import kl
from vitslite.synthesis import SpeakSettings, Synthesizer
from vitslite.tensors import Batch, Outputs

Onsets = list[tuple[int, int]]  # (token, sample)


class VoiceEvaluator:
    """Speaks and measures held-out utterances of a corpus, one at a time, as a user would have them spoken."""

    def __init__(
        self,
        voice: Synthesizer,
        recogniser: Recogniser | None,
        settings: SpeakSettings,
        judges: Sequence[Judge] = (),
    ):
        self.voice = voice
        self.frontend = voice.frontend
        self.settings = settings
        self.audio = voice.config.audio
        self.features = Features(self.audio).to(voice.device)
        self.scorer = Scorer(self.audio, recogniser, judges)
        self._griffin_lim = GriffinLim(self.audio)
        self.seconds = self.audio_seconds = 0.0  # spent on speaking, and spoken
        self._word_aligner = None  # of the demo voice the true onsets are known
        if voice.config.data.kind != "demo" and voice.config.text.voice.startswith("en"):
            with contextlib.suppress(NotInstalledError):
                self._word_aligner = WordAligner()

    def score(self, utterances: list[Utterance]) -> Iterator[Scored]:
        """ValueError names the utterance that cannot be measured."""
        for utterance in utterances:
            (batch,) = fixed_batches([utterance], 1, self.audio, self.settings.seed)
            try:
                yield self._score(utterance, self.features(batch.to(self.voice.device)))
            except ValueError as error:
                raise ValueError(f"utterance {utterance.id}: {error}") from error

    def speed(self) -> dict[str, float]:
        """Seconds from tokens to audio per second of audio, one utterance at a time, and the peak of memory.

        The peak is of the whole process (of the GPU, where one is used), the evaluation included.
        """
        on_gpu = self.voice.device.type == "cuda"
        memory = torch.cuda.max_memory_allocated() if on_gpu else _peak_bytes()
        return {
            "real_time_factor": self.seconds / max(self.audio_seconds, 1e-9),
            "peak_memory_mb": memory / 1e6,
            "threads": torch.get_num_threads(),
        }

    @torch.no_grad()
    def _score(self, utterance: Utterance, batch: Batch) -> Scored:
        outputs, seed = self.voice.model(batch), self.settings.seed
        spoken = self._timed_speech(batch, seed)
        wavs = {
            "recording": _samples(batch.audio),
            "Griffin-Lim": self._griffin_lim(_samples(batch.audio)),
            "copy": _samples(self.voice.model.reconstruct(batch)),
            "paced": _samples(self._speak(batch, seed, outputs.durations).audio),
            "spoken": _samples(spoken.audio),
        }
        again = _samples(self._speak(batch, seed + 1, spoken.durations).audio)
        words = self._word_onsets(utterance, batch)

        measures, heard = self.scorer.score(utterance.text, wavs, utterance.id)
        mels = {kind: self.scorer.log_mel(wav) for kind, wav in wavs.items()}
        for kind in ("recording", "Griffin-Lim", "copy", "paced"):
            measures[kind]["log_mel_l1"] = (log_mel_l1(mels[kind], mels["recording"]), 1)
        measures["spoken"]["diversity"] = (log_mel_l1(self.scorer.log_mel(again), mels["spoken"]), 1)
        measures[MODEL], pooled = self._model_measures(utterance, batch, outputs, words, spoken.durations)
        return Scored(
            utterance.id,
            utterance.text,
            wavs,
            heard,
            measures,
            pooled,
            predicted=spoken.durations[0].cpu().numpy(),
            view=self._view(utterance, batch, outputs, words),
        )

    def _timed_speech(self, batch: Batch, seed: int) -> Synthesis:
        if self.voice.device.type == "cuda":
            torch.cuda.synchronize()  # what was asked for before is not the speaking's time
        started = time.perf_counter()
        spoken = self._speak(batch, seed)
        spoken.audio.cpu()  # a GPU has then done its work
        self.seconds += time.perf_counter() - started
        self.audio_seconds += spoken.audio.shape[2] / self.audio.sample_rate
        return spoken

    def _speak(self, batch: Batch, seed: int, durations: Int[Tensor, "B L"] | None = None) -> Synthesis:
        s = self.settings
        keys = torch.tensor([randomness.key(seed, "evaluation", batch.ids[0])], device=self.voice.device)
        scales = s.noise_scale, s.duration_noise_scale
        return self.voice.model.infer(
            batch.tokens, batch.token_lengths, keys, *scales, durations=durations, n_steps=s.n_steps
        )

    def _model_measures(
        self, utterance: Utterance, batch: Batch, outputs: Outputs, words: Onsets | None, predicted: Int[Tensor, "B L"]
    ) -> tuple[dict[str, Ratio], dict[str, Float[np.ndarray, " _"]]]:
        """(ratios, errors to be pooled) of the posterior, the alignment and the durations."""
        frame_ms = 1000 * self.audio.hop_length / self.audio.sample_rate
        x, durations, n_tokens = outputs.latents, outputs.durations, len(utterance.tokens)
        name, estimator = ("kl", kl.half_analytic) if x.posterior else ("nll", kl.likelihood)
        ratios = {
            name: ((estimator(x) * x.mask).sum().item(), x.mask.sum().item()),
            **self._over_paths(outputs, batch),
            "duration_error": ((predicted - durations).abs().sum().item() * frame_ms, n_tokens),
        }
        pooled = {}
        for name, onsets in (("alignment", utterance.onsets), ("word_onset", words)):
            if onsets:
                errors = self._onset_errors(durations[0], onsets)
                pooled[f"{name}_median"] = errors
                ratios[f"{name}_error"] = (errors.sum().item(), len(errors))
                for limit in (20, 50):
                    ratios[f"{name}_within_{limit}ms"] = ((errors <= limit).sum().item(), len(errors))
        if words:  # what no alignment at all would give: all tokens of the same length
            even = torch.full((n_tokens,), batch.frame_lengths[0].item() / n_tokens)
            ratios["word_onset_uniform_error"] = (self._onset_errors(even, words).sum().item(), len(words))
        return ratios, pooled

    def _over_paths(self, outputs: Outputs, batch: Batch) -> dict[str, Ratio]:
        """The figures that do not depend on one path (metrics/over_paths.py), and what a search gains by its own."""
        sums = {name: values.item() for name, values in utterance_sums(outputs, batch.token_lengths).items()}
        names = {"over_paths": "kl_over_paths", "nll_over_paths": "nll_over_paths"}
        if self.voice.config.model.alignment.kind in SEARCHES:
            names["hindsight"] = "hindsight"
        return {name: (sums[of], sums["frames"]) for of, name in names.items() if of in sums}

    def _onset_errors(self, durations: Int[Tensor, " L"] | Float[Tensor, " L"], onsets: Onsets) -> np.ndarray:
        blanks = self.frontend.settings.blanks
        return onset_errors(durations, onsets, self.audio.hop_length, self.audio.sample_rate, blanks)

    def _word_onsets(self, utterance: Utterance, batch: Batch) -> Onsets | None:
        """(token, sample) of every word by forced alignment; None where that fails or espeak-ng joins words."""
        if self._word_aligner is None:
            return None
        seconds = self._word_aligner.onsets(utterance.text, _samples(batch.audio), self.audio.sample_rate)
        tokens = self.frontend.word_starts(utterance.text)
        if seconds is None or len(seconds) != len(tokens):
            return None
        return [(token, round(s * self.audio.sample_rate)) for token, s in zip(tokens, seconds, strict=True)]

    def _view(self, utterance: Utterance, batch: Batch, outputs: Outputs, words: Onsets | None) -> View:
        known = utterance.onsets or words
        onsets = [(token, sample / self.audio.hop_length) for token, sample in known or []]
        label = "true onsets" if utterance.onsets else "words, by forced alignment"
        return views(outputs, batch, [self.frontend.names(utterance.tokens)], [onsets], label)[0]


def _samples(audio: Float[Tensor, "1 1 S"]) -> Float[np.ndarray, " S"]:
    return audio[0, 0].float().cpu().numpy()


def _peak_bytes() -> int:
    """The most memory that this process has held; 0 where the system does not say."""
    try:
        from resource import RUSAGE_SELF, getrusage  # not on Windows
    except ImportError:
        return 0
    return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
