"""Observer of a run: logs each step, probes, validation, samples.

It reads and never changes what is trained: with all of it off the weights are the same, bit for bit. Keys, in
metrics.jsonl as in W&B (val/...: of the averaged weights on validation data; metrics/catalogue.py has every one):

    loss/*    unweighted terms, the total, the weight of the KL        mas/*   the alignment
    kl/*      the KL by every estimator, its parts, its noise          grad/*  norms by module, and by loss and module
    latent/*  posterior and prior, active units                        time/*  speed
    noise/*   gradient-noise scale, signal-to-noise ratio
    nll/*     in the place of kl/* where z is the recording
"""

import fnmatch
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from vitslite import distributed, runs
from vitslite.datasets.loader import Data
from vitslite.metrics import catalogue
from vitslite.metrics.alignment import path_statistics
from vitslite.metrics.gradients import gradient_norms
from vitslite.metrics.latents import latent_statistics, latent_sums
from vitslite.metrics.probe import N_UTTERANCES, gradient_noise, probe
from vitslite.metrics.recognition import Recogniser
from vitslite.metrics.verdict import apart, verdict
from vitslite.model.alignment import SEARCHES
from vitslite.model.synthesis import SynthesisSettings
from vitslite.model.vits import VITS, ModelSettings
from vitslite.monitoring import figures, panels
from vitslite.monitoring.run_page import run_page
from vitslite.monitoring.samples import samples_table, utterances_table
from vitslite.monitoring.tracking import Tracker
from vitslite.monitoring.validation import SOUND_METRICS, WORD_METRICS, Validator
from vitslite.objectives.objective import Objective
from vitslite.tensors import Batch, Outputs
from vitslite.training.observation import StepResult, Throughput
from vitslite.training.progress import busy


