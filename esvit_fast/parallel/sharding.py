"""Weights, gradients and moments divided among ranks: FSDP2 (torch.distributed.fsdp.fully_shard)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from .ranks import Ranks


def shard(method: nn.Module, ranks: Ranks) -> None:
    """Divide student and teacher among all ranks, in place.

    Each unit of a backbone is whole while it is at work; what is in no unit is, from the forward pass to the end of the
    backward pass, as the loss reads prototypes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    for network in (method.student, method.teacher):
        for unit in network.backbone.units():
            fully_shard(unit, mesh=mesh)
            # backward passes would fetch the teacher's last unit, which came before the student's first
            unit.set_unshard_in_backward(network is method.student)
    fully_shard(method, mesh=mesh)


@contextmanager
def prototypes_whole(method: nn.Module) -> Iterator[None]:
    """Within, all weights but those of units are whole, as they were in the last forward pass or as they are now."""
    sharded = hasattr(method, "unshard") and method.loss.centering == "mean"  # others have no centres
    if sharded:
        method.unshard()
    try:
        yield
    finally:
        if sharded:
            method.reshard()


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor; all of it unless that is divided."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; all ranks must ask for one that is divided."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def divided_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every rank has, divided as another one."""
    if not hasattr(like, "placements"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
