"""Crashes that are no faults of the code, in words: memory, worker processes, other ranks."""

import errno
import re

from vitslite import distributed

LESS_TO_TRAIN = (
    "trainer.accumulate=2 has the same losses in about half the memory, trainer.precision=bf16 in less, and the run "
    "goes on with either; data.batch_size and data.max_seconds make another run. What was saved before is intact"
)
_MEMORY = re.compile("out of memory|can(no|')t allocate memory|unable to allocate|bad_alloc", re.IGNORECASE)

_SHARED = re.compile(r"unable to (open|write|mmap|resize|allocate)|shared memory|No space left")


def in_words(error: BaseException, less: str) -> str | None:
    """What has happened and what to type, in one line; None for anything else, which deserves its stack.

    `less`: what takes less memory.
    """
    text = str(error)
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        asked = re.search(r"allocate ([\d.]+ \w+)", text)
        return f"out of memory{f' ({asked[1]} more were asked for)' if asked else ''}: {less}"
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return f"{text}: data.n_workers=0 needs fewer of them at a time, ulimit -n 4096 allows more"
    if "DataLoader worker (pid" in text or ("DataLoader worker process" in text and _SHARED.search(text)):
        ended = re.search(r"killed by signal: ([^.]+)", text)
        how = f"by {ended[1].strip()}" if ended else "unexpectedly"
        return (
            f"a process that loads data was ended {how}, most often for want of memory or of shared memory (/dev/shm): "
            "data.n_workers=0 needs neither. What was saved before is intact, the same command goes on from there"
        )
    if distributed.is_launched() and ("by peer" in text or "Connection closed" in text):
        return f"rank {distributed.rank()} stopped because another rank did; what was saved before is intact"
    return None
