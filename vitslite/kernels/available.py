"""Availability of the Triton kernels (`randomness_triton`, `alignment_triton`) on this machine."""

import functools
import importlib
import subprocess
import warnings
from types import ModuleType

import torch


def on_gpu(name: str, device: torch.device) -> ModuleType | None:
    """The module of that name in this folder, on a GPU where Triton can start. Loaded now, as it loads a compiler."""
    if device.type != "cuda" or not can_start():
        return None
    return importlib.import_module(f"vitslite.kernels.{name}")


@functools.cache
def can_start() -> bool:
    """Whether Triton is installed (it comes with the CUDA builds of torch) and works on this machine.

    If it is installed and does not work, a warning says why. To reach the driver it compiles some C once.
    """
    try:
        from triton.runtime import driver  # here, as it loads a compiler
    except ImportError:
        return False
    try:
        driver.active.get_current_target()
    except (RuntimeError, OSError, AssertionError, subprocess.CalledProcessError) as error:
        warnings.warn(
            "Triton cannot start, so the alignment search goes through the CPU, every step waits for it, and random "
            "numbers take many small operations of the GPU each. "
            f"Often a C compiler (gcc) or the headers of Python (python3-dev) are missing. Triton says: {error}",
            stacklevel=2,
        )
        return False
    return True
