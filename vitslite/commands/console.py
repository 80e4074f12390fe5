"""Errors as one line and exit codes, which all commands share, of Hydra's or with arguments of their own."""

import argparse
import contextlib
import difflib
import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vitslite import build, distributed
from vitslite.commands import crashes, output
from vitslite.config import naming, suggestions
from vitslite.experiments import sweeps
from vitslite.experiments.sweeps import Job, Sweep
from vitslite.synthesis import SpeakSettings, Synthesizer
from vitslite.training.looks import shows_trace

USER_ERRORS = (ValueError, FloatingPointError, OSError)
EXIT_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 130, 143  # 128 + SIGINT, + SIGTERM: as a shell would say

exit_codes: list[int] = []  # of the jobs of this process: a sweep has several


def fail(message: str) -> None:
    """One line on stderr, whatever the message was."""
    print(f"vitslite: error: {' '.join(message.split())}", file=sys.stderr, flush=True)


def as_job(task: Callable[[DictConfig], float | None]) -> Callable[[DictConfig], float | None]:
    """A job whose user errors become one line and an exit code; the other jobs of a sweep go on.

    What became of it is noted in the folder of the sweep. `task` gives a number if the run has come to its end.
    """

    @functools.wraps(task)
    def wrapped(cfg: DictConfig) -> float | None:
        overrides, folder = naming.hydra_job()
        job = Job(*naming.place(cfg, overrides), overrides)
        sweep = Sweep(Path(folder)) if folder is not None and distributed.is_main() else None
        value = None
        try:
            with sweep.record(job) if sweep else contextlib.nullcontext():
                value = task(cfg)
                job.state = "stopped" if value is None else "finished"
        except USER_ERRORS as error:
            if shows_trace():
                raise
            said = crashes.in_words(error, crashes.LESS_TO_TRAIN) or str(error)
            fail(f"{job.name}: {said}" if sweep else said)
            exit_codes.append(EXIT_ERROR)
        except (RuntimeError, MemoryError) as error:
            known = crashes.in_words(error, crashes.LESS_TO_TRAIN)
            if shows_trace() or known is None:
                raise
            fail(f"{job.name}: {known}" if sweep else known)
            exit_codes.append(EXIT_ERROR)
        if {EXIT_INTERRUPTED, EXIT_TERMINATED} & set(exit_codes):
            raise KeyboardInterrupt  # no further job of a sweep
        return value

    return wrapped


def run(main: Callable[[], None]) -> int:
    """Call Hydra's entry point. Gives the exit code: 0, 2 for what the user can mend, 130 or 143 when interrupted."""
    output.make_sturdy()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises to us instead of printing a stack of its own
    exit_codes.clear()
    sys.argv[1:] = naming.readable(sys.argv[1:])
    with contextlib.ExitStack() as stack:
        try:
            sweep = stack.enter_context(sweeps.of_command(sys.argv[1:]))
        except USER_ERRORS as error:
            fail(str(error))
            return EXIT_ERROR
        return _run(main) if sweep is None else _run_sweep(main, sweep)


def _run_sweep(main: Callable[[], None], sweep: Sweep) -> int:
    sys.argv.append(f"hydra.sweep.dir={sweep.folder}")  # where jobs find it, in whatever process they are
    try:
        code = _run(main)
    except Exception as error:  # a job or its launcher broke down: the others are still worth their table
        if shows_trace():
            raise
        fail(f"{type(error).__name__}: {error} (VITSLITE_TRACE=1 shows the stack)")
        code = EXIT_ERROR
    if not distributed.is_main():
        return code
    print(sweeps.table(sweep))
    print(f"compare them: vitslite compare {sweep.folder}", flush=True)
    is_complete = all(job.state in ("finished", "stopped") for job in sweep.jobs())
    return code if code or is_complete else EXIT_ERROR


def _run(main: Callable[[], None]) -> int:
    try:
        main()
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: some of Hydra's own checks
        if shows_trace():
            raise
        typed = "" if isinstance(error, OmegaConfBaseException | HydraException) else f" (in: {' '.join(sys.argv[1:])})"
        fail(explain(error) + typed)
        return EXIT_ERROR
    except KeyboardInterrupt:
        if not {EXIT_INTERRUPTED, EXIT_TERMINATED} & set(
            exit_codes
        ):  # not after a step, but in the middle of something
            fail("interrupted; what was saved before is intact, the same command goes on from there")
            return EXIT_INTERRUPTED
    return max(exit_codes, default=0)


class Parser(argparse.ArgumentParser):
    """Whose errors are one line, as all others, which says what to type."""

    def error(self, message: str) -> NoReturn:
        typed = message.removeprefix("unrecognized arguments: ")
        if typed != message:
            known = re.findall(r"--[a-z][a-z-]*", self.format_usage())
            near = difflib.get_close_matches(typed.split()[0].split("=")[0], known, n=1)
            if near or "TEXT" in self.format_usage():
                message += f": {f'did you mean {near[0]}?' if near else 'a text of several words needs quotes'}"
        fail(f"{message}; {self.prog} --help lists the options")
        sys.exit(EXIT_ERROR)