class RunObserver:
    """Writes to the tracker: the `training.observation.Observer` of train.py."""

    def __init__(
        self,
        data: Data,
        objective: Objective,
        recogniser: Recogniser | None,
        synthesis: SynthesisSettings,
        tracker: Tracker,
        device: torch.device,
        wrong: Sequence[str] = (),
        no_kl_by_design: Sequence[str] = (),
    ):
        self.data = data
        self.objective = objective
        self.wrong = wrong  # on purpose: why loss/kl is not the KL, for the verdict
        self.no_kl_by_design = no_kl_by_design  # why loss/kl may part from the KL without an alert
        self.tracker = tracker
        self.device = device
        self.validator = Validator(data, objective, recogniser, synthesis, device, tracker.run_dir)
        self.sampled_metrics = [*SOUND_METRICS, *(WORD_METRICS if recogniser else ())] if data.wer_batches else []
        self.seen: dict[str, float] = {}  # of the step that is about to be logged
        self.probed: Int[Tensor, "B L"] | None = None  # durations at the last probe, to tell how many have changed

    def rewind(self, step: int, looked: bool = True) -> None:
        self.tracker.rewind(step, looked)

    def observe_step(self, batch: Batch, outputs: Outputs) -> None:
        """Keep the cheap diagnostics of a step, of this rank's last micro-batch, for `log_step`."""
        if not distributed.is_main():
            return
        with torch.autocast(self.device.type, enabled=False):
            self.seen = latent_statistics(latent_sums(outputs), self.data.audio.frames_per_second)
        self.seen |= path_statistics(outputs.durations, batch.token_lengths, batch.frame_lengths)

    def log_step(self, model: VITS, result: StepResult, throughput: Throughput) -> None:
        """The terms of a step over the global batch, its cheap diagnostics, gradient norms after clipping, speed."""
        weights, norm = self.objective.weights_at(result.step - 1), float(result.grad_norm)
        clipped = max(1.0, norm / result.max_grad_norm) if result.max_grad_norm > 0 else 1.0
        row = {f"loss/{name}": float(value) for name, value in result.terms.items()}
        audio_seconds = float(throughput.frames) / self.data.audio.frames_per_second
        row |= {
            "loss/total": sum(weight * row.get(f"loss/{name}", 0.0) for name, weight in weights.items()),
            **({"loss/kl_weight": weights["kl"]} if "loss/kl" in row else {}),
            **self.seen,
            "grad/norm": norm,
            **gradient_norms(model, clipped),
            "learning_rate": result.learning_rate,
            "time/steps_per_second": throughput.n_steps / throughput.seconds,
            "time/audio_seconds_per_second": audio_seconds / throughput.seconds,
        }
        self.tracker.log(result.step, row)

    def probe(self, step: int, model: VITS) -> None:
        """Log the expensive diagnostics of the weights as they are trained.

        On a few fixed validation utterances, and of the gradient noise on training utterances drawn for the step.
        """
        if not distributed.is_main():
            return
        batch = self.data.features(self.data.samples.to(self.device))
        model.eval()
        with busy("measuring gradients and estimators"):
            row, self.probed = probe(model, self.objective, batch, self.objective.counts(batch), self.probed)
        model.train()
        batches = [self.data.features(b.to(self.device)) for b in self.data.loader.singles(step, N_UTTERANCES)]
        row |= gradient_noise(model, self.objective, batches, step, self.data.loader.data.batch_size)
        self.tracker.log(step, row)

    def validate(self, step: int, model: VITS) -> dict[str, float]:
        """Log and give the validation losses; leave them by utterance and phoneme in validation.json."""
        with busy(f"validating {len(self.data.corpus.validation)} utterances"):
            found = self.validator.validate(model)
        self.tracker.log(step, found.metrics)
        self.tracker.histograms(step, {f"val/histogram/{name}": values for name, values in found.values.items()})
        ratio = {str(step): found.ratio} if found.ratio else {}
        words = self.verdict(model.settings)
        left = runs.Validation(step, words, found.utterances, found.phonemes, ratio)
        runs.write_validation(self.tracker.run_dir, left)
        self._tell(words, found.metrics, model.settings)
        self.show(is_live=True)
        return found.metrics

    def sample(self, step: int, model: VITS) -> dict[str, float]:
        """Leave wavs, pictures and curves in the run directory and in W&B; log what was heard."""
        run_dir = self.tracker.run_dir
        with busy(f"speaking {len(self.data.samples.ids)} sentences"):
            files = self.validator.samples(model, step)
        n_heard = sum(len(batch.ids) for batch in self.data.wer_batches)
        with busy(f"{'listening to' if self.validator.recogniser else 'measuring'} {n_heard} sentences"):
            heard = self.validator.hearing(model, step)
        if heard:
            self.tracker.log(step, heard)
        rows = self.tracker.rows()
        shown = catalogue.chosen("curves", (key.removeprefix("val/") for row in rows for key in row))
        if shown:
            files["curves"] = panels.run_curves(run_dir / "curves.png", rows, shown, run_dir.name)
        probes = [row for row in rows if any(fnmatch.fnmatchcase(key, "grad/*/*") for key in row)]
        if probes:
            weights = self.objective.weights_at(int(probes[-1]["step"]))
            files["gradients"] = figures.gradient_matrix(run_dir / "gradients.png", probes[-1], weights)
        validation = runs.read_validation(run_dir)
        if validation and validation.ratio:
            by_step = {int(step): ratio for step, ratio in validation.ratio.items()}
            files["ratios"] = figures.ratios(run_dir / "ratios.png", by_step)
        self.tracker.media(step, files)
        self.tracker.table(step, "utterances", utterances_table(run_dir, step))
        self.show(is_live=True)
        return heard

    def show(self, is_live: bool) -> None:
        """Make the page of the run anew, of a run that goes on or has ended; without one, what was measured counts."""
        try:
            run_page(self.tracker.run_dir, is_live)
        except (ValueError, OSError) as error:  # a damaged file of an older step, a full disk
            print(f"note: the page of the run was not made: {error}", flush=True)

    def conclude(self, step: int, model: VITS) -> None:
        """What W&B shows of the run as a whole: beside the last value of each key the best ones, and the verdict."""
        self.tracker.table(step, "samples", samples_table(self.tracker.run_dir))
        values = catalogue.best_values(self.tracker.rows())
        best = {f"best/{key.removeprefix('val/')}": value for key, value in values.items()}
        verdict = self.verdict(model.settings) or "not validated"
        self.tracker.summary({**best, "final/step": step, "verdict/kl": verdict})
        self.tracker.checkpoint_artifacts({"step": step, "corpus": self.data.corpus.digest(), "verdict": verdict})

    def _tell(self, verdict: str | None, metrics: dict[str, float], settings: ModelSettings) -> None:
        """W&B has the verdict while the run goes on, and an alert of what nobody has asked for."""
        if verdict is None or settings.posterior.kind == "recording":
            return
        self.tracker.summary({"verdict/kl": verdict})
        if verdict.startswith("bug"):
            self.tracker.alert("the KL is negative", verdict, is_error=True)
        for line in apart({key.removeprefix("val/"): value for key, value in metrics.items()}, settings.n_latent):
            if not self.no_kl_by_design:
                self.tracker.alert("loss/kl is not the KL", line)

    def verdict(self, settings: ModelSettings) -> str | None:
        """The last validation's KL in words (metrics/verdict.py), or that there is none. None without a validation."""
        if settings.posterior.kind == "recording":
            return "no posterior, no KL"
        rows = [row for row in self.tracker.rows() if "val/kl/over_paths" in row]
        if not rows:
            return None
        figures = {key.removeprefix("val/"): float(value) for key, value in rows[-1].items()}
        return verdict(figures, settings.n_latent, settings.alignment.kind in SEARCHES, self.wrong)
