"""Batch sampler: the utterances of a step as a function of (seed, step, rank), so that a resume changes nothing."""

import torch
from jaxtyping import Int
from torch import Tensor

from vitslite import randomness

_POOL_BATCHES = 20  # batches sorted by length together: more pads less, fewer mixes lengths better
_POOL_UTTERANCES = 1280  # the least size of a pool, for small batches


class Sampler:
    """Epochs are permutations; pools of an epoch are sorted by length and cut into batches; batches are shuffled.

    `batch_size` is the global batch over all ranks: step k has the same utterances however many ranks share it. What
    does not fill a batch at the end of an epoch is left out of that epoch.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int, rank: int = 0, world_size: int = 1):
        if len(lengths) < batch_size:
            raise ValueError(
                f"{len(lengths)} training clips < data.batch_size={batch_size}: "
                f"type data.batch_size={len(lengths)} or less"
            )
        self.lengths, self.batch_size, self.seed = torch.tensor(lengths), batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = len(lengths) // batch_size
        self._epoch: tuple[int, list[list[int]]] = (-1, [])  # the last one asked for, to save time

    def batch(self, step: int, part: int = 0, n_parts: int = 1) -> list[int]:
        """Indices of this rank at `step`; with gradient accumulation, those of its `part` of `n_parts`.

        Ranks and parts take turns along the sorted batch, so that their lengths are alike.
        """
        assert self.batch_size % (self.world_size * n_parts) == 0, (self.batch_size, self.world_size, n_parts)
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._make_epoch(epoch))
        return self._epoch[1][position][part * self.world_size + self.rank :: n_parts * self.world_size]

    def _make_epoch(self, epoch: int) -> list[list[int]]:
        n_used = self.steps_per_epoch * self.batch_size
        order = self._permutation(len(self.lengths), epoch, "utterances")[:n_used]
        n_pool = max(_POOL_BATCHES, -(-_POOL_UTTERANCES // self.batch_size)) * self.batch_size
        pools = [pool[self.lengths[pool].argsort(stable=True)] for pool in order.split(n_pool)]
        batches = torch.cat(pools).view(self.steps_per_epoch, self.batch_size)
        return batches[self._permutation(self.steps_per_epoch, epoch, "batches")].tolist()

    def _permutation(self, n: int, epoch: int, purpose: str) -> Int[Tensor, " N"]:
        key = torch.tensor([randomness.key(self.seed, "epoch", epoch)])
        return randomness.bits(key, purpose, n)[0].argsort(stable=True)
