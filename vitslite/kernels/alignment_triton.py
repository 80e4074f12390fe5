"""Monotonic alignment search on a GPU (Triton): the programme of `alignment_cpu`.

Same recurrence, same order of additions in fp32, same ties: durations are those of `alignment_cpu`, bit for bit. What
differs is where things lie:

* One program per utterance. The column `best` stays in registers, `best[l - 1]` comes from the neighbour through
  shared memory, and the row of a frame is asked for three frames ahead, as it does not depend on the column. So a
  frame costs a barrier or two, and does not wait for global memory.
* One bit per cell remembers whether the token was entered: a word per token and 32 frames, in a scratch of
  B x T / 32 x L words.
* The same program reads the path back, and writes durations alone, never a matrix.
* All tokens are visited in each frame, not only those of the band: they are done in parallel.
* Lengths stay on the device. Nothing here waits for it.

Triton comes with the CUDA builds of torch. It compiles the kernel at its first call (seconds; once per power of two of
L) and caches it on disk. `no_type_check` keeps the shape checks of the tests from wrapping what it has to read.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

_EXPONENT = tl.constexpr(0x7F800000)  # all exponent bits set: the float is infinite or NaN
_N_STAGES = tl.constexpr(4)  # of the loop over frames: three rows are on their way while one is used


def durations(
    score: Float[Tensor, "B T L"], token_lengths: Int[Tensor, " B"], frame_lengths: Int[Tensor, " B"]
) -> tuple[Int[Tensor, "B L"], Bool[Tensor, " B"]]:
    """Frames per token on the best path of every item, all on one device.

    score: fp32, of any strides, read once where it lies. Neighbouring tokens should be neighbours in memory.
    Returns int64 [B, L], zero on padding, and bool [B]: False where the valid region holds NaN or infinity, and where
    the lengths are not 1 <= token_lengths <= frame_lengths or exceed the score (then the item's durations are zero).
    """
    assert score.dtype == torch.float32 and token_lengths.device == frame_lengths.device == score.device
    n_items, n_frames, n_tokens = score.shape
    result = torch.zeros(n_items, n_tokens, dtype=torch.int64, device=score.device)
    finite = torch.empty(n_items, dtype=torch.bool, device=score.device)
    advanced = torch.empty(n_items, triton.cdiv(n_frames, 32), n_tokens, dtype=torch.int32, device=score.device)
    block = max(32, triton.next_power_of_2(n_tokens))
    arguments = (score, token_lengths.contiguous(), frame_lengths.contiguous(), advanced, result, finite)
    with torch.cuda.device_of(score):  # Triton launches on the current device
        _search[(n_items,)](
            *arguments, n_tokens, n_frames, *score.stride(), BLOCK=block, num_warps=min(8, triton.cdiv(block, 64))
        )
    return result, finite


# Numbers that change from batch to batch must not make Triton compile anew.
@triton.jit(
    do_not_specialize=["n_tokens", "n_frames", "stride_b", "stride_t"],
    do_not_specialize_on_alignment=["score", "token_lengths", "frame_lengths", "advanced", "result", "finite"],
)
@no_type_check
def _search(
    score,
    token_lengths,
    frame_lengths,
    advanced,
    result,
    finite,
    n_tokens,
    n_frames,
    stride_b,
    stride_t,
    stride_l,
    BLOCK: tl.constexpr,
):
    """One utterance: `advanced` [T / 32, L] is its scratch. Offsets of whole utterances may exceed 32 bits."""
    b = tl.program_id(0).to(tl.int64)
    n_l = tl.load(token_lengths + b).to(tl.int32)
    n_t = tl.load(frame_lengths + b).to(tl.int32)
    fits = (n_l >= 1) & (n_l <= n_t) & (n_l <= n_tokens) & (n_t <= n_frames)
    n_l = tl.where(fits, n_l, 0)  # then nothing is read
    n_t = tl.where(fits, n_t, 0)
    advanced += b * ((n_frames + 31) // 32) * n_tokens

    largest = _fill(score + b * stride_b, stride_t, stride_l, n_l, n_t, advanced, n_tokens, BLOCK)
    is_finite = fits & (largest != _EXPONENT)
    tl.store(finite + b, is_finite)
    tl.debug_barrier()  # the words were written by other threads than those that read them
    if is_finite:
        _read_back(advanced, n_tokens, n_l, n_t, result + b * n_tokens)


@triton.jit
@no_type_check
def _fill(score, stride_t, stride_l, n_l, n_t, advanced, n_tokens, BLOCK: tl.constexpr):
    """Run the recurrence and leave bit (t % 32) of advanced[t // 32, l] set where (t, l) was entered from l - 1.

    Returns the largest exponent of the score, in place. Beyond n_l the column holds zeros and -inf that nobody reads.
    """
    token = tl.arange(0, BLOCK)
    is_first = token == 0
    is_valid = token < n_l
    one_before = tl.maximum(token - 1, 0)
    row_at = score + token.to(tl.int64) * stride_l
    row = tl.load(row_at, mask=is_valid, other=0.0)
    best = tl.where(is_first, row, float("-inf"))
    exponent = row.to(tl.int32, bitcast=True) & _EXPONENT
    word = tl.full([BLOCK], 0, tl.int32)
    for t in tl.range(1, n_t, num_stages=_N_STAGES):
        row_at += stride_t
        row = tl.load(row_at, mask=is_valid, other=0.0)
        exponent = tl.maximum(exponent, row.to(tl.int32, bitcast=True) & _EXPONENT)
        before = tl.where(is_first, float("-inf"), tl.gather(best, one_before, 0))
        came = before > best
        best = row + tl.where(came, before, best)
        word |= came.to(tl.int32) << (t % 32)
        word_ends = (t % 32 == 31) | (t == n_t - 1)
        tl.store(advanced + (t // 32) * n_tokens + token, word, mask=is_valid & word_ends)
        word = tl.where(word_ends, 0, word)
    return tl.reduce(exponent, 0, _larger)


@triton.jit
@no_type_check
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
@no_type_check
def _read_back(advanced, n_tokens, n_l, n_t, result):
    """Count the frames of each token from the last cell to the first. At t == token no frame is left to stay in."""
    token = n_l - 1
    count = 1
    for back in range(1, n_t):
        t = n_t - back
        word = tl.load(advanced + (t // 32) * n_tokens + token)
        enters = (token > 0) & ((token == t) | ((word >> (t % 32)) & 1 == 1))
        tl.store(result + token, count, mask=enters)
        count = tl.where(enters, 1, count + 1)
        token -= enters.to(tl.int32)
    tl.store(result, count)
