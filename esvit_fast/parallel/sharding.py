"""Weights, gradients and moments divided among ranks: FSDP2 (torch.distributed.fsdp.fully_shard)."""

from __future__ import annotations

from torch import Tensor

from ..methods import Method
from .ranks import Ranks


def shard(method: Method, ranks: Ranks) -> None:
    """Divide a method's networks among all ranks, in place.

    Each unit of a backbone is whole while it is at work; what is in no unit is, from the forward pass to the end of the
    backward pass, as the loss reads prototypes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    trained, *_ = method.backbones()
    for backbone in method.backbones():
        for unit in backbone.units():
            fully_shard(unit, mesh=mesh)
            # backward passes would fetch the teacher's last unit, which came before the student's first
            unit.set_unshard_in_backward(backbone is trained)
    fully_shard(method, mesh=mesh)


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
