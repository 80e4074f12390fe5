"""Training loop: one step at a time, on a CPU, a GPU, or many under torchrun.

Parts are handed in (build.py makes them); nothing is built here. Batch k, its noise and its segments are functions of
(seed, k), the learning rate of k, so a checkpoint holds no random state and the same command again resumes bit for bit.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vitslite import distributed
from vitslite.datasets.loader import Data
from vitslite.metrics import catalogue
from vitslite.model.discriminators import Discriminator
from vitslite.model.vits import VITS
from vitslite.objectives.objective import Counts, Objective
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
        model: VITS,
        discriminator: Discriminator | None,
        objective: Objective,
        data: Data,
        observer: Observer,
        checkpoints: Checkpoints,
        device: torch.device,
    ):
        self.settings = settings
        self.model, self.objective = model.to(device), objective.to(device)
        self.data = data
        self.data.features.to(device)
        self.observer = observer
        self.checkpoints = checkpoints
        self.device = device
        self.ema = EMA(self.model, settings.ema_decay) if settings.ema_decay > 0 else None
        self.optimizer = adamw(self.model, settings.optimizer)
        self.adversary: Adversary | None = None
        if discriminator is not None:
            self.adversary = Adversary(discriminator.to(device), settings.optimizer, data.audio.hop_length)
        if settings.compile:  # after the EMA has its copy, which stays eager
            compile_parts(self.model, discriminator)
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
        if self.completed_steps < last:
            self._train_until(last)
        elif distributed.is_main():
            print(f"nothing to do: {self.completed_steps} steps are done (trainer.steps={self.settings.steps})")
        if distributed.is_main() and self.completed_steps >= self.settings.steps:
            self.observer.conclude(self.completed_steps, self.model)
            mark_finished(self.checkpoints.run_dir, self.completed_steps)

    def _train_until(self, last: int) -> None:
        settings = self.settings
        if self.completed_steps == 0 and settings.diagnose_every_steps > 0:
            self.probe()
        if self.completed_steps == 0 and settings.validate_every_steps > 0:
            self.validate()  # the baseline; a best_metric that does not exist is found now and not after an hour
        batches = self.data.loader.batches(self.completed_steps, settings.accumulate)
        with self.stop_request, Progress(self.completed_steps, settings.steps) as progress:
            while self.completed_steps < last and not self.interrupted:
                # One training step.
                started = time.perf_counter()
                result = self.step(next(batches))
                self.throughput.n_steps += 1
                self.throughput.seconds += time.perf_counter() - started
                self.interrupted = distributed.any_rank(self.stop_request.made)

                # Once in a while: log, probe, validate, sample, save.
                progress.advance(result)
                is_last, is_best = result.step == settings.steps, False
                if settings.is_logged(result.step):
                    self.log(result)
                if settings.is_due("diagnose", result.step):
                    self.probe()
                if settings.is_due("validate", result.step) or is_last:
                    is_best |= self._is_best(self.validate())
                if settings.is_due("sample", result.step) or is_last:
                    is_best |= self._is_best(self.sample())
                if settings.is_due("checkpoint", result.step) or is_best or result.step == last or self.interrupted:
                    self.save(is_best)
        batches.close()  # ends the loader's workers

    def step(self, micro_batches: list[Batch]) -> StepResult:
        """Update discriminator (if any) and model once."""
        self.model.train()
        factor = rate_factor(self.settings.optimizer, self.completed_steps, self.settings.steps)
        learning_rate = self.settings.optimizer.learning_rate * factor
        batches = [self.data.features(batch.to(self.device)) for batch in micro_batches]
        self.guard.begin_step(self.completed_steps + 1, [name for batch in batches for name in batch.ids])

        # Denominators over the whole global batch: all ranks, all micro-batches.
        counts = self._global_counts(batches)

        # The discriminator first, on what the model makes now.
        adversary = self.adversary if self.adversary and self.adversary.is_active(self.completed_steps) else None
        generated: list[Outputs | None] = [None] * len(batches)
        terms: dict[str, Tensor] = {}
        if adversary:
            generated, terms["discriminator"] = self._update_discriminator(adversary, batches, counts, factor)

        # Then the model. Every rank's and micro-batch's loss is a share of one mean, so gradients add up.
        self.optimizer.zero_grad(set_to_none=True)
        for batch, kept in zip(batches, generated, strict=True):
            with self._autocast():
                outputs = kept or self.model(batch)
                scores = adversary.score(outputs, batch) if adversary else ()
                losses = self.objective(outputs, counts, *scores, step=batch.step)
            losses.total.backward()
            for name, value in losses.terms.items():
                terms[name] = terms.get(name, 0.0) + value.detach()
        if self.settings.is_logged(self.completed_steps + 1):
            self.observer.observe_step(batch, outputs)
        distributed.sum_gradients(self.model.parameters())
        norm = clip(self.model, self.settings.optimizer)
        self.guard.watch(norm, terms)
        update(self.optimizer, learning_rate, self.guard.found_inf)
        self.completed_steps += 1
        if self.ema is not None:
            self.ema.update(self.model, self.completed_steps)
        terms = dict(zip(terms, distributed.all_sum(torch.stack(list(terms.values()))).unbind(), strict=True))
        self.throughput.frames = self.throughput.frames + counts.frames
        return StepResult(self.completed_steps, terms, norm, self.settings.optimizer.max_grad_norm, learning_rate)

    def _update_discriminator(
        self, adversary: Adversary, batches: list[Batch], counts: Counts, factor: float
    ) -> tuple[list[Outputs | None], Tensor]:
        """One discriminator update. The model's outputs are kept for its own update when there is one micro-batch.

        With several they are made again, which keyed noise makes the same, so that memory holds one at a time.
        """
        keep = len(batches) == 1
        loss = torch.zeros((), device=self.device)
        for batch in batches:
            with self._autocast():
                with torch.set_grad_enabled(keep):
                    outputs = self.model(batch)
                share = adversary.loss(outputs, batch, counts.utterances)
            share.backward()
            loss = loss + share.detach()
        self.guard.watch(adversary.reduce_gradients(), {"discriminator": loss})
        adversary.step(factor, self.guard.found_inf)
        return ([outputs] if keep else [None] * len(batches)), loss

    def _global_counts(self, batches: list[Batch]) -> Counts:
        counts = torch.stack([self.objective.counts(batch).flat() for batch in batches]).sum(0)
        return Counts.from_flat(distributed.all_sum(counts))

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
        measured = self._measured(self.observer.validate)
        name, known = self.settings.best_metric, [*measured, *self.observer.sampled_metrics]
        if measured and name not in known:
            raise ValueError(f"trainer.best_metric={name} is not measured; choose one of {', '.join(known)}")
        return measured

    def sample(self) -> dict[str, float]:
        """Leave samples, and give what is measured on them on the main rank."""
        measured = self._measured(self.observer.sample)
        distributed.barrier()
        return measured

    def _measured(self, measure: Callable[[int, VITS], dict[str, float]]) -> dict[str, float]:
        """By the observer, of the averaged weights if there are any; {} on other ranks than the main one."""
        if not distributed.is_main():
            return {}
        model = self.ema.model if self.ema else self.model
        model.eval()
        with eager(self.settings.compile), self._autocast():
            measured = measure(self.completed_steps, model)
        self.model.train()
        return measured

    def _is_best(self, measured: dict[str, float]) -> bool:
        """Whether `best_metric` is better than ever before; the same on all ranks."""
        value = measured.get(self.settings.best_metric, math.nan)
        is_best = catalogue.find(self.settings.best_metric).is_better(value, than=self.best)
        self.best = value if is_best else self.best
        return distributed.any_rank(is_best)

    def save(self, is_best: bool) -> None:
        self.guard.check()
        if distributed.is_main():
            self.checkpoints.save(self.state(), is_best)
        distributed.barrier()

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs beside its settings."""
        counters = {"step": self.completed_steps, "best": self.best, "probed": self.observer.probed}
        return counters | {name: part and part.state_dict() for name, part in self._parts().items()}

    def resume(self) -> None:
        """Go on from the run's last checkpoint, if there is one."""
        state = self.checkpoints.take_last()
        if state is None:
            self.observer.rewind(-1)  # the rows of a start that ended before its first checkpoint
            return
        self.completed_steps, self.best, self.observer.probed = state["step"], state["best"], state["probed"]
        for name, part in self._parts().items():
            if part is not None:
                self.checkpoints.load_into(part, state[name], name)
        self.observer.rewind(self.completed_steps)
        planned, now = state["config"]["trainer"]["steps"], self.settings.steps
        if distributed.is_main():
            print(f"going on from step {self.completed_steps} ({self.checkpoints.last})", flush=True)
            if planned != now:
                print(rate_note(self.settings.optimizer, self.completed_steps, planned, now), flush=True)

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer | None]:
        """What a checkpoint holds of the networks and the optimisers, by its name there."""
        return {
            "model": self.model,
            "ema": self.ema.model if self.ema else None,
            "optimizer": self.optimizer,
            "discriminator": self.adversary.discriminator if self.adversary else None,
            "optimizer_d": self.adversary.optimizer if self.adversary else None,
        }

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16")
