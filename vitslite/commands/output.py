"""Standard output that ends no command: nobody reads it any more (`| head`), or it lacks a letter (LANG=C)."""

import io
import os
import sys
from typing import Any


class _Sturdy:
    """A text stream whose other end may go away: what is written from then on goes nowhere."""

    def __init__(self, stream: io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._let_go()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._let_go()

    def _let_go(self) -> None:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_sturdy() -> None:
    """Of this process, from now on. Streams of others, such as those of a notebook, stay as they are."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _Sturdy(stream))
