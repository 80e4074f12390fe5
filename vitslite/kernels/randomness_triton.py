"""Counter-based random numbers on a GPU (Triton): the hash of `randomness`, bit for bit, in one kernel.

One program per block of the flattened [B, *shape]. Each element hashes its key and all of its indices anew: that is
little beside a pass over memory, let alone beside the some fifteen operations that torch starts per axis. Everything is
uint64: it wraps around, and its shift brings in zeros.

Triton comes with the CUDA builds of torch. It compiles a kernel at its first call (once per number of axes) and caches
it on disk. `no_type_check` keeps the shape checks of the tests from wrapping what it has to read.
"""

import functools
import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Int
from torch import Tensor
from triton.runtime import KernelInterface

MAX_AXES = 3  # of `shape`, which does not count that of the keys
_BLOCK = 1024
_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_MULTIPLY_1 = tl.constexpr(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = tl.constexpr(0x94D049BB133111EB)
_ANGLE_STEP = tl.constexpr(2 * math.pi * 2.0**-31)
# Numbers that change from call to call must not make Triton compile anew.
_compile = triton.jit(
    do_not_specialize=["purpose", "n_1", "n_2", "n_3", "n_elements"],
    do_not_specialize_on_alignment=["keys", "result", "u", "angle"],
)


def _draw(kernel: KernelInterface, keys: Int[Tensor, " B"], purpose: int, *results: Tensor) -> None:
    """Fill each of `results` [B, *shape], contiguous, of at most `MAX_AXES` axes in `shape`; `purpose` is its key."""
    shape, n_elements = results[0].shape[1:], results[0].numel()
    assert len(shape) <= MAX_AXES and keys.dtype == torch.int64
    if n_elements == 0:  # a grid cannot be empty
        return
    lengths = (1,) * (MAX_AXES - len(shape)) + tuple(shape)
    with torch.cuda.device_of(keys):  # Triton launches on the current device
        kernel[(triton.cdiv(n_elements, _BLOCK),)](
            keys.contiguous(), purpose, *lengths, n_elements, *results, N_AXES=len(shape), BLOCK=_BLOCK
        )


@_compile
@no_type_check
def _bits(keys, purpose, n_1, n_2, n_3, n_elements, result, N_AXES: tl.constexpr, BLOCK: tl.constexpr):
    place = _places(BLOCK)
    h = _hash(keys, purpose, n_1, n_2, n_3, n_elements, place, N_AXES)
    tl.store(result + place, h.to(tl.int64, bitcast=True), mask=place < n_elements)


@_compile
@no_type_check
def _uniform(keys, purpose, n_1, n_2, n_3, n_elements, result, N_AXES: tl.constexpr, BLOCK: tl.constexpr):
    place = _places(BLOCK)
    h = _hash(keys, purpose, n_1, n_2, n_3, n_elements, place, N_AXES)
    tl.store(result + place, ((h >> 41).to(tl.int32).to(tl.float32) + 0.5) * 2.0**-23, mask=place < n_elements)


@_compile
@no_type_check
def _uniform_and_angle(keys, purpose, n_1, n_2, n_3, n_elements, u, angle, N_AXES: tl.constexpr, BLOCK: tl.constexpr):
    place = _places(BLOCK)
    h = _hash(keys, purpose, n_1, n_2, n_3, n_elements, place, N_AXES)
    tl.store(u + place, ((h >> 32).to(tl.uint32).to(tl.float32) + 0.5) * 2.0**-32, mask=place < n_elements)
    tl.store(angle + place, (h & 0x7FFFFFFF).to(tl.int32).to(tl.float32) * _ANGLE_STEP, mask=place < n_elements)


@triton.jit
@no_type_check
def _places(BLOCK: tl.constexpr):
    """Where in the flattened result the elements of this program are: in 64 bits, as it may be long."""
    return tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
@no_type_check
def _hash(keys, purpose, n_1, n_2, n_3, n_elements, place, N_AXES: tl.constexpr):
    """`randomness.bits` at `place` of the flattened [B, n_1, n_2, n_3], of which the last N_AXES axes are hashed."""
    before_3 = place // n_3
    before_2 = before_3 // n_2
    before_1 = before_2 // n_1
    key = tl.load(keys + before_1, mask=place < n_elements, other=0)
    h = _mix((key + purpose).to(tl.uint64, bitcast=True))
    if N_AXES > 2:
        h = _next_axis(h, before_2 - before_1 * n_1)
    if N_AXES > 1:
        h = _next_axis(h, before_3 - before_2 * n_2)
    if N_AXES > 0:
        h = _next_axis(h, place - before_3 * n_3)
    return h


@triton.jit
@no_type_check
def _next_axis(h, index):
    return _mix(h + (index + 1).to(tl.uint64, bitcast=True) * _GOLDEN)


@triton.jit
@no_type_check
def _mix(h):
    h = (h ^ (h >> 30)) * _MULTIPLY_1
    h = (h ^ (h >> 27)) * _MULTIPLY_2
    return h ^ (h >> 31)


bits = functools.partial(_draw, _bits)
uniform = functools.partial(_draw, _uniform)
uniform_and_angle = functools.partial(_draw, _uniform_and_angle)  # of which `randomness.normal` makes its numbers
