"""Progress display: a bar on a terminal, a line every few seconds in a log, and what takes longer than a moment."""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType

from tqdm import tqdm

from vitslite import distributed
from vitslite.training.observation import StepResult

LINE_EVERY_SECONDS = 10
BUSY_SECONDS = 2.0  # of silence, after which a log says what is going on


class Progress:
    """Shows steps done, speed, time left and the loss terms of the last step. Silent on ranks other than the main."""

    def __init__(self, first: int, total: int):
        self.total = total
        self.first = first
        self.on_terminal = distributed.is_main() and sys.stderr.isatty()
        self.prints_lines = distributed.is_main() and not self.on_terminal
        self.bar = tqdm(
            initial=first,
            total=total,
            disable=not self.on_terminal,
            dynamic_ncols=True,
            smoothing=0.05,
            bar_format="{n_fmt}/{total_fmt} {remaining} left{postfix} {bar}",
        )
        self.started = self.last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.close()

    def advance(self, result: StepResult) -> None:
        """Count a step. Reads the losses, and so waits for the device, only when something is shown."""
        self.bar.update(1)
        done = result.step
        now = time.monotonic()
        if now - self.last_line < (1 if self.on_terminal else LINE_EVERY_SECONDS) and done != self.total:
            return
        self.last_line = now
        shown = result.terms | {"grad_norm": result.grad_norm}
        numbers = [f"{name} {float(value):.3g}" for name, value in shown.items()]
        per_step = (now - self.started) / max(1, done - self.first)
        if self.on_terminal:
            speed = f"{per_step:.2f} s/step" if per_step > 1 else f"{1 / per_step:.1f} steps/s"
            hours = (self.total - done) * per_step >= 3600
            beside = len(f"{done}/{self.total} {'0:00:00' if hours else '00:00'} left,    ")
            room = shutil.get_terminal_size().columns - beside
            self.bar.set_postfix_str(that_fit([*numbers, speed], room), refresh=False)
        if self.prints_lines:
            left = (self.total - done) * per_step
            print(
                f"step {done}/{self.total}  {'  '.join(numbers)}  {1 / per_step:.2f} steps/s  {left:.0f} s left",
                flush=True,
            )


def that_fit(numbers: list[str], room: int) -> str:
    """As many of the numbers, whole, as `room` characters take."""
    text = ""
    for number in numbers:
        if len(text) + len(number) + 1 > room:
            break
        text = f"{text} {number}".strip()
    return text


@contextlib.contextmanager
def busy(doing: str) -> Iterator[None]:
    """Say what is being done: at once on a terminal, for as long as it takes; in a log if it takes BUSY_SECONDS."""
    if not distributed.is_main():
        yield
        return
    if sys.stderr.isatty():
        with tqdm(total=0, bar_format=f"{doing} ... {{elapsed}}", leave=False):
            yield
        return
    said = threading.Timer(BUSY_SECONDS, print, (f"{doing} ...",), {"flush": True})
    said.daemon = True
    said.start()
    try:
        yield
    finally:
        said.cancel()