def run_script(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> int:
    """Call a script's main with its parsed arguments. Gives the exit code; user errors and Ctrl-C are one line."""
    output.make_sturdy()
    arguments = parser.parse_args()
    try:
        main(arguments)
    except USER_ERRORS as error:
        if shows_trace():
            raise
        fail(str(error))
        return EXIT_ERROR
    except (RuntimeError, MemoryError) as error:
        known = crashes.in_words(error, "give it less at once, or see what else runs here")
        if shows_trace() or known is None:
            raise
        fail(known)
        return EXIT_ERROR
    except KeyboardInterrupt:
        fail("interrupted")
        return EXIT_INTERRUPTED
    return 0


def add_speaking(p: argparse.ArgumentParser) -> None:
    """Options: how a voice speaks, for `speak_settings`, and on which device."""
    p.add_argument("--seed", type=int, default=0)
    own = "(the voice's own, from synthesis.* of its settings)"
    p.add_argument("--noise-scale", type=float, help=f"of the prior; 0 is its mean {own}")
    p.add_argument("--duration-noise-scale", type=float, help=f"of stochastic durations {own}")
    p.add_argument("--n-steps", type=positive, help=f"of the refiner of Grad-TTS and flow matching {own}")
    p.add_argument("--device", default="cpu", choices=("cpu", "cuda"))


def speak_settings(arguments: argparse.Namespace, voice: Synthesizer) -> SpeakSettings:
    """What was typed, and for the rest the voice's own. ValueError for an option that this voice has no part for."""
    model = voice.config.model
    if arguments.n_steps is not None and model.refiner.kind == "none":
        raise ValueError(
            "--n-steps is of the refiner of Grad-TTS and flow matching, and this voice has none: leave it out"
        )
    if arguments.duration_noise_scale is not None and model.duration.kind != "stochastic":
        kind = model.duration.kind
        raise ValueError(
            f"--duration-noise-scale is of stochastic durations, and this voice's are {kind}: leave it out"
        )
    return voice.speak_settings(
        arguments.seed, arguments.noise_scale, arguments.duration_noise_scale, arguments.n_steps
    )


def refuse_file(folder: Path) -> None:
    if folder.is_file():
        raise ValueError(f"-o {folder}: is a file; name a folder")


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def explain(error: Exception) -> str:
    """Hydra's message about an override, shortened, with what may have been meant."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key, text = str(getattr(cause, "full_key", None) or ""), str(error).split("\n\nSet the environment")[0]
    given = next((a.lstrip("+") for a in sys.argv[1:] if re.match(rf"\+*{re.escape(key)}[.=]", a)), key)
    whole, _, typed = given.partition("=")  # of optimizer.x it is `optimizer` that is missed
    if key and ("is not in struct" in str(cause) or "not in '" in str(cause)):
        return build.unknown_key(whole, typed or "...")
    if key.replace(".", "/") in suggestions.groups() and ("is not a subclass" in str(cause) or "merge" in str(cause)):
        return f"{key} is a group of settings: type {key.replace('.', '/')}={typed}, with a slash"
    if "Could not find '" in text and (unknown := _unknown_option()):
        return unknown
    if "Ambiguous value" in text:
        return f"several values need -m: vitslite train -m {' '.join(sys.argv[1:])}"
    if typed_twice := re.search(r"Could not override '([\w/.]+)'", text):
        return build.unknown_key(typed_twice[1], typed)
    text = text.split("Config search path")[0]  # where Hydra looked is never the point
    if cause is not error:
        text += f": {str(cause).splitlines()[0]}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = "; ".join(
        line for line in lines if not line.startswith(("full_key", "object_type", "reference_type", "See"))
    )
    return said + _instead(key, typed, str(cause))


def _unknown_option() -> str | None:
    """A line about the first GROUP=OPTION of the command line that there is not."""
    for group, typed in (a.lstrip("+").split("=", 1) for a in sys.argv[1:] if "=" in a):
        options = suggestions.groups().get(group, [])
        if options and typed not in options:
            near = suggestions.option(typed, options)
            if group == "data" and "/" in typed:
                near = f"ljspeech data.root={typed}"
            meant = f"did you mean {near}? " if near else ""
            return f"{group}={typed} is unknown: {meant}choose one of {', '.join(options)}"
    return None


def _instead(key: str, typed: str, message: str) -> str:
    """What to type for a value of another kind than the setting's."""
    if not typed and key:
        return f"; give a value: {key}=..."
    if "Integer" in message and re.fullmatch(r"[\d.]+e\d+", typed) and float(typed).is_integer():
        return f"; type {key}={int(float(typed))}"
    if (ends := re.fullmatch(r"(\d+)\.\.(\d+)", typed)) is not None:
        return f"; for a sweep type -m '{key}=range({ends[1]},{int(ends[2]) + 1})'"
    if typed.startswith("[") and "list" in message:
        return f"; for a sweep type -m {key}={typed.strip('[]').replace(' ', '')}, without brackets"
    return ""
