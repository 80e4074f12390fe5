"""Atlas of the laboratory: what each experiment asks, which runs answer it, and what they measured, as markdown.

An experiment is a file configs/experiment/NAME.yaml whose head comment has a `Question:`. Nothing is trained here:
runs are read from their directories (config.yaml, metrics.jsonl). scripts/make_atlas.py is the command.
"""

import datetime
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vitslite.config import naming
from vitslite.experiments import plane, sources
from vitslite.experiments.sources import RunLog
from vitslite.experiments.tables import Cell, as_markdown
from vitslite.experiments.variants import Variant
from vitslite.files import shipped, write_text
from vitslite.metrics.statistics import cell
from vitslite.runs import is_done, planned_steps

FIELDS = ("Question", "Command", "Cost", "Expected", "Measured", "Columns", "Curves")
TITLE = "# The atlas: questions, experiments, measurements\n"


@dataclass(frozen=True)
class Experiment:
    """The head of configs/experiment/NAME.yaml."""

    name: str
    question: str
    commands: tuple[str, ...]
    cost: str
    expected: str
    measured: str
    columns: tuple[str, ...]  # keys of metrics.jsonl, for the table
    curves: tuple[str, ...]  # and for the picture


@dataclass(frozen=True)
class Run:
    """One run of a command: the same overrides give the same name, and so the same directory."""

    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        return naming.run_name(list(self.overrides))

    @property
    def variant(self) -> str:
        """What tells it from the others of its experiment, but for the seed."""
        shown = [o for o in self.overrides if not o.startswith(("experiment=", "seed="))]
        return " ".join(shown) or "no override"

    @property
    def seed(self) -> str:
        return next((o.removeprefix("seed=") for o in self.overrides if o.startswith("seed=")), "0")


def find(folder: Path) -> list[Experiment]:
    """All experiments in a folder, by name; files without a `Question:` are not of the atlas."""
    return [read(path) for path in sorted(folder.glob("*.yaml")) if "Question" in _fields(path)]


def read(path: Path) -> Experiment:
    """Parse the head of an experiment. ValueError with the file and the field for what is missing or wrong."""
    fields = _fields(path)
    for field in FIELDS:
        if not fields.get(field) or not all(fields[field]):
            raise ValueError(f"{path}: no `{field}:` in its head; add a line `# {field}: ...`")
        if len(fields[field]) > 1 and field != "Command":
            raise ValueError(f"{path}: {field}: stands there {len(fields[field])} times; once is enough")
    columns, curves = (_keys(path, field, fields[field][0]) for field in ("Columns", "Curves"))
    question, cost, expected, measured = (fields[field][0] for field in ("Question", "Cost", "Expected", "Measured"))
    experiment = Experiment(path.stem, question, tuple(fields["Command"]), cost, expected, measured, columns, curves)
    try:
        runs_of(experiment)
    except ValueError as error:
        raise ValueError(f"{path}: Command: {error}") from error
    return experiment


def question(path: Path) -> tuple[str, str] | None:
    """Question and prediction of a file of the atlas; None of another."""
    fields = _fields(path)
    return (fields["Question"][0], fields["Expected"][0]) if {"Question", "Expected"} <= fields.keys() else None


def _fields(path: Path) -> dict[str, list[str]]:
    """The `# Name: text` lines of a head comment; lines indented by three spaces and more go on with the one before."""
    fields: dict[str, list[str]] = {}
    current = None  # the field that a line may go on with
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        start = re.fullmatch(rf"# ({'|'.join(FIELDS)}):(.*)", line)
        if start:
            current = start[1]
            fields.setdefault(current, []).append(start[2].strip())
        elif current and re.match("#   +[^ ]", line):
            fields[current][-1] = f"{fields[current][-1]} {line[1:].strip()}".strip()
        else:
            current = None
    return fields


def _keys(path: Path, field: str, text: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(","))
    wrong = [key for key in keys if not key or " " in key]
    if wrong:
        raise ValueError(f"{path}: {field}: {wrong[0]!r} is no key; list keys of metrics.jsonl, separated by commas")
    return keys


def notes(overrides: list[str]) -> str | None:
    """Question and prediction of the experiment that a run is of, as notes on it; None where it has none."""
    name = next((o.removeprefix("experiment=") for o in overrides if o.startswith("experiment=")), None)
    path = shipped("configs") / "experiment" / f"{name}.yaml"
    found = question(path) if path.is_file() else None
    return f"Question: {found[0]}\n\nExpected: {found[1]}" if found else None


def of_runs(names: Iterable[str]) -> Experiment | None:
    """The experiment of the atlas that runs of these names are all of."""
    found = {name.split("-")[0] for name in names}
    path = shipped("configs") / "experiment" / f"{found.pop()}.yaml" if len(found) == 1 else None
    return read(path) if path and path.is_file() and question(path) else None


