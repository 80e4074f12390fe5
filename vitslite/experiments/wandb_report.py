"""Report on an experiment in Weights & Biases: question, prediction, curves by variant, the comparison."""

from pathlib import Path

from vitslite.experiments import wandb_runs
from vitslite.experiments.atlas import Experiment
from vitslite.files import write_text


def save_report(project: str, entity: str | None, asked: Experiment, compared: str, stored: Path) -> str:
    """Create the report on an experiment, or update the one whose address is in the file `stored`. Gives its address.

    Question and prediction, the curves and columns of the experiment by variant (all but the seed), and `compared`, the
    comparison in markdown. What one has written between is replaced. ValueError where W&B cannot be reached.
    """
    from wandb_workspaces.reports import v2

    try:
        if stored.is_file():
            report = v2.Report.from_url(stored.read_text(encoding="utf-8").strip())
        else:
            report = v2.Report(project=project, entity=entity or wandb_runs.api().default_entity, title=asked.question)
        report.description = f"experiment={asked.name}"
        keys = dict.fromkeys([*asked.curves, *asked.columns])
        report.blocks = [
            v2.H2(text="Prediction"),
            v2.P(text=asked.expected),
            v2.H2(text="Runs"),
            v2.PanelGrid(
                runsets=[
                    v2.Runset(project=report.project, entity=report.entity, query=asked.name, groupby=["variant"])
                ],
                panels=[wandb_runs.line(key, [key], "variant") for key in keys],
            ),
            v2.MarkdownBlock(text=compared),
        ]
        report.save()
        url = report.url
    except wandb_runs.errors() as error:
        raise ValueError(f"W&B: no report was made ({wandb_runs.first_line(error)}); {wandb_runs.SYNC}") from error
    write_text(stored, f"{url}\n")
    return url
