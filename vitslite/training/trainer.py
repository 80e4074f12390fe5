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
from vitslite.model.discriminators import Discriminator
from vitslite.model.vits import VITS
from vitslite.objectives.objective import Counts, Objective
from vitslite.runs import mark_finished
from vitslite.tensors import Batch, DivergedError, Outputs
from vitslite.training.adversary import Adversary
from vitslite.training.compilation import compile_parts, eager
from vitslite.training.interrupt import StopRequest
from vitslite.training.looks import Looks
from vitslite.training.nonfinite import Guard, NotFiniteError, leave_record
from vitslite.training.observation import Observer, StepResult, Throughput
from vitslite.training.optimization import EMA, adamw, clip, rate_factor, rate_note, set_options, update
from vitslite.training.progress import Progress
from vitslite.training.run_checkpoints import Checkpoints
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
        self.guard = Guard(device)
        self.stop_request = StopRequest()  # to this process
        self.interrupted = False  # agreed on by all ranks; so is by what
        self.terminated = False
        weights, run_dir = self.ema.model if self.ema else self.model, checkpoints.run_dir
        self.looks = Looks(settings, observer, self.model, weights, self._for_looks, run_dir, self.stop_request)

    def fit(self) -> None:
        """Train until all steps are done or a signal asks to stop; either way the last step is saved."""
        self.resume()
        last = min(self.settings.steps, self.settings.stop_after_step or self.settings.steps)
        if self.completed_steps < last or not self.looks.is_done:
            try:
                self._train_until(last)
            except (NotFiniteError, DivergedError) as error:
                found = error if isinstance(error, NotFiniteError) else self.guard.diverged(error)
                raise FloatingPointError(self._leave_record(found)) from error
        elif distributed.is_main():
            print(f"nothing to do: {self.completed_steps} steps are done (trainer.steps={self.settings.steps})")
        if distributed.is_main() and self.completed_steps >= self.settings.steps and self.looks.is_done:
            self.looks.attempt("summary", last, lambda: self.observer.conclude(self.completed_steps, self.model))
            mark_finished(self.checkpoints.run_dir, self.completed_steps)

    def _train_until(self, last: int) -> None:
        settings, first = self.settings, self.completed_steps
        with self.stop_request:
            if first == 0:
                self._look()  # the baseline
            elif not self.looks.is_done:
                self._look_and_save()  # what the last start has not come to see
            batches = self.data.loader.batches(first, settings.accumulate)
            with Progress(first, settings.steps) as progress:
                while self.completed_steps < last and not self.interrupted:
                    # One training step.
                    started = time.perf_counter()
                    result = self.step(next(batches))
                    self.throughput.n_steps += 1
                    self.throughput.seconds += time.perf_counter() - started
                    self.interrupted = distributed.any_rank(self.stop_request.made)

                    # Once in a while: log, save, look.
                    progress.advance(result)
                    if settings.is_logged(result.step):
                        self.log(result)
                    if self.looks.due(result.step):
                        self._look_and_save()
                    elif settings.is_due("checkpoint", result.step) or result.step == last or self.interrupted:
                        self.save()
            batches.close()  # ends the loader's workers
        self.terminated = self.interrupted and distributed.any_rank(self.stop_request.is_sigterm)

    def _look(self) -> bool:
        is_best = self.looks.take(self.completed_steps)
        self.interrupted = distributed.any_rank(self.stop_request.made)
        return is_best

    def _look_and_save(self) -> None:
        """What is trained is saved first: a look may end the process, and then the next start looks again."""
        self.looks.is_done = False
        self.save()
        is_best = self._look()
        if self.looks.is_done:
            self.save(is_best)

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
        self.looks.attempt("log", result.step, lambda: self.observer.log_step(self.model, result, self.throughput))
        self.throughput = Throughput()

    def save(self, is_best: bool = False) -> None:
        self.guard.check()
        if distributed.is_main():
            self.checkpoints.save(self.state(), is_best)
        distributed.barrier()

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs beside its settings."""
        counters = {"step": self.completed_steps, "best": self.looks.best, "probed": self.observer.probed}
        parts = {name: part and part.state_dict() for name, part in self._parts().items()}
        return {**counters, "looked": self.looks.is_done, **parts}

    def resume(self) -> None:
        """Go on from the run's last checkpoint, if there is one."""
        state = self.checkpoints.take_last()
        if state is None:
            self.observer.rewind(-1)  # the rows of a start that ended before its first checkpoint
            return
        self.completed_steps, self.looks.best, self.observer.probed = state["step"], state["best"], state["probed"]
        self.looks.is_done = state.get("looked", True)
        for name, part in self._parts().items():
            if part is not None:
                self.checkpoints.load_into(part, state[name], name)
                if isinstance(part, torch.optim.Optimizer):
                    set_options(part, self.settings.optimizer)
        self.observer.rewind(self.completed_steps, self.looks.is_done)
        planned, now = state["config"]["trainer"]["steps"], self.settings.steps
        if distributed.is_main():
            print(f"going on from step {self.completed_steps} ({self.checkpoints.source})", flush=True)
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

    def _leave_record(self, error: NotFiniteError) -> str:
        n_parts = self.settings.accumulate
        batches = [self.data.loader.make(error.step - 1, part, n_parts) for part in range(n_parts)]
        return leave_record(error, self.checkpoints, self.state(), batches)

    @contextlib.contextmanager
    def _for_looks(self) -> Iterator[None]:
        with eager(self.settings.compile), self._autocast():
            yield

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16")
