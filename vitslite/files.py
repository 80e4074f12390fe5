"""Text files that appear whole or not at all."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 beside the target and rename: a kill in the middle leaves what was there."""
    unfinished = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
