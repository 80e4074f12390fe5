"""Mirror of a run in Weights & Biases: one history row a step, media, tables, histograms, artifacts, alerts, summary.

The one writer of wandb. It never asks, never waits for long and never stops a run: with a key and a network it is
online, otherwise it writes an offline run into the run directory. What fails is said, and after MOST_FAILURES of them
W&B is left alone: metrics.jsonl has every number anyway.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import wandb
from jaxtyping import Float

MOST_FAILURES = 3
FINISH_TIMEOUT = 300  # seconds to wait for uploads at the end; what is left over stays on the disk for `wandb sync`
N_BINS = 64  # of a histogram
_MEDIA = {".png": wandb.Image, ".wav": wandb.Audio}


@runtime_checkable
class Settings(Protocol):
    """What is read of tracking.TrackingSettings."""

    wandb: str
    project: str
    entity: str | None
    init_timeout: int


class Mirror:
    """A W&B run of a run directory; `described`: the name, group, job type, notes, tags and config of a new one."""

    def __init__(self, settings: Settings, run_dir: Path, mode: str, **described: Any):
        self.run_dir = run_dir
        self._failures = 0
        self._step: int | None = None  # of the row that is being filled
        self._alerted: set[str] = set()
        self._run: Any = None
        try:
            self._run = _start(mode, settings, run_dir, **described)
        except Exception as error:  # whatever it is: W&B raises errors of its own, of sockets and of its settings
            _say("not started", error)
        self.place = self._place()

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Add to the history row of a step, which is complete when that of another begins."""

        def add() -> None:
            if self._step not in (None, step):
                self._run.log({}, commit=True)
            self._step = step
            self._run.log({"step": step, **values}, commit=False)

        self._attempt("a row", add)

    def media(self, step: int, files: dict[str, Path]) -> None:
        """Pictures (.png) and sounds (.wav) that lie in the run directory already, by key."""
        self.log_made(step, lambda: {k: _MEDIA[p.suffix](str(p), caption=p.stem) for k, p in files.items()})

    def table(self, step: int, key: str, rows: Sequence[dict[str, Any]]) -> None:
        """Dictionaries of the same keys; paths in them become pictures and players."""

        def made() -> dict[str, Any]:
            cells = [[_MEDIA[v.suffix](str(v)) if isinstance(v, Path) else v for v in row.values()] for row in rows]
            return {key: wandb.Table(columns=list(rows[0]), data=cells, allow_mixed_types=True)}

        self.log_made(step, made)

    def histograms(self, step: int, values: dict[str, Float[np.ndarray, " _"]]) -> None:
        """Of N_BINS bins over the finite values; none of a key without any."""
        finite = {key: found[np.isfinite(found)] for key, found in values.items()}
        self.log_made(step, lambda: {k: wandb.Histogram(v, num_bins=N_BINS) for k, v in finite.items() if v.size})

    def log_made(self, step: int, made: Callable[[], dict[str, Any]]) -> None:
        """`log`, of what W&B's own classes are needed for."""
        with _staging_below(self.run_dir / "wandb"):
            found: list[dict[str, Any]] = []
            self._attempt("media", lambda: found.append(made()))
            for values in found:
                self.log(step, values)

    def summary(self, values: dict[str, Any]) -> None:
        """What W&B shows of the run as a whole."""
        self._attempt("the summary", lambda: self._run.summary.update(values))

    def artifact(
        self, name: str, kind: str, files: Sequence[Path], metadata: dict[str, Any], aliases: Sequence[str] = ()
    ) -> None:
        """Files as a version of the artifact NAME of the run; the same content again makes no new one.

        An offline run holds copies of the files until it is synced.
        """

        def add() -> None:
            artifact = wandb.Artifact(name.replace("RUN", self._run.id), kind, metadata=metadata)
            for path in files:
                artifact.add_file(str(path))
            if not files:
                with artifact.new_file("about.json", mode="w") as file:
                    json.dump(metadata, file, indent=1)
            self._run.log_artifact(artifact, aliases=["latest", *aliases])

        with _staging_below(self.run_dir / "wandb"):
            self._attempt(f"the artifact {name}", add)

    def alert(self, title: str, text: str, is_error: bool = False) -> None:
        """A mail or a message, by W&B's settings of the user; of a title once in a process."""
        if title not in self._alerted:
            self._alerted.add(title)
            self._attempt("an alert", lambda: self._run.alert(title, text, level="ERROR" if is_error else "WARN"))

    def finish(self, failed: bool) -> None:
        self._failures = 0  # a run that failed to log is still to be closed
        run = self._run
        self._attempt("the end", lambda: run.finish(exit_code=int(failed)))
        self._run = None

    def _attempt(self, what: str, do: Callable[[], object]) -> None:
        if self._run is None or self._failures >= MOST_FAILURES:
            return
        try:
            do()
        except Exception as error:  # of any kind: the run is worth more than its mirror
            self._failures += 1
            rest = "" if self._failures < MOST_FAILURES else "; W&B gets nothing more, metrics.jsonl has every number"
            _say(f"{what} is missing{rest}", error)

    def _place(self) -> str:
        """Where the W&B run is, as a line for the user."""
        if self._run is None:
            return "W&B: off, it did not start"
        if self._run.settings.mode == "offline":
            return f"W&B: offline, `wandb sync {Path(self._run.dir).parent.parent}/offline-run-*` uploads it"
        return f"W&B: {self._run.url}"


def chosen_mode(settings: Settings) -> str:
    """online, offline or disabled: what is set, or can be."""
    mode = settings.wandb
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    if mode == "online" and not _has_key():
        print("W&B: no API key (`wandb login` stores one); this run is logged offline", flush=True)
        return "offline"
    return mode


def _start(mode: str, settings: Settings, run_dir: Path, **described: Any) -> Any:
    """A new W&B run, or the one of `run_dir` again, offline if need be."""
    try:
        run = _init(mode, settings, run_dir, **described)
    except wandb.Error as error:
        if mode == "offline":
            raise
        _say("cannot reach the server, so this run is logged offline", error)
        (run_dir / "wandb_id").unlink()  # the failed attempt holds on to its id for as long as this process lives
        run = _init("offline", settings, run_dir, **described)
    (run_dir / "wandb_id").write_text(run.id)  # under `wandb agent` the agent chooses it
    run.define_metric("step")
    run.define_metric("*", step_metric="step")  # W&B's own counter would drop the steps a resumed run repeats
    return run


def _init(mode: str, settings: Settings, run_dir: Path, **described: Any) -> Any:
    """System charts, console and code (git commit, packages) are W&B's own; its WANDB_... variables set them."""
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
        settings=wandb.Settings(silent=True, init_timeout=settings.init_timeout, finish_timeout=FINISH_TIMEOUT),
    )


@contextlib.contextmanager
def _staging_below(folder: Path) -> Iterator[None]:
    """W&B keeps copies of files, until they are synced, in a folder of the user's: here of the run's."""
    chosen = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = chosen or str(folder.absolute())
    try:
        yield
    finally:
        if chosen is None:
            del os.environ["WANDB_DATA_DIR"]


def _say(what: str, error: Exception) -> None:
    first = next(iter(str(error).splitlines()), type(error).__name__)
    print(f"W&B: {what} ({first})", flush=True)


def _has_key() -> bool:
    return wandb.login(prompt=False, verify=False)
