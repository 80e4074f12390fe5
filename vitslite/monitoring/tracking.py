"""Experiment tracking: `metrics.jsonl` always, Weights & Biases as its mirror.

The one owner of wandb. It never asks, never waits for long and never stops a run: with a key and a network it is
online, otherwise it writes an offline run into the run directory and says how to sync it. Its import takes a second of
processor time, so it is where it is used.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from vitslite import runs


@dataclass
class TrackingSettings:
    # auto: online with a key, else offline
    wandb: str = field(default="auto", metadata={"choices": ("auto", "online", "offline", "disabled")})
    project: str = "vitslite"
    entity: str | None = None
    group: str | None = None  # default: the sweep, or else the run's name without the seed
    job_type: str | None = None  # default: sweep or train
    tags: list[str] = field(default_factory=list)
    init_timeout: int = 20  # seconds to wait for the server before going offline


class Tracker:
    """Logs to `run_dir/metrics.jsonl` and to W&B. On ranks other than the main one, `enabled=False` makes it silent."""

    def __init__(
        self,
        settings: TrackingSettings,
        run_dir: Path,
        name: str,
        tags: list[str],
        config: dict[str, Any],
        enabled: bool = True,
    ):
        self.enabled = enabled
        self.run_dir = run_dir
        self.metrics_path = run_dir / runs.METRICS
        self._run = None
        if enabled:
            run_dir.mkdir(parents=True, exist_ok=True)
            described = {"name": name, "group": settings.group, "job_type": settings.job_type, "config": config}
            self._run = _start_wandb(settings, run_dir, **described, tags=[*settings.tags, *tags])
        self.place = _place(self._run)

    def rewind(self, step: int) -> None:
        if self.enabled:
            runs.rewind(self.run_dir, step)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        if not self.enabled:
            return
        runs.append_row(self.run_dir, {"step": step, **metrics})
        if self._run is not None:
            self._run.log({"step": step, **metrics})

    def media(self, step: int, files: dict[str, Path]) -> None:
        """Show pictures (.png) and sounds (.wav) that lie in the run directory already, by W&B key."""
        if self._run is None or not files:
            return
        self._run.log({"step": step} | {k: _medium(p, caption=p.stem) for k, p in files.items()})

    def table(self, step: int, key: str, rows: list[dict[str, Any]]) -> None:
        """Show dictionaries of the same keys as a table; paths in it become pictures and players."""
        if self._run is None or not rows:
            return
        import wandb

        cells = [[_medium(v) if isinstance(v, Path) else v for v in row.values()] for row in rows]
        with _staging_below(self.run_dir / "wandb"):
            self._run.log({"step": step, key: wandb.Table(columns=list(rows[0]), data=cells, allow_mixed_types=True)})

    def summary(self, values: dict[str, int | float | str]) -> None:
        """What W&B shows of the run as a whole."""
        if self._run is not None:
            self._run.summary.update(values)

    def rows(self) -> list[runs.Row]:
        return runs.read_rows(self.run_dir)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Close the W&B run, failed or not: the next job of a sweep must not log into it."""
        if self._run is not None:
            self._run.finish(exit_code=int(kind is not None))
            self._run = None


def add_summary(settings: TrackingSettings, run_dir: Path, values: dict[str, int | float]) -> None:
    """Add figures to the summary of a run that has ended; nothing where the run was not in W&B.

    It never fails: where W&B cannot be reached, a line says so, and the figures are in a file anyway.
    """
    mode = _mode(settings) if (run_dir / "wandb_id").exists() else "disabled"
    if mode == "disabled":
        return
    from wandb.errors import Error as WandbError

    try:
        with _init(mode, settings, run_dir) as run:
            run.summary.update(values)
    except (WandbError, OSError) as error:
        print(f"W&B: the summary of the run was not updated ({str(error).splitlines()[0]})", flush=True)


def _place(run: Any) -> str:
    """Where a W&B run is, as a line for the user."""
    if run is None:
        return "W&B: off (tracking=wandb turns it on)"
    if run.settings.mode == "offline":
        return f"W&B: offline, `wandb sync {Path(run.dir).parent.parent}/offline-run-*` uploads it"
    return f"W&B: {run.url}"


def _start_wandb(settings: TrackingSettings, run_dir: Path, **described: Any) -> Any:
    """A new W&B run, or the one of `run_dir` again, offline if need be; None where W&B is off."""
    mode = _mode(settings)
    if mode == "disabled":
        return None
    from wandb.errors import Error as WandbError

    try:
        run = _init(mode, settings, run_dir, **described)
    except WandbError as error:
        print(f"W&B: cannot reach the server ({str(error).splitlines()[0]}); this run is logged offline", flush=True)
        (run_dir / "wandb_id").unlink()  # the failed attempt holds on to its id for as long as this process lives
        run = _init("offline", settings, run_dir, **described)
    (run_dir / "wandb_id").write_text(run.id)  # under `wandb agent` the agent chooses it
    run.define_metric("step")
    run.define_metric("*", step_metric="step")  # W&B's own counter would drop the steps a resumed run repeats
    return run


def _mode(settings: TrackingSettings) -> str:
    mode = settings.wandb
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    if mode == "online" and not _has_key():
        print("W&B: no API key (`wandb login` stores one); this run is logged offline", flush=True)
        return "offline"
    return mode


def _init(mode: str, settings: TrackingSettings, run_dir: Path, **described: Any) -> Any:
    """`described`: the name, group, job type, tags and config of a new run; one that goes on has them."""
    import wandb

    id_file = run_dir / "wandb_id"
    if not id_file.exists():  # made once, so that a resumed run goes on in the same place
        id_file.write_text(secrets.token_hex(4))
    return wandb.init(
        mode=cast(Literal["online", "offline", "disabled", "shared"], mode),  # of another one it says so itself
        project=settings.project,
        entity=settings.entity,
        **described,
        dir=str(run_dir),
        id=id_file.read_text().strip(),
        resume="allow",
        reinit="finish_previous",  # jobs of one sweep share a process
        settings=wandb.Settings(
            console="off", silent=True, init_timeout=settings.init_timeout, x_disable_stats=mode == "offline"
        ),
    )


@contextlib.contextmanager
def _staging_below(folder: Path) -> Iterator[None]:
    """W&B keeps copies of a table's files, until they are synced, in a folder of the user's: here of the run's."""
    chosen = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = chosen or str(folder.absolute())
    try:
        yield
    finally:
        if chosen is None:
            del os.environ["WANDB_DATA_DIR"]


def _medium(path: Path, **options: str) -> Any:
    import wandb

    kinds = {".png": wandb.Image, ".wav": wandb.Audio}
    return kinds[path.suffix](str(path), **options)


def _has_key() -> bool:
    import wandb

    return wandb.login(prompt=False, verify=False)
