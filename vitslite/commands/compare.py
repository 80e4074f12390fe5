"""Runs side by side: what differs in their settings, what they measured, and whether the seeds can tell.

    vitslite compare runs/sweeps/NAME            the jobs of a sweep
    vitslite compare runs                        all runs of a folder
    vitslite compare runs/a runs/b --baseline a  these two, the first as the baseline
    vitslite compare wandb:ENTITY/PROJECT        runs of W&B

Runs that differ in the seed alone are one variant. Leaves index.html (one file, no network needed: what came of it in
words, the rate-distortion plane, curves, voices, tables), comparison.md and curves.png in runs/comparisons/NAME. Runs
are only read; those with nothing in them and damaged ones are named and left out.
"""

import argparse
import shlex
import sys
from pathlib import Path

from vitslite.commands import console
from vitslite.experiments import atlas, page, sources, tables, variants, wandb_report, wandb_runs
from vitslite.experiments.variants import Comparison
from vitslite.files import slug, with_hash, write_text

FOLDER = Path("runs/comparisons")


def main(arguments: argparse.Namespace) -> None:
    output = arguments.output or FOLDER / name_of(arguments.sources)
    console.refuse_file(output)
    if arguments.samples < 0:
        raise ValueError(f"--samples {arguments.samples}: give a number of sentences, 0 for none")
    found = sources.read(arguments.sources)
    names = [source_name(source) for source in arguments.sources]
    title = f"Comparison: {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"
    command = shlex.join(["vitslite", "compare", *sys.argv[1:]])
    compared = variants.compare(found, title, command, arguments.baseline, arguments.metrics)
    for line in compared.remarks:
        print(f"note: {line}", file=sys.stderr)
    for name, error in compared.failed.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    picture = tables.draw(output / "curves.png", compared)
    write_text(output / "comparison.md", tables.markdown(compared, output, picture.name if picture else None))
    write_text(output / "index.html", page.page(compared, output, arguments.samples, arguments.all_curves, picture))
    print(tables.summary(compared))
    print(f"report: {output / 'index.html'}   as text: {output / 'comparison.md'}")
    if arguments.wandb:
        for url in save_in_wandb(compared, arguments.sources, output):
            print(f"W&B: {url}")


def save_in_wandb(compared: Comparison, given: list[str], output: Path) -> list[str]:
    """A view of the project that the first W&B source names, or else the settings of the first run.

    And a report, where all runs are of one experiment of the atlas.
    """
    named = next((project for project in map(sources.remote_project, given) if project), None)
    config = compared.runs[0].config
    entity, project = named.split("/") if named else (config.get("tracking.entity"), config.get("tracking.project", ""))
    keys = sorted({key for run in compared.runs for row in run.rows for key in row} - {"step"})
    urls = [wandb_runs.save_view(project, entity, keys, compared.differing, output / "wandb_workspace")]
    asked = atlas.of_runs(run.name for run in compared.runs)
    if asked:
        text = tables.markdown(compared, output, None)
        urls.append(wandb_report.save_report(project, entity, asked, text, output / "wandb_report"))
    return urls


def name_of(sources: list[str]) -> str:
    """A name for the output: of a few sources theirs; of many the first and a hash of all."""
    name = slug("-".join(map(source_name, sources))) or "all"
    return name if len(name) <= 100 else with_hash(name, 90, " ".join(sources))


def source_name(source: str) -> str:
    return sources.remote_project(source) or Path(source).resolve().name


def parser() -> argparse.ArgumentParser:
    p = console.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("sources", metavar="SOURCE", nargs="+", help="run directories, folders of them, sweeps, wandb:E/P")
    p.add_argument("-o", "--output", type=Path, help="folder for the report (runs/comparisons/NAME)")
    p.add_argument("--baseline", help='"objective.kl=half_analytic", several words in one, or a run (the first)')
    p.add_argument("--metrics", metavar="KEY", nargs="+", help="keys of the tables; val/loss/* stands for all such")
    p.add_argument("--all-curves", action="store_true", help="draw every key, also time/* and the gradient matrix")
    p.add_argument("--samples", metavar="N", type=int, default=3, help="sentences per run (3)")
    p.add_argument("--wandb", action="store_true", help="also make, or update, a view and a report in W&B")
    return p


def command() -> int:
    return console.run_script(main, parser())
