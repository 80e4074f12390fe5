"""Data parallel training under torchrun: who am I, and sums over ranks. Without torchrun everything is a no-op.

Gradients are summed by one explicit all-reduce after the backward passes of a step, rather than by wrapping the
modules: the loss terms are already divided by global counts, accumulation and the discriminator's second pass need no
special case, and a module without a gradient on some rank cannot hang the others.
"""

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

TIMEOUT = datetime.timedelta(minutes=10)  # the first step of a slow rank must fit; the library's default is 30


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    return int(os.environ["RANK"]) if is_launched() else 0


def world_size() -> int:
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def is_main() -> bool:
    return rank() == 0


@contextlib.contextmanager
def session(device: str = "auto", threads: int | None = None) -> Iterator[torch.device]:
    """Join the process group torchrun announces, if any, and leave it at the end. Gives this process's device.

    `device` is auto (a GPU if there is one), cpu or cuda; `threads` those of the CPU (None: as torch has it).
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"trainer.device={device}: choose auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("trainer.device=cuda, but torch sees no GPU here: use trainer.device=cpu")
    on_gpu = torch.cuda.is_available() and device != "cpu"
    if on_gpu and is_launched() and int(os.environ["LOCAL_RANK"]) >= torch.cuda.device_count():
        raise ValueError(f"more ranks than GPUs: use --nproc_per_node={torch.cuda.device_count()}")
    chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(chosen)
    if threads is not None:
        torch.set_num_threads(threads)
    if is_launched():
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    try:
        yield chosen
        barrier()  # leave together: torchrun takes a rank that is gone early for a failure
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def all_sum(values: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The sum over ranks, on every rank."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over ranks, in one all-reduce over a flat buffer. Missing ones count as 0."""
    if not dist.is_initialized():
        return
    parameters = [p for p in parameters if p.requires_grad]
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    for p, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad.copy_(grad.view_as(p))
