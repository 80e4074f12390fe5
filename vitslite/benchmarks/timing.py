"""Time, operations and waits of calls, side by side: in rounds, in turn, and by several clocks at once.

What runs in one process at about the same time meets the same machine: its load, its heat, its caches. So each round
calls everything once, each round begins one further down the list, and what is compared are ratios within a round. Of
the clocks, on a machine that others use as well, trust `cpu` (processor time of the whole process, all threads): it
stops while others have the core. `wall` is what one waits; `gpu` the time between two events on the device.
"""

import functools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from vitslite.config.settings import Config

Stopwatch = Callable[[Callable[[], Any]], dict[str, float]]  # runs a function, gives seconds by clock


@dataclass(frozen=True)
class Settings:
    """What all benchmarks are told."""

    compose: Callable[[list[str]], Config]  # overrides -> configuration
    device: torch.device
    rounds: int
    folder: Path  # for what is needed while they run
    output: Path  # for pictures
    trace: Path | None = None  # a file for a Chrome trace of one run of each call


class Call(NamedTuple):
    """Something to measure. `prepare` makes its arguments anew before each run, while no clock runs."""

    run: Callable[..., Any]
    prepare: Callable[[], tuple] = tuple  # no arguments


@dataclass(frozen=True)
class Timings:
    """Seconds of every round, by call and clock."""

    seconds: dict[str, dict[str, list[float]]]

    @property
    def clock(self) -> str:
        """The one to trust: of the device, or else of the processor."""
        return "gpu" if any("gpu" in clocks for clocks in self.seconds.values()) else "cpu"

    def median(self, name: str, clock: str) -> float:
        return float(np.median(self.seconds[name][clock]))

    def least(self, name: str, clock: str) -> float:
        return min(self.seconds[name][clock])

    def ratio(self, name: str, reference: str, clock: str) -> tuple[float, float, float]:
        """How many times as fast as the reference: its time over that of `name`, round by round; above 1 is faster.

        The median over rounds, and the quartiles.
        """
        ratios = np.divide(self.seconds[reference][clock], self.seconds[name][clock])
        low, median, high = map(float, np.quantile(ratios, [0.25, 0.5, 0.75]))
        return median, low, high


def timed(calls: dict[str, Call], settings: Settings) -> Timings:
    """`measure` by the clocks of the device, and a trace if one is wanted."""
    timings = measure(calls, settings.rounds, on_gpu if settings.device.type == "cuda" else on_host)
    if settings.trace is not None:
        write_trace(calls, settings.trace)
    return timings


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
            for clock, taken in stopwatch(functools.partial(run, *arguments)).items():
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

    def to_the_end() -> None:
        begin.record()
        function()
        end.record()
        end.synchronize()

    torch.cuda.synchronize()
    taken = on_host(to_the_end)
    return {"gpu": begin.elapsed_time(end) / 1000} | taken


class OperationCounter(TorchDispatchMode):
    """Counts what reaches the dispatcher below autograd, backward passes and optimisers included.

    Each operation is a trip through C++ at least. Those that are no views also run something: on a GPU they launch.
    """

    def __init__(self):
        super().__init__()
        self.n_operations = self.n_views = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "aten":
            self.n_operations += 1
            self.n_views += func.is_view
        return func(*args, **(kwargs or {}))


def count_operations(function: Callable[[], Any]) -> tuple[int, int]:
    """How many aten operations a run of `function` takes, and how many of them are views."""
    with OperationCounter() as counter:
        function()
    return counter.n_operations, counter.n_views


def waits(function: Callable[[], Any]) -> list[str]:
    """Where a run of `function` makes the host wait for the GPU, as far as torch notices (copies, .item(), ...)."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno}" for w in caught if "synchronizing CUDA operation" in str(w.message)]


def refuse_waits(name: str, function: Callable[[], Any]) -> None:
    """Run `function`; ValueError if it has waited for the GPU."""
    if places := waits(function):
        raise ValueError(f"{name}: waits for the GPU at {places[0]}, and should not; is Triton installed?")


def write_trace(calls: dict[str, Call], path: Path) -> None:
    """One run of each call, named, for chrome://tracing or ui.perfetto.dev."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities) as profiler:
        for name, call in calls.items():
            with record_function(name):
                once(call)
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))
