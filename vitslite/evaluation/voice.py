"""How a trained voice speaks sentences that it was not trained on.

    recording
    copy      copy-synthesis: decoded from the posterior of the recording
    paced     spoken from text with the durations that the alignment search finds in the recording
    spoken    spoken from text alone: prior sample, predicted durations

copy against paced is the gap between posterior and prior, paced against spoken is what the predicted durations cost.
"""

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from vitslite import diagnostics, randomness
from vitslite.acoustics import log_mel_l1
from vitslite.audio import Features
from vitslite.datasets.ljspeech import Utterance
from vitslite.datasets.loader import fixed_batches
from vitslite.evaluation.result import Alignment, Scored
from vitslite.evaluation.scoring import Ratio, Scorer
from vitslite.model import alignment
from vitslite.objectives import kl
from vitslite.recognition import Recogniser, WordAligner
from vitslite.synthesis import Synthesizer
from vitslite.tensors import Batch, Outputs
from vitslite.text.frontend import Frontend

MODEL = "model"  # the column of what is measured on the model and not on a recording


@dataclass(frozen=True)
class SpeakSettings:
    seed: int = 0
    noise_scale: float = 0.667
    duration_noise_scale: float = 0.8


class VoiceEvaluator:
    """Speaks and measures held-out utterances of a corpus, one at a time, as a user would have them spoken."""

    def __init__(self, voice: Synthesizer, frontend: Frontend, recogniser: Recogniser | None, settings: SpeakSettings):
        self.voice = voice
        self.frontend = frontend
        self.settings = settings
        self.audio = voice.config.audio
        self.features = Features(self.audio).to(voice.device)
        self.scorer = Scorer(self.audio, recogniser)
        self.seconds = self.audio_seconds = 0.0  # spent on speaking, and spoken
        self._word_aligner: WordAligner | None = None
        if recogniser is not None and voice.config.data.kind != "demo" and is_english(voice):
            self._word_aligner = WordAligner()

    def score(self, utterances: list[Utterance]) -> Iterator[Scored]:
        """ValueError names the utterance that cannot be measured."""
        by_id = {u.id: u for u in utterances}
        for batch in fixed_batches(utterances, 1, self.audio, self.settings.seed):
            utterance = by_id[batch.ids[0]]
            try:
                yield self._score(utterance, self.features(batch.to(self.voice.device)))
            except ValueError as error:
                raise ValueError(f"utterance {utterance.id}: {error}") from error

    def speed(self) -> dict[str, float]:
        """Seconds of computing per second of speech, one utterance at a time, and the most memory ever used."""
        on_gpu = self.voice.device.type == "cuda"
        memory = (
            torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        return {
            "real_time_factor": self.seconds / max(self.audio_seconds, 1e-9),
            "memory_mb": memory / 1e6,
            "threads": torch.get_num_threads(),
        }

    @torch.no_grad()
    def _score(self, utterance: Utterance, batch: Batch) -> Scored:
        model = self.voice.model
        outputs = model(batch)
        wavs = {
            "recording": batch.audio[0, 0],
            "copy": model.reconstruct(batch)[0, 0],
            "paced": self._speak(batch, outputs.durations).audio[0, 0],
        }
        started = time.perf_counter()
        spoken = self._speak(batch)
        wavs["spoken"] = spoken.audio[0, 0]
        wavs = {kind: wav.float().cpu().numpy() for kind, wav in wavs.items()}
        self.seconds += time.perf_counter() - started
        self.audio_seconds += len(wavs["spoken"]) / self.audio.sample_rate

        measures, heard = self.scorer.score(utterance.text, wavs)
        real = self.scorer.log_mel(wavs["recording"])
        for kind in ("recording", "copy", "paced"):
            measures[kind]["log_mel_l1"] = (log_mel_l1(self.scorer.log_mel(wavs[kind]), real), 1.0)
        again = self._speak(batch, spoken.durations, seed=self.settings.seed + 1).audio[0, 0].float().cpu().numpy()
        difference = log_mel_l1(self.scorer.log_mel(again), self.scorer.log_mel(wavs["spoken"]))
        measures["spoken"]["diversity"] = (difference, 1.0)
        words = self._word_onsets(utterance, batch)
        measures[MODEL] = self._model_measures(utterance, batch, outputs, words, spoken.durations)
        alignment_shown = self._alignment(utterance, outputs, words)
        return Scored(utterance.id, utterance.text, wavs, heard, measures, spoken.durations[0].cpu(), alignment_shown)

    def _alignment(self, utterance: Utterance, outputs: Outputs, words: list[tuple[int, int]] | None) -> Alignment:
        log_lik = alignment.log_likelihood(outputs.latents.z_p, outputs.p_text)[0].float().cpu()
        known = utterance.onsets or words
        onsets = known and [(token, sample / self.audio.hop_length) for token, sample in known]
        symbols = self.frontend.names(utterance.tokens)
        return Alignment(log_lik, outputs.durations[0].cpu(), symbols, onsets)

    def _speak(self, batch: Batch, durations: torch.Tensor | None = None, seed: int | None = None):
        s = self.settings
        seed = s.seed if seed is None else seed
        keys = torch.tensor([randomness.key(seed, "evaluation", batch.ids[0])], device=self.voice.device)
        return self.voice.model.infer(
            batch.tokens, batch.token_lengths, keys, s.noise_scale, s.duration_noise_scale, durations=durations
        )

    def _model_measures(
        self,
        utterance: Utterance,
        batch: Batch,
        outputs: Outputs,
        words: list[tuple[int, int]] | None,
        predicted: Int[torch.Tensor, "B L"],
    ) -> dict[str, Ratio]:
        frame_ms = 1000 * self.audio.hop_length / self.audio.sample_rate
        x, n_tokens = outputs.latents, len(utterance.tokens)
        difference = (predicted - outputs.durations).abs().sum().item() * frame_ms
        measures = {
            "kl": ((kl.half_analytic(x) * x.mask).sum().item(), float(x.mask.sum())),
            "duration_error": (difference, n_tokens),
        }
        durations, blanks = outputs.durations[0], self.frontend.settings.blanks
        if utterance.onsets:
            errors = self._onset_errors(durations, utterance.onsets, blanks)
            measures["alignment_error"] = (errors.sum(), len(errors))
            measures["alignment_within_20ms"] = ((errors <= 20).sum(), len(errors))
            measures["alignment_within_50ms"] = ((errors <= 50).sum(), len(errors))
        if words:
            errors = self._onset_errors(durations, words, blanks)
            even = torch.full(durations.shape, batch.frame_lengths[0].item() / n_tokens)
            measures["word_onset_error"] = (errors.sum(), len(errors))
            measures["word_onset_within_50ms"] = ((errors <= 50).sum(), len(errors))
            measures["word_onset_uniform_error"] = (self._onset_errors(even, words, blanks).sum(), len(errors))
        return {name: (float(n), float(d)) for name, (n, d) in measures.items()}

    def _word_onsets(self, utterance: Utterance, batch: Batch) -> list[tuple[int, int]] | None:
        """(token, sample) of every word by forced alignment; None where it fails or espeak-ng joins words."""
        if self._word_aligner is None:
            return None
        seconds = self._word_aligner.onsets(utterance.text, batch.audio[0, 0].cpu().numpy(), self.audio.sample_rate)
        tokens = self.frontend.word_starts(utterance.text)
        if seconds is None or len(seconds) != len(tokens):
            return None
        return [(token, round(s * self.audio.sample_rate)) for token, s in zip(tokens, seconds, strict=True)]

    def _onset_errors(self, durations: torch.Tensor, onsets: list[tuple[int, int]], blanks: bool) -> np.ndarray:
        return diagnostics.onset_errors(durations, onsets, self.audio.hop_length, self.audio.sample_rate, blanks)


def is_english(voice: Synthesizer) -> bool:
    s = voice.frontend.settings
    return s.frontend != "phonemes" or s.voice.startswith("en")
