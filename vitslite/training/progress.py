"""Progress display: a bar on a terminal, a line every few seconds in a log."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from vitslite import distributed
from vitslite.training.observation import StepResult

LINE_EVERY_SECONDS = 10


class Progress:
    """Shows steps done, speed, time left and the loss terms of the last step. Silent on ranks other than the main."""

    def __init__(self, first: int, total: int):
        self.total = total
        self.first = first
        self.on_terminal = distributed.is_main() and sys.stderr.isatty()
        self.prints_lines = distributed.is_main() and not self.on_terminal
        self.bar = tqdm(
            initial=first, total=total, unit="step", disable=not self.on_terminal, dynamic_ncols=True, smoothing=0.05
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
        numbers = "  ".join(f"{name} {float(value):.3g}" for name, value in shown.items())
        self.bar.set_postfix_str(numbers, refresh=False)
        if self.prints_lines:
            per_step = (now - self.started) / max(1, done - self.first)
            left = (self.total - done) * per_step
            print(f"step {done}/{self.total}  {numbers}  {1 / per_step:.2f} steps/s  {left:.0f} s left", flush=True)
