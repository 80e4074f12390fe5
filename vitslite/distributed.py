"""Data-parallel training under torchrun: ranks, all-reduce, barriers. Without torchrun everything is a no-op.

Gradients are summed by one explicit all-reduce after the backward passes of a step, rather than by wrapping the
modules: the loss terms are already divided by global counts, accumulation and the discriminator's second pass need no
special case, and a module without a gradient on some rank cannot hang the others.
"""

import contextlib
import datetime
import itertools
import os
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import is_torchelastic_launched as is_launched
from torch.distributed.rendezvous import rendezvous

TIMEOUT = datetime.timedelta(minutes=10)  # the first step of a slow rank must fit; the library's default is 30

_sessions = itertools.count()  # of this process; the same on all ranks, as they run the same jobs


def rank() -> int:
    return int(os.environ["RANK"]) if is_launched() else 0


def world_size() -> int:
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def is_main() -> bool:
    return rank() == 0


@contextlib.contextmanager
def session(device: str = "auto", threads: int | None = None) -> Iterator[torch.device]:
    """Join the process group torchrun announces, if any, and leave it at the end. Gives this process's device.

    `device` is auto (a CUDA GPU if there is one), cpu, cuda or mps; `threads` those of the CPU (None: as torch has it).
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("trainer.device=cuda, but torch sees no GPU here: use trainer.device=cpu")
    if device == "mps" and (not torch.backends.mps.is_available() or is_launched()):
        raise ValueError("trainer.device=mps, but torch sees no Metal here, or several ranks: use trainer.device=cpu")
    on_gpu = torch.cuda.is_available() and device in ("auto", "cuda")
    if on_gpu and is_launched() and int(os.environ["LOCAL_RANK"]) >= torch.cuda.device_count():
        raise ValueError(f"more ranks than GPUs: use --nproc_per_node={torch.cuda.device_count()}")
    others = torch.device("mps" if device == "mps" else "cpu")
    chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if on_gpu else others
    if on_gpu:
        torch.cuda.set_device(chosen)
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    if is_launched():
        _join("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield chosen
        barrier()  # leave together: torchrun takes a rank that is gone early for a failure
    finally:
        torch.set_num_threads(before)  # the next job of a sweep may want all cores
        if dist.is_initialized():
            dist.destroy_process_group()


def _join(backend: str) -> None:
    """Make the process group. A sweep makes one per job, each under a name of its own: the store forgets nothing,
    and ranks would look for one another at the addresses of the last time.
    """
    store, rank, world_size = next(rendezvous("env://", timeout=TIMEOUT))
    store = dist.PrefixStore(f"session_{next(_sessions)}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Rank 0 does it before the others, so that only one process fills the caches."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def all_sum(values: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The sum over ranks, on every rank."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def any_rank(here: bool) -> bool:
    """Whether it is so on any rank. The processes talk, their GPUs are not waited for."""
    return bool(all_sum(torch.tensor([float(here)])) > 0) if dist.is_initialized() else here


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over ranks, in one all-reduce over a flat buffer. Missing ones count as 0."""
    if not dist.is_initialized():
        return
    parameters = [p for p in parameters if p.requires_grad]
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([p.numel() for p in parameters]), strict=True):
        gradient.copy_(total.view_as(gradient))
