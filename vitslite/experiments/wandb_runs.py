"""Runs of a Weights & Biases project, read back, and a view of them there. Needs a key and a network, asks for neither.

Beside wandb_mirror.py, which writes, the other owner of wandb; imported where it is needed alone: it takes seconds.
"""

import datetime
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from vitslite.files import write_text
from vitslite.metrics import catalogue
from vitslite.runs import Row

TIMEOUT = 30  # seconds to wait for the server
VIEW = "vitslite: comparison"
ADVICE = "`wandb login`, or give run directories"
SYNC = "it needs `wandb login` and the runs in W&B: `wandb sync runs/*/wandb/offline-run-*`"
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}  # as W&B writes them


class RemoteRun(NamedTuple):
    """A run as W&B has it."""

    name: str
    url: str
    config: dict[str, Any]
    rows: list[Row]
    modified: float  # seconds since 1970


def fetch_runs(path: str) -> list[RemoteRun]:
    """Every run of ENTITY/PROJECT with its whole history. ValueError, in one line, where W&B cannot be read."""
    try:
        return [_run(found) for found in api().runs(path, order="+created_at")]
    except errors() as error:
        raise ValueError(f"W&B cannot be read ({first_line(error)}): {ADVICE}") from error


def save_view(project: str, entity: str | None, keys: Collection[str], groups: list[str], stored: Path) -> str:
    """Create the view of a project, or update the one whose address is in the file `stored`. Gives its address.

    A section per first part of the keys, a line per value of the setting in `groups` (dotted keys), or
    per variant where there are several, a table of what differs. ValueError where wandb-workspaces is missing or W&B
    cannot be reached.
    """
    try:
        from wandb_workspaces import workspaces
    except ModuleNotFoundError as error:
        raise ValueError("--wandb needs wandb-workspaces: pip install 'vitslite[report]'") from error
    try:
        found = api()
        if stored.is_file():
            view = workspaces.Workspace.from_url(stored.read_text(encoding="utf-8").strip())
        else:
            view = workspaces.Workspace(entity=entity or found.default_entity, project=project, name=VIEW)
        view.sections = sections(keys, groups)
        view.runset_settings.groupby = [workspaces.Config(key) for key in groups]
        url = view.save().url
    except errors() as error:
        raise ValueError(f"W&B: no view was made ({first_line(error)}); {SYNC}") from error
    write_text(stored, f"{url}\n")
    return url


def sections(keys: Collection[str], groups: list[str]) -> list[Any]:
    """A section per group of the catalogue: training and validation of a key in one plot, over the step."""
    from wandb_workspaces import workspaces
    from wandb_workspaces.reports import v2

    names = list(dict.fromkeys(key.removeprefix("val/") for key in keys))
    found = [workspaces.Section("settings", panels=[v2.RunComparer(diff_only="split")], is_open=True)]
    for part in catalogue.GROUPS:
        panels = [
            line(
                name,
                [key for key in (name, f"val/{name}") if key in keys],
                groups[0] if len(groups) == 1 else "variant",  # all but the seed
            )
            for name in names
            if name.split("/")[0] == part
        ]
        if panels:
            found.append(workspaces.Section(part, panels=[*panels], is_open=part in catalogue.OPEN_GROUPS))
    return found


def line(title: str, keys: list[str], group: str) -> Any:
    """A plot over the step: the mean of each group of runs, from its lowest to its highest."""
    from wandb_workspaces.reports import v2

    by: dict[str, Any] = {"groupby": v2.Config(group), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    return v2.LinePlot(title=title, x="step", y=[*keys], **by)


def api() -> Any:
    """Without a key an error at once: nothing is asked, whether or not there is a terminal."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise wandb.Error("no API key")
    return wandb.Api(timeout=TIMEOUT)


def errors() -> tuple[type[Exception], ...]:
    """What W&B raises; requests raises OSErrors, ValueError: no such project."""
    import wandb

    return wandb.Error, OSError, ValueError


def _run(found: Any) -> RemoteRun:
    history = [_row(row) for row in found.scan_history()]
    time = getattr(found, "heartbeat_at", None) or found.created_at
    modified = datetime.datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()
    rows = sorted((row for row in history if "step" in row), key=lambda row: row["step"])
    return RemoteRun(found.name, found.url, dict(found.config), rows, modified)


def _row(row: dict[str, Any]) -> Row:
    """What we have logged in a row of the history: its numbers, without W&B's own and without media."""
    values = {key: _NOT_FINITE.get(value, value) if isinstance(value, str) else value for key, value in row.items()}
    return {
        key: value
        for key, value in values.items()
        if not key.startswith("_") and isinstance(value, int | float) and not isinstance(value, bool)
    }


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
