"""Files that come with the package; text files that appear whole or not at all; locks, which end with the process."""

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_PACKAGE = Path(__file__).parent


def shipped(name: str) -> Path:
    """A file or folder that comes with the package: within it where it is installed, beside it in a checkout."""
    installed = _PACKAGE / name
    return installed if installed.exists() else _PACKAGE.parent / name


def commit() -> str | None:
    """The git commit of the checkout, with -dirty where its files are not those of it; None of an installed package."""
    if not (_PACKAGE.parent / ".git").exists():  # else git may find another repository, around the environment
        return None
    command = ["git", "--no-optional-locks", "-C", str(_PACKAGE.parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run([*command, "--exclude=*", "--abbrev=40"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or it trusts nobody else's files
        return None
    return done.stdout.strip()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 beside the target and rename: a kill in the middle leaves what was there."""
    unfinished = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


@contextlib.contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process. ValueError, at once, where another one holds it; OSError where nothing can."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except NotImplementedError:
        raise OSError(f"{folder}: its file system cannot lock files; keep runs on another one") from None
    except Timeout:
        raise ValueError(
            f"{folder} is in use by another process: wait for its end, or choose another name=..."
        ) from None


@contextlib.contextmanager
def in_turn(lock: Path, waiting: str | None = None) -> Iterator[None]:
    """Hold the file `lock` for this process, after any other one has let go of it; say `waiting` if one has to wait."""
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                print(waiting, file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
