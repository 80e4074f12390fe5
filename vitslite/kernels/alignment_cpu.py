"""Monotonic alignment search on a CPU (numba): the compiled form of `model.alignment.monotonic_alignment`.

The dynamic programme. `best[l]` is the score of the best path that ends in token l at the current frame. A path either
stays in its token or comes from the one before, so each frame updates

    best[l] <- score[t, l] + max(best[l], best[l - 1]),     best = (score[0, 0], -inf, -inf, ...) at t = 0,

and a tie stays. One bit per cell remembers which it was, and the path is read off backwards from (T - 1, L - 1).

What makes it fast (about 0.2 ns per cell on one core):

* Eight frames in one sweep over the tokens. Written as first-order recurrences (`before_k` holds the value of the
  token before, k frames into the sweep), which the compiler turns into vector instructions; the column is updated in
  place and the eight decisions of a token are packed into one byte.
* Only the band of cells on some complete path is visited: token l needs l frames before it and L - 1 - l after it.
* The unreachable is -inf, not a large negative number: with one, scores below it would win.
* Items are spread over plain threads (the code holds no interpreter lock), so there is no thread pool of the
  compiler's to collide with forked loader workers, and small batches start no thread at all.

The functions compile at their first call and are cached on disk. `no_type_check` keeps the shape checks of the tests
from wrapping them, which the compiler cannot read.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import no_type_check

import numba
import numpy as np

SERIAL_CELLS = 1_000_000  # below this many cells a thread costs more than it saves
_NEVER = np.float32(-np.inf)
_EXPONENT = np.int32(0x7F800000)  # all exponent bits set: the float is infinite or NaN
_compile = numba.njit(nogil=True, boundscheck=False, error_model="numpy", cache=True)


def durations(
    score: np.ndarray, token_lengths: np.ndarray, frame_lengths: np.ndarray, *, n_threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frames per token on the best path of every item.

    score: float32 [B, T, L], contiguous. Lengths: int64 [B], with 1 <= token_lengths <= frame_lengths (not checked).
    Returns int64 [B, L], zero on padding, and bool [B]: False where the valid region holds NaN or infinity (then the
    item's durations are zero).
    """
    n_items, n_frames, n_tokens = score.shape
    result = np.zeros((n_items, n_tokens), np.int64)
    finite = np.zeros(n_items, np.bool_)
    arguments = (score, score.view(np.int32), token_lengths, frame_lengths, result, finite)
    n_threads = 1 if score.size < SERIAL_CELLS else min(n_threads, n_items)
    if n_threads == 1:
        _search(*arguments, 0, 1)
    else:
        with ThreadPoolExecutor(n_threads) as pool:  # every n-th item each: neighbours are of similar length
            list(pool.map(lambda first: _search(*arguments, first, n_threads), range(n_threads)))
    return result, finite


