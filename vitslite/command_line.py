"""What the commands share: errors as one line, what is said at the start and at the end of a run."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vitslite import build, distributed
from vitslite.tracking import Tracker
from vitslite.trainer import Trainer

USER_ERRORS = (ValueError, FloatingPointError, OSError)
EXIT_ERROR, EXIT_INTERRUPTED = 2, 130

_exit_codes: list[int] = []  # of the jobs of this process: a sweep has several


def shows_trace() -> bool:
    return os.environ.get("VITSLITE_TRACE", "0") not in ("", "0")


def fail(message: str) -> None:
    """One line on stderr, whatever the message was."""
    print(f"vitslite: error: {' '.join(message.split())}", file=sys.stderr, flush=True)


def one_line_errors(job: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """A job whose user errors become one line and an exit code; the other jobs of a sweep go on."""

    @functools.wraps(job)
    def wrapped(cfg: DictConfig) -> None:
        try:
            job(cfg)
        except USER_ERRORS as error:
            if shows_trace():
                raise
            fail(str(error))
            _exit_codes.append(EXIT_ERROR)

    return wrapped


def run(main: Callable[[], None]) -> int:
    """Call Hydra's entry point. Gives the exit code: 0, 2 for what the user can mend, 130 when interrupted."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises to us instead of printing a stack of its own
    _exit_codes.clear()
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        if shows_trace():
            raise
        fail(explain(error))
        return EXIT_ERROR
    except KeyboardInterrupt:
        fail("interrupted at once; the last checkpoint is intact, the same command goes on from there")
        return EXIT_INTERRUPTED
    return max(_exit_codes, default=0)


def explain(error: Exception) -> str:
    """Hydra's message about an override, shortened, with the nearest key there is."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key = getattr(cause, "full_key", None)
    text = str(error).split("\n\nSet the environment")[0]
    if key and ("is not in struct" in str(cause) or "not in '" in str(cause)):
        return build.unknown_key(str(key))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(line for line in lines if not line.startswith(("full_key", "object_type", "reference_type")))


def announce(config: build.Config, device: torch.device) -> None:
    """What is about to be trained, and where the recipe departs from the theory."""
    if not distributed.is_main():
        return
    ranks = distributed.world_size()
    print(
        f"run {config.name} on {device.type}{f', {ranks} ranks' if ranks > 1 else ''}, "
        f"{torch.get_num_threads()} threads, in {config.run_dir}",
        flush=True,
    )
    weight = config.objective.weights.kl
    if weight < 1:
        print(
            f"note: objective.weights.kl={weight} < 1: the latents carry more than an ELBO would let them; "
            "objective=vits has weight 1",
            flush=True,
        )


def conclude(config: build.Config, tracker: Tracker, trainer: Trainer, finished: bool) -> None:
    """Where everything is, or how to go on."""
    if not finished:
        _exit_codes.append(EXIT_INTERRUPTED if trainer.interrupted else 0)
    if not distributed.is_main():
        return
    if not finished:
        print(f"stopped after step {trainer.completed_steps} of {config.trainer.steps}; the same command goes on")
    run_dir = Path(config.run_dir)
    newest = max((run_dir / "samples").glob("step_*"), default=None)
    last = next((row for row in reversed(tracker.rows()) if "val/loss/mel" in row), {})
    figures = "  ".join(f"{key.removeprefix('val/')} {value:.3g}" for key, value in last.items() if _is_headline(key))
    print(f"validation at step {last.get('step', 0)}: {figures}")
    print(f"checkpoints: {trainer.checkpoints.last}, {trainer.checkpoints.best}")
    if newest:
        print(f"wavs, alignments, spectrograms: {newest}/")
    print(f"curves: {run_dir / 'curves.png'}   metrics: {tracker.metrics_path}   settings: {run_dir / 'config.yaml'}")
    print(tracker.place, flush=True)


def _is_headline(key: str) -> bool:
    return key.startswith("val/loss/") or key.startswith("val/alignment/")
