"""Beside the clocks: operations, waits for the device, and a trace of where the time goes."""

import collections
import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from vitslite.benchmarks.timing import Call, Timings, measure, on_gpu, on_host, once


@dataclass(frozen=True)
class Effort:
    """How, and how often, things are measured."""

    rounds: int
    device: torch.device
    trace: Path | None = None  # a file for a Chrome trace of one run of each call


def timed(calls: dict[str, Call], effort: Effort) -> Timings:
    """`timing.measure` by the clocks of the device, and a trace if one is wanted."""
    timings = measure(calls, effort.rounds, on_gpu if effort.device.type == "cuda" else on_host)
    if effort.trace is not None:
        write_trace(calls, effort.trace)
    return timings


class OperationCounter(TorchDispatchMode):
    """Counts what reaches the dispatcher below autograd, backward passes and optimisers included.

    Each operation is a trip through C++ at least. Those that are no views also run something: on a GPU they launch.
    """

    def __init__(self):
        super().__init__()
        self.counts: collections.Counter[str] = collections.Counter()
        self.n_views = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "aten":
            self.counts[str(func)] += 1
            self.n_views += func.is_view
        return func(*args, **(kwargs or {}))


def count_operations(function: Callable[[], Any]) -> tuple[int, int]:
    """How many aten operations a run of `function` takes, and how many of them are views."""
    with OperationCounter() as counter:
        function()
    return counter.counts.total(), counter.n_views


def count_waits(function: Callable[[], Any]) -> int:
    """How often a run of `function` makes the host wait for the GPU, as far as torch notices (copies, .item(), ...)."""
    with _sync_debug_mode("warn"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def refuse_waits(name: str, function: Callable[[], Any]) -> None:
    """Run `function`; ValueError at the first wait for the GPU."""
    with _sync_debug_mode("error"):
        try:
            function()
        except RuntimeError as error:
            if "synchronizing CUDA operation" not in str(error):
                raise
            raise ValueError(f"{name}: waits for the GPU, and should not; is Triton installed?") from error


def write_trace(calls: dict[str, Call], path: Path) -> None:
    """One run of each call, named, for chrome://tracing or ui.perfetto.dev."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities) as profiler:
        for name, call in calls.items():
            with record_function(name):
                once(call)
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))


@contextlib.contextmanager
def _sync_debug_mode(mode: str) -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
