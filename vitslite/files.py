"""Text files that appear whole or not at all, and directories that one process at a time may write to."""

import contextlib
import os
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
    """Hold `folder` for this process. ValueError, at once, where another one holds it; OSError where nothing can.

    The system lets go of it when the process ends, however it ends.
    """
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except NotImplementedError:
        raise OSError(f"{folder}: its file system cannot lock files; keep runs on another one") from None
    except Timeout:
        raise ValueError(
            f"{folder} is in use by another process: wait for its end, or choose another name=..."
        ) from None
