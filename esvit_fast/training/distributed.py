"""Ranks and devices: what torchrun says, or one plain process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0


def setup_distributed(device: str = "auto") -> Ranks:
    """Join the processes that torchrun started (NCCL on GPUs, gloo on CPUs), or be one plain process without a group.

    `device` is "auto" (a GPU if there is one), "cpu", "cuda" (under torchrun the GPU of the local rank), or, in a plain
    process, "cuda:N".

    Raises:
        ValueError: the device is unknown, is not there, or cannot be shared by this machine's processes.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Ranks(0, 1, pick_device(device))
    missing = [name for name in ("RANK", "LOCAL_RANK") if name not in os.environ]
    if missing:
        raise ValueError(f"WORLD_SIZE={world_size} without {' and '.join(missing)}; start with torchrun, or unset it")
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    picked = pick_device(device, local_rank, shared=True)
    if picked.type == "cuda":
        torch.cuda.set_device(picked)
        dist.init_process_group("nccl", device_id=picked)
    else:
        dist.init_process_group("gloo")
    return Ranks(rank, world_size, picked)


def pick_device(name: str, local_rank: int = 0, *, shared: bool = False) -> torch.device:
    """The device of a name as in `setup_distributed`, for a process that shares the machine or not.

    Raises:
        ValueError: as `setup_distributed`.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not (kind == "cuda" and index.isdecimal())):
        raise ValueError(f"device={name!r} must be auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            f"device={name!r} needs an NVIDIA GPU and a CUDA build of torch (this is {torch.__version__}); pass cpu"
        )
    if shared and index:
        raise ValueError(f"device={name!r} names one GPU for several processes; pass cuda")
    number = int(index) if index else local_rank
    count = torch.cuda.device_count()
    if number >= count:
        raise ValueError(
            f"device={f'cuda:{number}'!r} is not there, this machine has {count} GPUs; lower --nproc-per-node or N"
        )
    return torch.device("cuda", number)


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over all ranks, in place, and return it; one process returns it as it is."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def begin_all_reduce_sum(tensor: Tensor) -> dist.Work | None:
    """Begin to sum a tensor over all ranks, in place; what is returned is to be waited for, None with one process."""
    return dist.all_reduce(tensor, async_op=True) if dist.is_initialized() else None


def gather(items: list[Any], device: torch.device) -> list[Any]:
    """The items of all ranks, in the order of ranks; cheap while no rank has any."""
    if not dist.is_initialized() or not all_reduce_sum(torch.tensor(len(items), device=device)):
        return items
    lists: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(lists, items)
    return [item for part in lists for item in part]


def barrier() -> None:
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.barrier()


def teardown_distributed() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
