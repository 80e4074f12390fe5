"""Validation: losses on fixed noise, the alignment against the truth where it is known, what a recogniser understands
and how it sounds, samples to see and hear.

The same utterances, noise and segments at every step and in every run (common random numbers), so that curves of two
runs differ by the models alone.
"""

import functools
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from vitslite.audio import write_wav
from vitslite.datasets.loader import Data
from vitslite.files import write_text
from vitslite.metrics import breakdown, recognition
from vitslite.metrics.alignment import onset_errors, path_statistics
from vitslite.metrics.latents import LatentSums, latent_statistics, latent_sums
from vitslite.metrics.over_paths import Sums, over_path_statistics, utterance_sums
from vitslite.metrics.recognition import Recogniser
from vitslite.metrics.sound import Sound, sound
from vitslite.model import alignment
from vitslite.model.synthesis import SynthesisSettings
from vitslite.model.vits import VITS
from vitslite.monitoring import timelines
from vitslite.monitoring.samples import KINDS, WORDS
from vitslite.monitoring.views import views
from vitslite.objectives.objective import Counts, Objective
from vitslite.tensors import Batch, Outputs

SOUND_METRICS = tuple(f"val/sound/{name}/{kind}" for name in Sound._fields for kind in KINDS)
WORD_METRICS = tuple(f"val/{rate}/{kind}" for rate in ("wer", "cer") for kind in KINDS)


@dataclass
class ValidationSettings:
    recogniser: str = "auto"  # of `vitslite evaluate`: auto, grammar, pocketsphinx, none, whisper:SIZE, ...
    # Validation sentences that are listened to whenever samples are made: their words and their sound; 0: none.
    n_heard: int = field(default=20, metadata={"at_least": 0})


class Validated(NamedTuple):
    """A validation: the figures that are logged, and the same by utterance, phoneme and latent channel."""

    metrics: dict[str, float]
    utterances: list[breakdown.Row]  # with mel_l1 and, where the truth is known, alignment_error_ms
    phonemes: list[breakdown.Row]
    ratio: list[float]  # r = std_q / std_p, rms over frames; none where there is no posterior
    values: dict[str, Float[np.ndarray, " _"]]  # for histograms


