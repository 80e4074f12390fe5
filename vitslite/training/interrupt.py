"""Signal handling: Ctrl-C and SIGTERM become a request that the loop answers where nothing is lost."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any


class AbandonedError(BaseException):
    """What is being done need not be ended; no Exception, so that nobody takes it for a fault."""


class StopRequest:
    """While entered, SIGINT and SIGTERM set `made` instead of killing; a second SIGINT stops at once."""

    def __init__(self) -> None:
        self.made = False
        self.is_sigterm = False
        self._abandons = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def abandoning(self) -> Iterator[None]:
        """A block that a request ends at once, with AbandonedError: nothing in it that cannot be done again."""
        self._abandons = True
        try:
            if self.made:
                raise AbandonedError
            yield
        finally:
            self._abandons = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.made and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.made, self.is_sigterm = True, number == signal.SIGTERM
        if self._abandons:
            raise AbandonedError
