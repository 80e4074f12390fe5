"""Checkpoints that others have pickled, read without running code that may be in them."""

import pathlib
from pathlib import Path
from typing import Any

import torch

# Of Piper's checkpoints: where its files lay. Two names, since Python 3.13 writes another.
_PATHS = [(pathlib.PosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")]


def read(path: Path) -> Any:
    """What torch.save has written, zip or legacy, on the CPU. Tensors, plain values and PosixPath, nothing else.

    ValueError for anything that would call code, and for damage.
    """
    try:
        with torch.serialization.safe_globals(_PATHS):  # type: ignore[arg-type]  # takes (class, name), too
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError or EOFError, by kind of damage
        text = " ".join(str(error).split())
        if "WindowsPath" in text:
            reason = "it holds paths of Windows: load it there, and save its state_dict and hyper_parameters alone"
        elif "GLOBAL" in text or "nsupported" in text:
            reason = f"it holds more than weights and plain values, and that could run code ({text[:160]})"
        else:
            reason = f"damaged, or no checkpoint ({text[:160]})"
        raise ValueError(f"{path}: not read: {reason}") from error
