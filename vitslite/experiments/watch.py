"""List of runs as a page, and a server of their folder: `vitslite watch`. Runs are only read."""

import http.server
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from vitslite import runs
from vitslite.monitoring import html
from vitslite.monitoring.run_page import Figure, headline

HOST = "127.0.0.1"  # this machine alone
QUIET = 600.0  # seconds without a sign of life after which an unfinished run no longer counts as training


class Entry(NamedTuple):
    """A run of the list."""

    name: str  # the path of its directory below the root
    address: str
    state: str
    progress: str
    modified: float  # the last sign of life, seconds since 1970
    figures: dict[str, Figure]  # by title
    verdict: str


def entries(root: Path) -> list[Entry]:
    """All runs below a folder, the newest first. A damaged one is listed as such."""
    folders = [path.parent for path in root.rglob(runs.CONFIG) if "wandb" not in path.relative_to(root).parts]
    return sorted((entry(root, folder) for folder in folders), key=lambda found: -found.modified)


def entry(root: Path, folder: Path) -> Entry:
    name = folder.relative_to(root).as_posix()
    address = quote(f"/{name}/") if name != "." else "/" + runs.PAGE
    log = next((path for path in (folder / runs.METRICS, folder / runs.CONFIG) if path.exists()), folder)
    modified = log.stat().st_mtime
    try:
        rows, validation = runs.read_rows(folder), runs.read_validation(folder)
        planned, done = runs.planned_steps(folder), runs.is_done(folder)
    except (ValueError, OSError) as error:
        return Entry(name, address, "damaged", "", modified, {}, str(error))
    state = "finished" if done else "training" if time.time() - modified < QUIET else "stopped"
    progress = f"{max((row['step'] for row in rows), default=0)} of {planned or '?'}"
    verdict = validation and validation.verdict
    figures = {figure.title: figure for figure in headline(rows)}
    return Entry(name, address, state, progress, modified, figures, verdict or "")


def page(root: Path) -> str:
    found, now = entries(root), time.time()
    return html.render(
        "experiments/templates/watch.html",
        title=f"Runs in {root.name}",
        entries=found,
        titles=list(dict.fromkeys(title for run in found for title in run.figures)),
        age=lambda modified: age(now - modified),
    )


def age(seconds: int | float) -> str:
    """In the greatest unit that fits: 40 s, 12 min, 3 h, 5 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


class Handler(http.server.SimpleHTTPRequestHandler):
    """The list at "/", and the files below the root: nothing above it, not by way of a link either."""

    root: Path

    def __init__(self, *arguments, root: Path):
        self.root = root.resolve()
        super().__init__(*arguments, directory=str(self.root))

    def do_GET(self) -> None:
        if urlsplit(self.path).path != "/":
            return super().do_GET()
        content = page(self.root).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_head(self):
        try:
            is_below = Path(self.translate_path(self.path)).resolve().is_relative_to(self.root)
        except ValueError:  # a null byte
            is_below = False
        if not is_below:
            self.send_error(404, "not below the folder that is served")
            return None
        return super().send_head()

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")  # pages change while a run goes on
        super().end_headers()

    def log_message(self, format: str, *args) -> None:
        """Silent."""


def server(root: Path, port: int) -> http.server.ThreadingHTTPServer:
    """Not yet serving. Port 0: any that is free. OSError where it is taken."""
    return http.server.ThreadingHTTPServer((HOST, port), partial(Handler, root=root))
