"""Counter-based random numbers on a CPU (numba): the hash of `randomness`, bit for bit, in one pass.

The operations of torch in `randomness` pass over the whole shape some fifteen times. Here an element is hashed and
made a float while it is in a register; the compiler turns the loop over the last axis into vector instructions. The
axes before it are hashed one after the other, which is little work, as they are as many times fewer elements as the
last axis is long. Everything is uint64: it wraps around, and its shift brings in zeros.

The functions compile at their first call and are cached on disk. `no_type_check` keeps the shape checks of the tests
from wrapping them, which the compiler cannot read.
"""

import functools
import math
from collections.abc import Callable
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)
_UNIFORM_STEP = np.float32(2.0**-23)
_RADIUS_STEP = np.float32(2.0**-32)
_ANGLE_STEP = np.float32(2 * math.pi * 2.0**-31)
_HALF = np.float32(0.5)
_compile = numba.njit(nogil=True, boundscheck=False, error_model="numpy", cache=True)


def _draw(kernel: Callable[..., None], keys: Int[Tensor, " B"], purpose: int, *results: Tensor) -> None:
    """Fill each of `results` [B, *shape], contiguous; `purpose` is its key."""
    rows, first, n = _rows(keys, purpose, results[0].shape[1:])
    kernel(rows, first, *(result.view(len(rows), n).numpy() for result in results))


def _rows(keys: Int[Tensor, " B"], purpose: int, shape: tuple[int, ...]) -> tuple[np.ndarray, int, int]:
    """Everything before the last axis, flattened to [M] of uint64, then the first index of the last axis, its length.

    The hash of the key itself is like that of an axis of the one index 0 (the others count from 1). So each axis is
    `_hash` of all before it, and where there is none the key takes the place of the last axis.
    """
    assert keys.dtype == torch.int64
    rows = keys.numpy().view(np.uint64) + np.uint64(purpose % 2**64)
    axes = [(0, 1), *((1, n) for n in shape)]
    for first, n in axes[:-1]:
        longer = np.empty((len(rows), n), np.uint64)
        _hash(rows, first, longer)
        rows = longer.reshape(-1)
    return rows, *axes[-1]


@_compile
@no_type_check
def _mix(h):
    h = (h ^ (h >> np.uint64(30))) * _MULTIPLY_1
    h = (h ^ (h >> np.uint64(27))) * _MULTIPLY_2
    return h ^ (h >> np.uint64(31))


@_compile
@no_type_check
def _hash(rows, first, result):
    for m in range(result.shape[0]):
        for i in range(result.shape[1]):
            result[m, i] = _mix(rows[m] + np.uint64(first + i) * _GOLDEN)


@_compile
@no_type_check
def _uniform(rows, first, result):
    for m in range(result.shape[0]):
        for i in range(result.shape[1]):
            h = _mix(rows[m] + np.uint64(first + i) * _GOLDEN)
            result[m, i] = (np.float32(np.int32(h >> np.uint64(41))) + _HALF) * _UNIFORM_STEP


@_compile
@no_type_check
def _uniform_and_angle(rows, first, u, angle):
    for m in range(u.shape[0]):
        for i in range(u.shape[1]):
            h = _mix(rows[m] + np.uint64(first + i) * _GOLDEN)
            u[m, i] = (np.float32(np.uint32(h >> np.uint64(32))) + _HALF) * _RADIUS_STEP
            angle[m, i] = np.float32(np.int32(h & np.uint64(0x7FFFFFFF))) * _ANGLE_STEP


bits = functools.partial(_draw, _hash)
uniform = functools.partial(_draw, _uniform)
uniform_and_angle = functools.partial(_draw, _uniform_and_angle)  # of which `randomness.normal` makes its numbers
