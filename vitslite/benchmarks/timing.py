"""How long calls take, side by side: in rounds, in turn, and by several clocks at once.

What runs in one process at about the same time meets the same machine: its load, its heat, its caches. So each round
calls everything once, each round begins one further down the list, and what is compared are ratios within a round. Of
the clocks, on a machine that others use as well, trust `cpu` (processor time of the whole process, all threads): it
stops while others have the core. `wall` is what one waits; `gpu` the time between two events on the device.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

Stopwatch = Callable[[Callable[[], Any]], dict[str, float]]  # runs a function, gives seconds by clock


class Call(NamedTuple):
    """Something to measure. `prepare` makes its arguments anew before each run, while no clock runs."""

    run: Callable[..., Any]
    prepare: Callable[[], tuple] = tuple  # no arguments


class Ratio(NamedTuple):
    """The median over rounds, and the quartiles."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Timings:
    """Seconds of every round, by call and clock."""

    seconds: dict[str, dict[str, list[float]]]

    def median(self, name: str, clock: str) -> float:
        return float(np.median(self.seconds[name][clock]))

    def least(self, name: str, clock: str) -> float:
        return min(self.seconds[name][clock])

    def ratio(self, name: str, reference: str, clock: str) -> Ratio:
        """How many times as fast as the reference: its time over that of `name`, round by round; above 1 is faster."""
        ratios = np.divide(self.seconds[reference][clock], self.seconds[name][clock])
        low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        return Ratio(float(median), float(low), float(high))


def measure(calls: dict[str, Call], rounds: int, stopwatch: Stopwatch, warm_up: int = 1) -> Timings:
    """Run everything `warm_up` times unmeasured (compilers, caches), then once in each round, in rotated order."""
    names = list(calls)
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for name in names:
        for _ in range(warm_up):
            once(calls[name])
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            run, arguments = calls[name].run, calls[name].prepare()
            for clock, taken in stopwatch(lambda run=run, arguments=arguments: run(*arguments)).items():
                seconds[name].setdefault(clock, []).append(taken)
            del arguments  # they may be large, and the next one makes its own
    return Timings(seconds)


def once(call: Call) -> Any:
    """Run a call, with arguments of its own, and give its result."""
    return call.run(*call.prepare())


def on_host(function: Callable[[], Any]) -> dict[str, float]:
    """Processor and wall time. What is measured has done its work when it returns."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def on_gpu(function: Callable[[], Any]) -> dict[str, float]:
    """Also the time between two events on the device. The others end when the device has done its work."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    cpu, wall = time.process_time(), time.perf_counter()
    begin.record()
    function()
    end.record()
    end.synchronize()
    taken = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return {"gpu": begin.elapsed_time(end) / 1000} | taken
