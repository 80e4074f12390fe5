"""Runs as they train: a list of them in the browser, each with its page.

    vitslite watch              the runs in runs/
    vitslite watch runs/sweeps/NAME --port 9000

Serves this folder, to this machine alone, until Ctrl-C; from another machine: ssh -L 8000:localhost:8000 HOST. Runs are
only read. The page of a run, index.html in its directory, also opens without a server.
"""

import argparse
from pathlib import Path

from vitslite.commands import console
from vitslite.experiments import watch


def main(arguments: argparse.Namespace) -> None:
    root = arguments.folder
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; give the one that holds the runs")
    try:
        server = watch.server(root, arguments.port)
    except OSError as error:
        raise ValueError(f"--port {arguments.port}: {error.strerror}; choose another, 0 for any free one") from error
    with server:
        print(f"{len(watch.entries(root))} runs in {root}/: http://localhost:{server.server_port}/   (Ctrl-C ends it)")
        server.serve_forever()


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, default=Path("runs"), help="of the runs (runs)")
    p.add_argument("--port", type=int, default=8000, help="(8000)")
    return p


def command() -> int:
    return console.run_script(main, parser())
