"""Training loop: one step at a time, on a CPU, a GPU, or many under torchrun.

Parts are handed in (build.py makes them); nothing is built here. Batch k, its noise and its segments are functions of
(seed, k), the learning rate of k, so a checkpoint holds no random state and the same command again resumes bit for bit.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vitslite import distributed
from vitslite.datasets.loader import Data
from vitslite.metrics import catalogue
from vitslite.model.discriminators import Discriminator
from vitslite.objectives.objective import Counts, Losses, Objective
from vitslite.runs import mark_finished
from vitslite.tensors import Batch, Outputs
from vitslite.training.adversary import Adversary
from vitslite.training.checkpoint import Checkpoints
from vitslite.training.compilation import compile_parts, eager
from vitslite.training.interrupt import StopRequest
from vitslite.training.observation import Observer, StepResult, Throughput
from vitslite.training.optimization import EMA, Guard, adamw, clip, rate_factor, rate_note, update
from vitslite.training.progress import Progress
from vitslite.training.settings import TrainerSettings


class Trainer:
    """Owns the optimisers, the step counter and the loop. `fit()` trains to `settings.steps` or until interrupted."""

    def __init__(
        self,
        settings: TrainerSettings,
        model: nn.Module,
        discriminator: Discriminator | None,
        objective: Objective,
        data: Data,
        observer: Observer,
        checkpoints: Checkpoints,
        device: torch.device,
    ):
        self.settings = settings
        self.model = model.to(device)
        self.objective = objective.to(device)
        self.data = data
        self.data.features.to(device)
        self.observer = observer
        self.checkpoints = checkpoints
        self.device = device
        self.ema = EMA(self.model, settings.ema_decay) if settings.ema_decay > 0 else None
        self.optimizer = adamw(self.model, settings.optimizer)
        self.adversary = None
        if discriminator is not None:
            self.adversary = Adversary(discriminator.to(device), settings.optimizer, data.audio.hop_length)
        if settings.compile:  # after the EMA has its copy, which stays eager
            compile_parts(self.model)
            if discriminator is not None:
                compile_parts(discriminator)
        self.completed_steps = 0
        self.throughput = Throughput()
        self.best = catalogue.find(settings.best_metric).worst
        self.guard = Guard(device)
        self.stop_request = StopRequest()  # to this process
        self.interrupted = False  # agreed on by all ranks

    def fit(self) -> None:
        """Train until all steps are done or a signal asks to stop; either way the last step is saved."""
        self.resume()
        last = min(self.settings.steps, self.settings.stop_after_step or self.settings.steps)
        if self.completed_steps >= last:
            if distributed.is_main():
                print(f"nothing to do: {self.completed_steps} steps are done (trainer.steps={self.settings.steps})")
            self.conclude()
            return
        if self.completed_steps == 0 and self.settings.diagnose_every_steps > 0:
            self.probe()
        if self.completed_steps == 0 and self.settings.validate_every_steps > 0:
            self.validate()  # the baseline; a best_metric that does not exist is found now and not after an hour
        batches = self.data.loader.batches(self.completed_steps, self.settings.accumulate)
        with self.stop_request, Progress(self.completed_steps, self.settings.steps) as progress:
            while self.completed_steps < last and not self.interrupted:
                # One training step.
                started = time.perf_counter()
                result = self.step(next(batches))
                self.throughput.n_steps += 1
                self.throughput.seconds += time.perf_counter() - started
                self.interrupted = distributed.any_rank(self.stop_request.made)

                # Once in a while: log, probe, validate, sample, save.
                progress.advance(result)
                is_last = self.completed_steps == self.settings.steps
                if self._is_logged(self.completed_steps):
                    self.log(result)
                if self._is_time(self.settings.diagnose_every_steps):
                    self.probe()
                is_best = False
                if self._is_time(self.settings.validate_every_steps) or is_last:
                    is_best |= self._is_best(self.validate())
                if self._is_time(self.settings.sample_every_steps) or is_last:
                    is_best |= self._is_best(self.sample())
                due = self._is_time(self.settings.checkpoint_every_steps)
                if due or is_best or self.completed_steps == last or self.interrupted:
                    self.save(is_best)
        batches.close()  # ends the loader's workers
        self.conclude()

    def conclude(self) -> None:
        """Where all steps are done: what W&B shows of the run as a whole, and the note that nothing is left to do."""
        if distributed.is_main() and self.completed_steps >= self.settings.steps:
            self.observer.conclude(self.completed_steps, self.model)
            mark_finished(self.checkpoints.run_dir, self.completed_steps)

    def step(self, micro_batches: list[Batch]) -> StepResult:
        """Update discriminator (if any) and model once."""
        self.model.train()
        factor = rate_factor(self.settings.optimizer, self.completed_steps, self.settings.steps)
        learning_rate = self.settings.optimizer.learning_rate * factor
        batches = [self.data.features(batch.to(self.device)) for batch in micro_batches]

        # Denominators over the whole global batch: all ranks, all micro-batches.
        counts = self._global_counts(batches)

        # The discriminator first, on what the model makes now.
        adversarial = self.adversary is not None and self.adversary.is_active(self.completed_steps)
        generated: list[Outputs | None] = [None] * len(batches)
        terms: dict[str, Tensor] = {}
        if adversarial:
            generated, terms["discriminator"] = self._update_discriminator(batches, counts, factor)

        # Then the model. Every rank's and micro-batch's loss is a share of one mean, so gradients add up.
        self.optimizer.zero_grad(set_to_none=True)
        for batch, outputs in zip(batches, generated, strict=True):
            losses, outputs = self._losses(batch, outputs, counts, adversarial)
            losses.total.backward()
            for name, value in losses.terms.items():
                terms[name] = terms.get(name, 0.0) + value.detach()
        if self._is_logged(self.completed_steps + 1):
            self.observer.observe_step(batch, outputs)
        distributed.sum_gradients(self.model.parameters())
        norm = clip(self.model, self.settings.optimizer.max_grad_norm)
        self._watch(norm, terms, batches)
        update(self.optimizer, learning_rate, self.guard.found_inf)
        self.completed_steps += 1
        if self.ema is not None:
            self.ema.update(self.model, self.completed_steps)
        values = distributed.all_sum(torch.stack(list(terms.values())))
        terms = dict(zip(terms, values.unbind(), strict=True))
        self.throughput.frames = self.throughput.frames + counts.frames
        return StepResult(self.completed_steps, terms, norm, self.settings.optimizer.max_grad_norm, learning_rate)

    def _losses(
        self, batch: Batch, outputs: Outputs | None, counts: Counts, adversarial: bool
    ) -> tuple[Losses, Outputs]:
        with self._autocast():
            outputs = outputs or self.model(batch)
            scores = self.adversary.score(outputs, batch) if adversarial else ()
            return self.objective(outputs, counts, *scores, step=batch.step), outputs

    def _update_discriminator(
        self, batches: list[Batch], counts: Counts, factor: float
    ) -> tuple[list[Outputs | None], Tensor]:
        """One discriminator update. The model's outputs are kept for its own update when there is one micro-batch.

        With several they are made again, which keyed noise makes the same, so that memory holds one at a time.
        """
        keep = len(batches) == 1
        loss, outputs = 0.0, None
        for batch in batches:
            with self._autocast():
                with torch.set_grad_enabled(keep):
                    outputs = self.model(batch)
                share = self.adversary.loss(outputs, batch, counts.utterances)
            share.backward()
            loss = loss + share.detach()
        self._watch(self.adversary.reduce_gradients(), {"discriminator": loss}, batches)
        self.adversary.step(factor, self.guard.found_inf)
        return ([outputs] if keep else [None] * len(batches)), loss

    def _global_counts(self, batches: list[Batch]) -> Counts:
        return Counts.from_flat(distributed.all_sum(sum(self.objective.counts(batch).flat() for batch in batches)))

    def _watch(self, norm: Tensor, terms: dict[str, Tensor], batches: list[Batch]) -> None:
        self.guard.watch(self.completed_steps + 1, norm, terms, [name for batch in batches for name in batch.ids])
        if self.device.type == "cpu":  # where looking costs nothing
            self.guard.check()

    def log(self, result: StepResult) -> None:
        started = time.perf_counter()
        self.guard.check()  # waits until the device has done what the steps asked of it
        self.throughput.seconds += time.perf_counter() - started
        self.observer.log_step(self.model, result, self.throughput)
        self.throughput = Throughput()

    def probe(self) -> None:
        with eager(self.settings.compile), self._autocast():
            self.observer.probe(self.completed_steps, self.model)

    def validate(self) -> dict[str, float]:
        """Log the metrics of the validation set, and give them on the main rank. ValueError without `best_metric`."""
        self.guard.check()
        measured: dict[str, float] = {}
        if distributed.is_main():
            with self._eval_model() as model:
                measured = self.observer.validate(self.completed_steps, model)
            name, known = self.settings.best_metric, [*measured, *self.observer.sampled_metrics]
            if name not in known:
                raise ValueError(f"trainer.best_metric={name} is not measured; choose one of {', '.join(known)}")
        return measured

    def sample(self) -> dict[str, float]:
        """Leave samples, and give what is measured on them on the main rank."""
        measured: dict[str, float] = {}
        if distributed.is_main():
            with self._eval_model() as model:
                measured = self.observer.sample(self.completed_steps, model)
        distributed.barrier()
        return measured

    def _is_best(self, measured: dict[str, float]) -> bool:
        """Whether `best_metric` is better than ever before; the same on all ranks."""
        value = measured.get(self.settings.best_metric)
        is_best = value is not None and catalogue.find(self.settings.best_metric).is_better(value, than=self.best)
        self.best = value if is_best else self.best
        return distributed.any_rank(is_best)

    def save(self, is_best: bool) -> None:
        self.guard.check()
        if distributed.is_main():
            self.checkpoints.save(self.state(), is_best)
        distributed.barrier()

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs beside its settings."""
        return {
            "step": self.completed_steps,
            "best": self.best,
            "probed": self.observer.probed,
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "discriminator": self.adversary.discriminator.state_dict() if self.adversary else None,
            "optimizer_d": self.adversary.optimizer.state_dict() if self.adversary else None,
        }

    def resume(self) -> None:
        """Go on from the run's last checkpoint, if there is one."""
        state = self.checkpoints.take_last()
        if state is None:
            self.observer.rewind(-1)  # the rows of a start that ended before its first checkpoint
            return
        self.completed_steps, self.best, self.observer.probed = state["step"], state["best"], state["probed"]
        parts = {"model": self.model, "optimizer": self.optimizer, "ema": self.ema and self.ema.model}
        if self.adversary is not None:
            parts |= {"discriminator": self.adversary.discriminator, "optimizer_d": self.adversary.optimizer}
        for name, part in parts.items():
            if part is not None:
                self.checkpoints.load_into(part, state[name], name)
        self.observer.rewind(self.completed_steps)
        if distributed.is_main():
            print(f"going on from step {self.completed_steps} ({self.checkpoints.last})", flush=True)
            planned = state["config"]["trainer"]["steps"]
            if planned != self.settings.steps:
                print(
                    rate_note(self.settings.optimizer, self.completed_steps, planned, self.settings.steps), flush=True
                )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16")

    @contextlib.contextmanager
    def _eval_model(self) -> Iterator[nn.Module]:
        model = self.ema.model if self.ema else self.model
        model.eval()
        with eager(self.settings.compile), self._autocast():
            yield model
        self.model.train()

    def _is_logged(self, step: int) -> bool:
        return step == 1 or (self.settings.log_every_steps > 0 and step % self.settings.log_every_steps == 0)

    def _is_time(self, every_steps: int) -> bool:
        return every_steps > 0 and self.completed_steps % every_steps == 0