def runs_of(experiment: Experiment) -> list[Run]:
    """Every run of its commands once, in the order typed. ValueError for a command that cannot be one of it."""
    runs: dict[str, Run] = {}
    for command in experiment.commands:
        program, typed = shlex.split(command)[:2], shlex.split(command)[2:]
        if program != ["python", "train.py"]:
            raise ValueError(f"{command!r} does not start with python train.py")
        overrides = [word for word in typed if word not in ("-m", "--multirun")]
        named = [o.removeprefix("experiment=") for o in overrides if o.startswith("experiment=")]
        if named != [experiment.name]:
            raise ValueError(f"{command!r} needs experiment={experiment.name}, once, and not {named or 'none'}")
        for single in naming.single_runs(overrides, sweep=len(overrides) < len(typed)):
            run = Run(tuple(single))
            runs.setdefault(run.name, run)
    return list(runs.values())


def variants_of(experiment: Experiment, runs_dir: Path) -> list[Variant]:
    """The runs of the experiment below `runs_dir`, grouped by what was typed; of those that have not begun, no rows."""
    found: dict[str, dict[str, RunLog]] = {}
    for run in runs_of(experiment):
        found.setdefault(run.variant, {})[run.seed] = sources.read_run(runs_dir / run.name)
    return [Variant(label, {}, seeds) for label, seeds in found.items()]


def measurements(columns: tuple[str, ...], variants: list[Variant]) -> str:
    """A row per variant, a column per key: the last value that each seed has logged."""
    header = [Cell("variant"), *(Cell(key, is_code=True) for key in columns)]
    rows = [
        [Cell(v.label, is_code=True), *(Cell(cell(list(v.values(key).values()))) for key in columns)] for v in variants
    ]
    return as_markdown(header, rows)


def block(
    experiment: Experiment, variants: list[Variant], picture: str | None, date: datetime.date, machine: str
) -> str:
    """What stands between the markers: commands, table, picture (a link), and where the figures are from."""
    seeds = dict.fromkeys(seed for v in variants for seed in v.runs)
    largest = max(len(v.runs) for v in variants)
    shown = {1: "", 2: " (one / the other)"}.get(largest, " (mean ± half of its 95 % interval)")
    parts = [
        "\n".join(["```sh", *experiment.commands, "```"]),
        measurements(experiment.columns, variants),
        f"![{', '.join(experiment.curves)}]({picture})" if picture else "",
        f"Seeds {', '.join(seeds)}{shown}; {date.day} {date:%B %Y}; {machine}.",
        _unfinished(variants),
    ]
    return "\n\n".join(part for part in parts if part)


def front(path: Path, experiments: list[Experiment], runs_dir: Path) -> Path | None:
    """The picture at the front: the end of every run on the rate-distortion plane, a look per question.

    None, and no file, where no run has a KL.
    """
    asked = [Variant(experiment.name, {}, _named(variants_of(experiment, runs_dir))) for experiment in experiments]
    found = plane.plane(asked)
    if found is None:
        return None
    ends = {i: [run._replace(trajectory=run.trajectory[-1:]) for run in runs] for i, runs in found.runs.items()}
    return plane.as_png(path, found._replace(runs=ends), [variant.label for variant in asked])


def _named(variants: list[Variant]) -> dict[str, RunLog]:
    return {f"{v.label} {seed}": run for v in variants for seed, run in v.runs.items() if run.rows}


def write_section(path: Path, experiment: Experiment, content: str) -> None:
    """Put `content` between the markers of the experiment, below its question and prediction."""
    head = f"## {experiment.question}\n\nExpected: {experiment.expected}\n\nMeasured: {experiment.measured}\n"
    put(path, experiment.name, content, head, TITLE)


def put(path: Path, name: str, content: str, head: str, title: str = "") -> None:
    """Put `content` between the markers of `name`; a section that is missing goes to the end of the file, with `head`.

    A file that is missing begins with `title`; of one that is there
    not a byte outside the markers changes. ValueError where they do not stand there as a pair.
    """
    start, end = f"<!-- measured: {name} -->", "<!-- /measured -->"
    text = path.read_bytes().decode() if path.exists() else title  # bytes: read_text would change line ends
    if start not in text:
        text += "" if text.endswith("\n") else "\n"
        text += f"\n{head}\n{start}\n{end}\n"
    if text.count(start) > 1:
        raise ValueError(f"{path}: {start} stands there {text.count(start)} times; leave one")
    before, _, rest = text.partition(start)
    old, found, after = rest.partition(end)
    if not found or "<!-- measured:" in old:
        raise ValueError(f"{path}: {start} has no end; put {end} where its figures end")
    write_text(path, f"{before}{start}\n{content}\n{end}{after}")


def _unfinished(variants: list[Variant]) -> str:
    """A line about runs whose figures are not those of their last step."""
    found = []
    for variant in variants:
        for seed, run in variant.runs.items():
            if run.folder and not is_done(run.folder):
                reached = f"{run.rows[-1]['step']} of {planned_steps(run.folder)} steps" if run.rows else "no steps"
                found.append(f"`{variant.label}` seed {seed} ({reached})")
    return f"Not trained to the end: {', '.join(found)}." if found else ""