class Validator:
    """Runs on the main rank alone. `model` is the average of the weights, if there is one, else as it is trained."""

    def __init__(
        self,
        data: Data,
        objective: Objective,
        recogniser: Recogniser | None,
        synthesis: SynthesisSettings,
        device: torch.device,
        run_dir: Path,
    ):
        self.data, self.audio = data, data.audio
        self.objective = objective
        self.recogniser = recogniser
        self.synthesis = synthesis
        self.device = device
        self.run_dir = run_dir
        self.utterances = {u.id: u for u in data.corpus.validation}
        self._hypotheses_of_recordings: dict[str, str] = {}  # by id
        self._sounds_of_recordings: dict[str, Sound] = {}

    @torch.no_grad()
    def validate(self, model: VITS) -> Validated:
        """Every loss term over the whole validation set, the KL over paths, and the error of the alignment in ms."""
        flat = sum((self.objective.counts(b).flat() for b in self.data.validation), torch.zeros(()))
        counts = Counts.from_flat(flat.to(self.device))
        terms: dict[str, float] = {}
        sums: list[LatentSums] = []
        over_paths: list[Sums] = []
        phonemes: list[dict[str, breakdown.PhonemeSum]] = []
        rows: list[breakdown.Row] = []
        values: list[dict[str, Float[np.ndarray, " _"]]] = []
        paths, errors, even_errors = [], [], []
        for batch in self.data.validation:
            batch = self._prepare(batch)
            outputs = model(batch)
            for name, value in self.objective(outputs, counts).terms.items():
                terms[name] = terms.get(name, 0.0) + value.item()
            with torch.autocast(self.device.type, enabled=False):
                sums.append(latent_sums(outputs))
                over_paths.append(utterance_sums(outputs, batch.token_lengths))
                every = 1 + int(counts.frames) * outputs.latents.z.shape[1] // breakdown.MOST_VALUES
                values.append(breakdown.distributions(outputs, every))
                phonemes.append(breakdown.phoneme_sums(outputs, [self._names(name) for name in batch.ids]))
            lengths = batch.token_lengths, batch.frame_lengths
            paths.append(path_statistics(outputs.durations, *lengths))
            errors += self._alignment_errors(batch, outputs.durations)
            even_errors += self._alignment_errors(batch, alignment.uniform(*lengths, batch.tokens.shape[1]))
            rows += self._utterance_rows(batch, outputs, over_paths[-1], errors[-len(batch.ids) :])
        merged = functools.reduce(LatentSums.merge, sums)
        metrics = {f"loss/{name}": value for name, value in terms.items()}
        metrics |= latent_statistics(merged, self.audio.frames_per_second)
        metrics |= over_path_statistics(over_paths)
        frames = [float(b.frame_lengths.sum()) for b in self.data.validation]
        for key in ("mas/log_paths_per_frame", "mas/diagonality"):
            metrics[key] = float(np.average([p[key] for p in paths], weights=frames))
        known = [error for error in errors if error is not None]
        if known:
            error = np.concatenate(known)
            metrics["mas/error_ms"] = float(error.mean())
            metrics["mas/error_median_ms"] = float(np.median(error))
            metrics["mas/within_50ms"] = float((error <= 50).mean())
            metrics["mas/even_error_ms"] = float(np.concatenate([e for e in even_errors if e is not None]).mean())
        squares = merged.channels.get("ratio_square")
        ratio = [] if squares is None else (squares / merged.totals["frames"]).sqrt().tolist()
        named = {f"val/{key}": value for key, value in metrics.items()}
        return Validated(named, rows, breakdown.phoneme_rows(phonemes), ratio, breakdown.joined(values))

    @torch.no_grad()
    def hearing(self, model: VITS, step: int) -> dict[str, float]:
        """Word and character error rates, and how some validation sentences sound: as recorded, copied and spoken.

        The errors of each sentence stay beside the samples, in words.json.
        """
        by_id: dict[str, dict[str, tuple[int, int]]] = {}  # of each kind the wrong words, and the words
        errors: dict[str, np.ndarray] = {}
        sounds: dict[str, list[Sound]] = {kind: [] for kind in KINDS}
        for batch in self.data.wer_batches:
            for name, wavs in self._recordings(model, self._prepare(batch)).items():
                for kind, wav in wavs.items():
                    sounds[kind].append(self._sound(name, kind, wav))
                text = self.utterances[name].text
                if not recognition.words(text):
                    continue  # "&" has a sound, but no word to look for
                for kind, hypothesis in self._transcribe(name, wavs).items():
                    counted = recognition.count_errors(text, hypothesis)
                    errors[kind] = errors.get(kind, 0) + np.array(counted)
                    by_id.setdefault(name, {})[kind] = (counted.word_errors, counted.words)
        if by_id:
            write_text(self._folder(step) / WORDS, json.dumps(by_id, ensure_ascii=False))
        metrics = {}
        for kind, (word_errors, words, character_errors, characters) in errors.items():
            metrics[f"val/wer/{kind}"] = word_errors / words
            metrics[f"val/cer/{kind}"] = character_errors / characters
        for kind, measured in sounds.items():
            for name, values in zip(Sound._fields, zip(*measured, strict=True), strict=False):
                finite = [value for value in values if math.isfinite(value)]  # silence has no sound
                if finite:
                    metrics[f"val/sound/{name}/{kind}"] = float(np.mean(finite))
        return metrics

    @torch.no_grad()
    def samples(self, model: VITS, step: int) -> dict[str, Path]:
        """Wavs and pictures of a few fixed sentences, in `run_dir/samples/step_*`. Gives the files by W&B key."""
        batch = self._prepare(self.data.samples)
        outputs = model(batch)
        symbols = [self._names(name) for name in batch.ids]
        known = [self.utterances[name].onsets or [] for name in batch.ids]
        onsets = [[(token, sample / self.audio.hop_length) for token, sample in one] for one in known]
        looked = dict(zip(batch.ids, views(outputs, batch, symbols, onsets), strict=True))
        folder, files, shown = self._folder(step), {}, []
        for i, (name, wavs) in enumerate(self._recordings(model, batch).items()):
            utterance, view, mels = self.utterances[name], looked[name], {}
            for kind, wav in wavs.items():
                files[f"audio/{kind}_{i}"] = path = folder / f"{name}_{kind}.wav"
                write_wav(path, wav, self.audio.sample_rate)
                mels[f"{kind}, {len(wav) / self.audio.sample_rate:.2f} s"] = self._log_mel(wav)
            about, stem = (self.audio, f"step {step}: {utterance.text}"), f"{folder / name}_"
            files |= {
                f"nats/{i}": timelines.nats_map(Path(f"{stem}nats.png"), view, *about),
                f"alignment/{i}": timelines.alignment(Path(f"{stem}alignment.png"), view.alignment, *about),
                f"spectrogram/{i}": timelines.spectrograms(Path(f"{stem}spectrograms.png"), mels, *about),
            }
            shown.append({"id": name, "text": utterance.text, "heard": self._transcribe(name, wavs)})
        write_text(folder / "samples.json", json.dumps(shown, ensure_ascii=False, indent=1))  # samples.py reads it
        return files

    def _recordings(self, model: VITS, batch: Batch) -> dict[str, dict[str, Float[np.ndarray, " _"]]]:
        """name -> the recording, its copy, and its text spoken as the voice's settings say."""
        copies = model.reconstruct(batch)
        s = self.synthesis
        scales = s.noise_scale, s.duration_noise_scale
        spoken = model.infer(batch.tokens, batch.token_lengths, batch.keys, *scales, n_steps=s.n_steps)
        wavs = {}
        for i, name in enumerate(batch.ids):
            n_samples = int(batch.frame_lengths[i]) * self.audio.hop_length
            cut = {
                "recording": batch.audio[i, 0, :n_samples],
                "copy": copies[i, 0, :n_samples],
                "spoken": spoken.audio[i, 0, : int(spoken.audio_lengths[i])],
            }
            wavs[name] = {kind: wav.float().cpu().numpy() for kind, wav in cut.items()}
        return wavs

    def _sound(self, name: str, kind: str, wav: Float[np.ndarray, " S"]) -> Sound:
        """The recording does not change, so it is measured only once."""
        known = self._sounds_of_recordings
        if kind != "recording":
            return sound(wav, self.audio.sample_rate, self.audio.hop_length)
        if name not in known:
            known[name] = sound(wav, self.audio.sample_rate, self.audio.hop_length)
        return known[name]

    def _transcribe(self, name: str, wavs: dict[str, Float[np.ndarray, " _"]]) -> dict[str, str]:
        """The recogniser's hypothesis for each wav. The recording does not change, so it is transcribed only once."""
        if self.recogniser is None:
            return {}
        rate, known = self.audio.sample_rate, self._hypotheses_of_recordings
        with torch.autocast(self.device.type, enabled=False):  # the recogniser is a measure, not a part of the model
            if name not in known:
                known[name] = self.recogniser.transcribe(wavs["recording"], rate)
            others = {kind: self.recogniser.transcribe(wav, rate) for kind, wav in wavs.items() if kind != "recording"}
        return {"recording": known[name], **others}

    def _log_mel(self, wav: Float[np.ndarray, " S"]) -> Float[np.ndarray, "M T"]:
        samples = torch.from_numpy(wav).to(self.device)[None, None]
        log_mel = self.data.features.log_mel(samples, torch.tensor([len(wav)], device=self.device))
        return log_mel[0].float().cpu().numpy()

    def _prepare(self, batch: Batch) -> Batch:
        return self.data.features(batch.to(self.device))

    def _names(self, utterance: str) -> list[str]:
        return self.data.corpus.frontend.names(self.utterances[utterance].tokens)

    def _folder(self, step: int) -> Path:
        return self.run_dir / "samples" / f"step_{step:06d}"

    def _utterance_rows(
        self, batch: Batch, outputs: Outputs, sums: Sums, errors: list[np.ndarray | None]
    ) -> list[breakdown.Row]:
        texts = {name: self.utterances[name].text for name in batch.ids}
        columns: dict[str, list] = {"mel_l1": breakdown.mel_l1(self.objective.reconstruction, outputs)}
        if any(error is not None for error in errors):
            columns["alignment_error_ms"] = [None if error is None else float(error.mean()) for error in errors]
        return breakdown.utterance_rows(batch.ids, sums, texts, **columns)

    def _alignment_errors(self, batch: Batch, durations: torch.Tensor) -> list[np.ndarray | None]:
        """In ms, of each onset of each utterance; None where they are not known."""
        blanks = self.data.corpus.frontend.settings.blanks
        known = [self.utterances[name].onsets for name in batch.ids]
        return [
            onset_errors(durations[i], onsets, self.audio.hop_length, self.audio.sample_rate, blanks)
            if onsets
            else None
            for i, onsets in enumerate(known)
        ]
