"""Random numbers as a function of (seed, step, utterance, purpose), not of what was drawn before.

Every number is a hash of where it is used: `key` holds (seed, step, utterance), `purpose` names the use, and each axis
of the wanted shape is hashed in turn. So noise does not depend on the batch an utterance stands in, on padding, on the
number of ranks or loader workers, on the device, or on a resume; nothing about randomness needs to be saved.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"),
applied to 64-bit integers that wrap around, which torch does alike on CPU and GPU: an axis is the stream of SplitMix64
whose seed is the hash of all before it.

What is written here in operations of torch is the definition. It is many passes over memory, so where there is a kernel
that makes the same numbers, bit for bit, in one pass, that is used: `kernels/randomness_*.py`.
"""

import functools
import hashlib
import math
from types import ModuleType

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from vitslite.kernels import available

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # the odd integer next to 2^64 / golden ratio, as a signed number
_MULTIPLY_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLY_2 = 0x94D049BB133111EB - 2**64


@functools.lru_cache(maxsize=4096)
def key(*parts: int | str) -> int:
    """A signed 64-bit integer from any integers and strings; the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def bits(keys: Int[Tensor, " B"], purpose: str, *shape: int) -> Int[Tensor, " B *shape"]:
    """64 random bits per element. An element depends on its own index only, so longer shapes extend shorter ones."""
    if kernel := _kernel(keys.device, len(shape)):
        result = _empty(keys, shape, torch.int64)
        kernel.bits(keys, key(purpose), result)
        return result
    h = _mix(keys + key(purpose))
    for n in shape:
        h = _mix(h.unsqueeze(-1) + _GOLDEN * torch.arange(1, n + 1, device=keys.device))
    return h


def uniform(keys: Int[Tensor, " B"], purpose: str, *shape: int) -> Float[Tensor, " B *shape"]:
    """Uniform on (0, 1), 23 bits: never exactly 0 or 1, also in fp32."""
    if kernel := _kernel(keys.device, len(shape)):
        result = _empty(keys, shape, torch.float32)
        kernel.uniform(keys, key(purpose), result)
        return result
    return (_unsigned_shift(bits(keys, purpose, *shape), 41).float() + 0.5) * 2.0**-23


def normal(keys: Int[Tensor, " B"], purpose: str, *shape: int) -> Float[Tensor, " B *shape"]:
    """Standard normal by the Box-Muller transform: 32 bits for the radius, 31 for the angle. Reaches 6.7 sigma."""
    if kernel := _kernel(keys.device, len(shape)):
        u, angle = (_empty(keys, shape, torch.float32) for _ in range(2))
        kernel.uniform_and_angle(keys, key(purpose), u, angle)
    else:
        h = bits(keys, purpose, *shape)
        u = (_unsigned_shift(h, 32).float() + 0.5) * 2.0**-32
        angle = (h & 0x7FFFFFFF).float() * (2 * math.pi * 2.0**-31)
    return torch.sqrt(-2 * torch.log(u)) * torch.cos(angle)  # by torch everywhere: another logarithm rounds otherwise


def _kernel(device: torch.device, n_axes: int) -> ModuleType | None:
    """The module that makes these numbers in one pass, or None. What is being compiled is fused by the compiler."""
    # Imported here, so that reading or importing a model does not load a compiler.
    if torch.compiler.is_compiling():
        return None
    if device.type == "cpu":
        from vitslite.kernels import randomness_cpu  # here, so that a model can be imported without the compiler

        return randomness_cpu
    kernel = available.on_gpu("randomness_triton", device)
    return kernel if kernel and n_axes <= kernel.MAX_AXES else None


def _empty(keys: Int[Tensor, " B"], shape: tuple[int, ...], dtype: torch.dtype) -> Shaped[Tensor, " B *shape"]:
    return torch.empty(len(keys), *shape, dtype=dtype, device=keys.device)


def _mix(h: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    h = (h ^ _unsigned_shift(h, 30)) * _MULTIPLY_1
    h = (h ^ _unsigned_shift(h, 27)) * _MULTIPLY_2
    return h ^ _unsigned_shift(h, 31)


def _unsigned_shift(h: Int[Tensor, "*shape"], n: int) -> Int[Tensor, "*shape"]:
    """h >> n with zeros coming in from the left; torch's own shift copies the sign."""
    return (h >> n) & ((1 << (64 - n)) - 1)
