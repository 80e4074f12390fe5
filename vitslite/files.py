"""Text files that appear whole or not at all; locks, which the system lets go of however a process ends."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


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