@_compile
@no_type_check
def _search(score, bits, token_lengths, frame_lengths, result, finite, first, step):
    """Items first, first + step, ... The scratch is one column and one byte per token and eight frames."""
    n_items, n_frames, n_tokens = score.shape
    best = np.empty(n_tokens, np.float32)
    advanced = np.empty(((n_frames + 7) // 8, n_tokens), np.uint8)
    for b in range(first, n_items, step):
        n_l, n_t = token_lengths[b], frame_lengths[b]
        finite[b] = _all_finite(bits[b], n_l, n_t)
        if finite[b]:
            _fill(score[b], n_l, n_t, best[:n_l], advanced)
            _read_back(advanced, n_l, n_t, result[b])


@_compile
@no_type_check
def _all_finite(bits, n_l, n_t):
    largest = np.int32(0)
    for t in range(n_t):
        for i in range(n_l):
            exponent = np.int32(bits[t, i] & _EXPONENT)
            largest = exponent if exponent > largest else largest
    return largest != _EXPONENT


@_compile
@no_type_check
def _fill(score, n_l, n_t, best, advanced):
    """Run the recurrence and leave bit (t % 8) of advanced[t // 8, l] set where (t, l) was entered from l - 1."""
    best[:] = _NEVER
    best[0] = score[0, 0]
    advanced[0, :n_l] = 0
    t = 1
    while t < n_t:
        low = max(0, n_l + t - n_t)
        before = best[low - 1] if low > 0 else _NEVER
        if t % 8 == 0 and t + 8 <= n_t:
            high = min(n_l, t + 8)
            _eight_frames(score, t, low, high, best[low:high], advanced[t // 8, low:high], before)
            t += 8
        else:
            high = min(n_l, t + 1)
            if t % 8 == 0:
                advanced[t // 8, :n_l] = 0
            bit = np.uint8(1) << np.uint8(t % 8)
            _one_frame(score[t, low:high], best[low:high], advanced[t // 8, low:high], before, bit)
            t += 1


@_compile
@no_type_check
def _one_frame(row, best, advanced, before, bit):
    for i in range(len(best)):
        stay = best[i]
        came = before > stay
        advanced[i] |= bit if came else np.uint8(0)
        best[i] = row[i] + (before if came else stay)
        before = stay


@_compile
@no_type_check
def _eight_frames(score, t, low, high, best, advanced, before):
    """As `_one_frame`, eight times. Left of the band no path can be on time, hence `_NEVER` after the first frame."""
    r0, r1, r2, r3 = score[t, low:high], score[t + 1, low:high], score[t + 2, low:high], score[t + 3, low:high]
    r4, r5, r6, r7 = score[t + 4, low:high], score[t + 5, low:high], score[t + 6, low:high], score[t + 7, low:high]
    before_0 = before
    before_1 = before_2 = before_3 = before_4 = before_5 = before_6 = before_7 = _NEVER
    no, one = np.uint8(0), np.uint8(1)
    for i in range(len(best)):
        best_0 = best[i]
        came_0 = before_0 > best_0
        best_1 = r0[i] + (before_0 if came_0 else best_0)
        came_1 = before_1 > best_1
        best_2 = r1[i] + (before_1 if came_1 else best_1)
        came_2 = before_2 > best_2
        best_3 = r2[i] + (before_2 if came_2 else best_2)
        came_3 = before_3 > best_3
        best_4 = r3[i] + (before_3 if came_3 else best_3)
        came_4 = before_4 > best_4
        best_5 = r4[i] + (before_4 if came_4 else best_4)
        came_5 = before_5 > best_5
        best_6 = r5[i] + (before_5 if came_5 else best_5)
        came_6 = before_6 > best_6
        best_7 = r6[i] + (before_6 if came_6 else best_6)
        came_7 = before_7 > best_7
        best[i] = r7[i] + (before_7 if came_7 else best_7)
        before_0, before_1, before_2, before_3 = best_0, best_1, best_2, best_3
        before_4, before_5, before_6, before_7 = best_4, best_5, best_6, best_7
        low_bits = (
            (one if came_0 else no)
            | (np.uint8(2) if came_1 else no)
            | (np.uint8(4) if came_2 else no)
            | (np.uint8(8) if came_3 else no)
        )
        high_bits = (
            (np.uint8(16) if came_4 else no)
            | (np.uint8(32) if came_5 else no)
            | (np.uint8(64) if came_6 else no)
            | (np.uint8(128) if came_7 else no)
        )
        advanced[i] = low_bits | high_bits


@_compile
@no_type_check
def _read_back(advanced, n_l, n_t, result):
    """Count the frames of each token from the last cell to the first. At t == l no frame is left to stay in."""
    i = n_l - 1
    for t in range(n_t - 1, 0, -1):
        result[i] += 1
        if i > 0 and (i == t or (advanced[t // 8, i] >> (t % 8)) & 1):
            i -= 1
    result[i] += 1
