"""Checkpoint: one file with everything, written atomically, verified when read, never a pickle that can run code.

A file appears under its name only when it is whole and on the disk (written beside it, flushed, checked, renamed), so a
kill or a full disk leaves the previous one. It ends with the SHA-256 of all bytes before, in the comment of the archive
that torch writes: torch looks at no checksum, and those of the archive leave its directory out.
"""

import hashlib
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from vitslite.files import flush_to_disk, replacing

FORMAT = 2  # of what the weights mean. 2: the flow puts channels back in order after an odd number of couplings
_SEAL = b"vitslite sha256 "  # and 64 hexadecimal digits
_SEAL_LENGTH = len(_SEAL) + 64
_END_LENGTH = 22  # bytes of the last record of an archive; its last two are the length of the comment after it


class DamagedError(ValueError):
    """The file is not what was written."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Write atomically: a temporary file beside the target, flushed to disk, verified, then renamed."""
    try:
        with replacing(path) as temporary:
            with open(temporary, "wb") as file:
                torch.save({**content, "format": FORMAT}, file)
            _seal(temporary)
            _verify(temporary)
        flush_to_disk(path.parent)  # the rename itself must survive a power cut
    except (OSError, RuntimeError) as error:  # torch wraps what the disk says
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        if isinstance(reason, RuntimeError) and "inline_container" not in str(reason):
            raise  # no word of the disk: a loader worker that died in this moment
        raise OSError(
            f"{path}: not written ({_first_line(reason)}); what was saved before is intact; {room(path)}"
        ) from error


def read(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU with `weights_only=True`.

    ValueError when it is of another format, DamagedError when it is damaged or something else.
    """
    if not path.is_file():
        raise DamagedError(f"{path}: {'leads nowhere' if path.is_symlink() else 'no such checkpoint'}")
    _verify(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError or EOFError, by kind of damage
        code = re.search(r"GLOBAL (\S+)", str(error))  # the rest of torch's line says how to run it all the same
        raise DamagedError(
            f"{path}: refused to load: {f'it holds code, {code[1]}' if code else _first_line(error)}"
        ) from error
    missing = {"config", "frontend", "model", "step"} - set(content)
    if missing:
        raise DamagedError(f"{path}: not a checkpoint of vitslite, it lacks {', '.join(sorted(missing))}")
    if content.get("format", 1) != FORMAT:
        writer = f"vitslite {content['version']}, which" if "version" in content else "the version of vitslite that"
        raise ValueError(
            f"{path}: written in format {content.get('format', 1)}, this is the code of format {FORMAT}: the same "
            f"weights would mean something else; train it again, or use {writer} wrote it"
        )
    return content


def find(source: Path) -> Path:
    """The checkpoint file that `source` means. ValueError when there is none."""
    if source.is_file():
        return source
    for name in ("best.pt", "last.pt"):
        path = source / "checkpoints" / name
        if path.is_file():
            return path
    if not source.exists():
        raise ValueError(f"{source}: no such run directory or checkpoint")
    raise ValueError(f"{source}: no checkpoint in {source / 'checkpoints'}; train first: vitslite train")


def _seal(path: Path) -> None:
    """Append the digest, and have all of it on the disk."""
    with open(path, "r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(_SEAL_LENGTH.to_bytes(2, "little"))
        file.flush()
        file.write(_SEAL + _digest(path, file.tell()))
        file.flush()
        os.fsync(file.fileno())


def _verify(path: Path) -> None:
    """DamagedError unless every byte is as it was written; of older files, unless the entries of the archive are."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise DamagedError(f"{path}: not a checkpoint, its entries are compressed")  # to any size
            file.seek(max(0, size - _SEAL_LENGTH))
            end = file.read()
            if end.startswith(_SEAL):
                is_whole = end == _SEAL + _digest(path, size - _SEAL_LENGTH)
            else:
                is_whole = end[-_END_LENGTH:].startswith(b"PK\5\6") and archive.testzip() is None
    except DamagedError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds, by what is damaged
        raise DamagedError(f"{path}: damaged or not a checkpoint ({_first_line(error)})") from error
    if not is_whole:
        raise DamagedError(f"{path}: damaged, its checksum is wrong")


def _digest(path: Path, length: int) -> bytes:
    """SHA-256 of the first `length` bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(min(length - file.tell(), 1 << 20)):
            digest.update(part)
    return digest.hexdigest().encode()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def room(path: Path) -> str:
    """Words on the room that is left where `path` was to be."""
    free = shutil.disk_usage(path.parent).free / 1e6
    return f"{free:.0f} MB are free there: look at the disk, the quota and ulimit -f"
