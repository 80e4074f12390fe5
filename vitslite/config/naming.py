"""Run names and job lists: the overrides of a command, the jobs of a sweep, what each run is called."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode

from vitslite.config.identity import is_free
from vitslite.files import slug, with_hash

_SHOWING = {"-c", "--cfg", "-i", "--info", "-h", "--help", "--hydra-help", "--version", "-sc", "--shell-completion"}


def hydra_job() -> tuple[list[str], str | None]:
    """Of the job that Hydra runs now: what was typed for it, and the folder of the sweep, if it is one of a sweep."""
    hydra = HydraConfig.get()
    return list(hydra.overrides.task), hydra.sweep.dir if hydra.mode == RunMode.MULTIRUN else None


def swept_overrides(arguments: list[str]) -> list[str] | None:
    """The overrides of a command line that runs a sweep; None for a single run, or if it only shows."""
    flags = {a.split("=")[0] for a in arguments if a.startswith("-")}
    if not flags & {"-m", "--multirun"} or flags & _SHOWING:
        return None
    return [a for a in arguments if not a.startswith("-") and ("=" in a or a.startswith("~"))]


def readable(arguments: list[str]) -> list[str]:
    """A command line as Hydra can read it: ~/ is the home, and a value that its grammar refuses is quoted.

    That is so for folders with brackets, umlauts, a = in them; a value in quotes or brackets is left as it was typed.
    """
    return [_quoted(a) if "=" in a and not a.startswith("-") else a for a in arguments]


def _quoted(argument: str) -> str:
    key, _, value = argument.partition("=")
    if value.startswith("~/"):
        value = str(Path(value).expanduser())
    plain = f"{key}={value}"
    if value[:1] in "\"'[{$" and value[:1] or _parses(plain):
        return plain
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'" if _parses(f"{key}='{escaped}'") else plain


def _parses(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def place(cfg: Mapping[str, Any], overrides: list[str]) -> tuple[str, str]:
    """The name of a run and its directory, from its configuration, which may be wrong elsewhere."""
    name = cfg.get("name") or run_name(overrides)
    return name, cfg.get("run_dir") or f"runs/{name}"


def run_name(overrides: list[str]) -> str:
    """A name for the run from what was typed: the same command finds its run again, another gets another.

    Settings that may change within a run (identity.FREE_SETTINGS) and its own name do not count. Of `data.root` the
    folder's own name does: a corpus may move, another one is another run.
    """
    parts = [o.lstrip("+~") for o in overrides]
    roots = [f"data.root={_folder_name(p.split('=', 1)[1])}" for p in parts if p.startswith("data.root=")]
    parts = roots + [p for p in parts if not is_free(p.split("=")[0]) and not p.startswith("hydra")]
    experiment = next((p.removeprefix("experiment=") for p in parts if p.startswith("experiment=")), "demo")
    others = sorted(p for p in parts if not p.startswith("experiment="))
    name = slug("-".join([experiment, *others]))
    return name if len(name) <= 100 else with_hash(name, 90, name)


def _folder_name(root: str) -> str:
    """`/data/LJSpeech-1.1/`, as it was typed, with or without quotes -> `LJSpeech-1.1`."""
    return Path(root.strip("'\"")).expanduser().absolute().name


def group_name(overrides: list[str]) -> str:
    """The name without the seed: runs that differ in the seed alone are one group in W&B."""
    return run_name([o for o in overrides if not o.startswith("seed=")])


def single_runs(overrides: list[str], sweep: bool) -> list[list[str]]:
    """The overrides of each run of a command, in the order in which Hydra's own sweeper makes them.

    With `sweep` (-m) every combination of the values that stand between commas, each written as the sweeper writes it
    (3e-3 becomes 0.003), so that the names of the runs are those that the command gives them; commas in brackets or
    quotes are part of a value. Without, the one run as it was typed. ValueError for what Hydra cannot read.
    """
    choices: dict[str, list[str]] = {}
    try:
        for override in OverridesParser.create().parse_overrides(overrides):
            is_list = override.is_sweep_override()
            if is_list and not sweep:
                raise ValueError(f"{override.input_line}: several values need vitslite train -m")
            key = override.get_key_element()
            values = override.sweep_string_iterator() if is_list else [override.get_value_element_as_str()]
            choices[key] = [f"{key}={value}" for value in values]
    except HydraException as error:
        raise ValueError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}") from error
    return [list(run) for run in itertools.product(*choices.values())] if sweep else [overrides]


def planned_runs(overrides: list[str]) -> list[tuple[str, str]]:
    """Name and directory of each run of a sweep; none where that is known only as it goes on.

    That is so for a search, for values that only Hydra can list (glob(...)), and for names made by interpolation.
    """
    if any(o.startswith("hydra/sweeper=") or ("${" in o and o.startswith(("name=", "run_dir="))) for o in overrides):
        return []
    try:
        runs = single_runs(overrides, sweep=True)
    except ValueError:
        return []  # Hydra will say what is wrong with it, if anything is
    return [place(dict(part.split("=", 1) for part in run if "=" in part), run) for run in runs]
