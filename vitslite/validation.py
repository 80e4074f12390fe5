"""Validation: losses on fixed noise, the alignment against the truth where it is known, samples to see and hear.

The same utterances, noise and segments at every step and in every run (common random numbers), so that curves of two
runs differ by the models alone.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from vitslite import audio, diagnostics, figures
from vitslite.datasets.data import Data
from vitslite.model import alignment
from vitslite.objectives.objective import Counts, Objective
from vitslite.tensors import Batch


class Validator:
    """Runs on the main rank alone. `model` is whatever is to be judged: the average of the weights, if there is one."""

    def __init__(self, data: Data, objective: Objective, device: torch.device, run_dir: Path):
        self.data = data
        self.objective = objective
        self.device = device
        self.run_dir = run_dir
        self.utterances = {u.id: u for u in data.corpus.validation}

    @torch.no_grad()
    def losses(self, model: nn.Module) -> dict[str, float]:
        """Every loss term over the whole validation set, and the error of the alignment in milliseconds."""
        counts = Counts.from_flat(sum(self.objective.counts(b).flat() for b in self.data.validation).to(self.device))
        terms: dict[str, float] = {}
        sums, errors = 0.0, []
        for batch in self.data.validation:
            batch = self._prepare(batch)
            outputs = model(batch)
            for name, value in self.objective(outputs, counts).terms.items():
                terms[name] = terms.get(name, 0.0) + value.item()
            sums = sums + diagnostics.latent_sums(outputs)
            errors += self._alignment_errors(batch, outputs.durations)
        metrics = {f"val/loss/{name}": value for name, value in terms.items()}
        metrics |= {f"val/{key}": value for key, value in diagnostics.latent_statistics(sums).items()}
        if errors:
            error = np.concatenate(errors)
            metrics["val/alignment/mean_ms"] = float(error.mean())
            metrics["val/alignment/median_ms"] = float(np.median(error))
            metrics["val/alignment/within_50ms"] = float((error <= 50).mean())
        return metrics

    @torch.no_grad()
    def samples(self, model: nn.Module, step: int) -> dict[str, Path]:
        """Wavs and pictures of a few fixed sentences, below `run_dir/samples/step_*`. Gives the files by W&B key."""
        batch = self._prepare(self.data.samples)
        outputs = model(batch)
        copies = model.reconstruct(batch)
        spoken = model.infer(batch.tokens, batch.token_lengths, batch.keys)
        log_lik = alignment.log_likelihood(outputs.latents.z_p, outputs.p_text)
        folder = self.run_dir / "samples" / f"step_{step:06d}"
        files = {}
        for i, name in enumerate(batch.ids):
            n_tokens, n_frames = int(batch.token_lengths[i]), int(batch.frame_lengths[i])
            wavs = {
                "recording": batch.audio[i, 0, : n_frames * self.data.audio.hop_length],
                "copy": copies[i, 0, : n_frames * self.data.audio.hop_length],
                "spoken": spoken.audio[i, 0, : int(spoken.audio_lengths[i])],
            }
            for kind, wav in wavs.items():
                path = folder / f"{name}_{kind}.wav"
                audio.write_wav(path, wav.float().cpu().numpy(), self.data.audio.sample_rate)
                files[f"audio/{kind}_{i}"] = path
            utterance = self.utterances[name]
            onsets = utterance.onsets and [(t, s / self.data.audio.hop_length) for t, s in utterance.onsets]
            files[f"alignment/{i}"] = figures.alignment(
                folder / f"{name}_alignment.png",
                log_lik[i, :n_tokens, :n_frames],
                outputs.durations[i, :n_tokens],
                self.data.corpus.frontend.names(utterance.tokens),
                onsets,
                f"step {step}: {utterance.text}",
            )
            mels = {
                f"{kind}, {len(wav) / self.data.audio.sample_rate:.2f} s": self._log_mel(wav)
                for kind, wav in wavs.items()
            }
            files[f"spectrogram/{i}"] = figures.spectrograms(
                folder / f"{name}_spectrograms.png", mels, f"step {step}: {utterance.text}"
            )
        return files

    def _log_mel(self, wav: torch.Tensor) -> torch.Tensor:
        return self.data.features.log_mel(wav.float()[None, None], torch.tensor([len(wav)], device=wav.device))[0]

    def _prepare(self, batch: Batch) -> Batch:
        return self.data.features(batch.to(self.device))

    def _alignment_errors(self, batch: Batch, durations: torch.Tensor) -> list[np.ndarray]:
        settings, blanks = self.data.audio, self.data.corpus.frontend.settings.blanks
        return [
            diagnostics.onset_errors(
                durations[i], self.utterances[name].onsets, settings.hop_length, settings.sample_rate, blanks
            )
            for i, name in enumerate(batch.ids)
            if self.utterances[name].onsets
        ]
