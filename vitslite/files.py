"""Shipped files, atomic files, locks, file names. A file appears whole or not at all; a lock ends with its process."""

import contextlib
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside the target to write to, in a folder that then exists: renamed if all goes well, removed if not.

    A kill in the middle leaves what was there, and a file NAME.tmp.PID: `tidy` takes it away. OSError names the target.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(unfinished)):
            raise
        raise OSError(error.errno, f"not written, {error.strerror}", str(path)) from error  # a full disk names no file
    finally:
        unfinished.unlink(missing_ok=True)


def tidy(folder: Path) -> tuple[int, int]:
    """Remove what killed processes have left half written in `folder`, which nobody else uses. Gives files, bytes."""
    strays = [path for path in folder.glob("*.tmp.*") if path.suffix[1:].isdigit()]
    n_bytes = sum(path.stat().st_size for path in strays)
    for path in strays:
        path.unlink()
    return len(strays), n_bytes


def flush_to_disk(folder: Path) -> None:
    """Have the names of its files on the disk; where the system lets nobody open a folder, it keeps them by itself."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """UTF-8, whole or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def slug(text: str, marks: str = "._=,-") -> str:
    """A name for a file: what is no letter or digit of ASCII and not one of `marks` becomes an underscore."""
    return re.sub(rf"[^A-Za-z0-9{re.escape(marks)}]+", "_", text)


def with_hash(name: str, length: int, text: str) -> str:
    """The first `length` characters of a name, and a hash of the text that it stands for."""
    return f"{name[:length]}-{hashlib.sha1(text.encode()).hexdigest()[:8]}"


@contextlib.contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process. ValueError, at once, where another one holds it; OSError where nothing can."""
    held = _acquire(folder / ".lock", timeout=0)
    if held is None:
        raise ValueError(f"{folder} is in use by another process: wait for its end, or choose another name=...")
    with held:
        yield


@contextlib.contextmanager
def in_turn(lock: Path, waiting: str | None = None) -> Iterator[None]:
    """Hold the file `lock` for this process, after any other one has let go of it; say `waiting` if one has to wait."""
    held = _acquire(lock, timeout=0)
    if held is None:
        if waiting is not None:
            print(waiting, file=sys.stderr, flush=True)
        held = _acquire(lock, timeout=-1)
        assert held is not None  # it waits for as long as it takes
    with held:
        yield


def _acquire(lock: Path, timeout: int) -> AcquireReturnProxy | None:
    """What holds the lock until its block ends; None where another process has it, still after `timeout` seconds."""
    try:
        return FileLock(lock).acquire(timeout=timeout)
    except Timeout:
        return None
    except OSError as error:
        raise OSError(error.errno, f"cannot be written to, {error.strerror}", str(lock.parent)) from error
    except NotImplementedError:
        raise OSError(f"{lock.parent}: its file system cannot lock files; keep it on another one") from None
