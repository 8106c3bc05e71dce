"""AdamW as published (DINO, arXiv 2104.14294): parameter groups, clipping, the teacher's EMA, its state as tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ...config import TrainConfig
from ...errors import UserError
from ...parallel.ranks import all_reduce_sum
from ...parallel.sharding import divided_like, own_part
from .schedules import SchedulePoint

PREFIX = "optimizer."
STATE = ("step", "exp_avg", "exp_avg_sq")


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Two groups of the parameters that need gradients: with weight decay, then without (biases and vectors).

    As published, relative position tables and the magnitudes `weight_g` are matrices and therefore decay.
    """
    decay, plain = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (plain if parameter.ndim <= 1 or name.rsplit(".")[-1] == "bias" else decay).append(parameter)
    return [{"params": decay}, {"params": plain, "weight_decay": 0.0}]


def make_optimizer(module: nn.Module, config: TrainConfig) -> AdamW:
    """AdamW over `parameter_groups`, at learning rate 0 until `apply_schedule` sets it.

    Call it while every parameter that will ever be trained needs gradients: a last layer that is frozen for the first
    epoch only must be frozen afterwards.

    It is fused: one pass over the weights, without a temporary. `found_inf`, a float32 scalar on their device, may be
    set on it before a step, which then changes nothing where it is 1.
    """
    groups = parameter_groups(module)
    return AdamW(groups, lr=0.0, betas=(0.9, 0.999), weight_decay=config.weight_decay, fused=True)


def apply_schedule(optimizer: Optimizer, point: SchedulePoint) -> None:
    """Set the learning rate of both groups and the weight decay of the first."""
    for group in optimizer.param_groups:
        group["lr"] = point.learning_rate
    optimizer.param_groups[0]["weight_decay"] = point.weight_decay


@torch.no_grad()
def decay(optimizer: Optimizer, keep: Tensor) -> None:
    """Leave so much of the weights that decay and have gradients: 1 - learning rate * weight decay, a scalar on their
    device, which nothing waits for. AdamW does the same where its own weight decay is a number."""
    if weights := [own_part(p) for p in optimizer.param_groups[0]["params"] if p.grad is not None]:
        torch._foreach_mul_(weights, keep)


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float, by: Literal["tensor", "global"]) -> Tensor:
    """Scale gradients down in place to norm `max_norm` (0: leave them), and return their global norm from before, 0-d.

    ``by="tensor"`` scales each tensor by ``min(1, max_norm / (norm + 1e-6))`` of its own norm, as published;
    ``by="global"`` scales all by that of the norm of all. Parameters without a gradient are skipped. Nothing waits for
    the device; a non-finite gradient makes the returned norm non-finite.

    Raises:
        ValueError: `by` is neither.
    """
    if by not in ("tensor", "global"):
        raise ValueError(f"by={by!r} must be 'tensor' or 'global'")
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    own = [own_part(gradient) for gradient in gradients]
    norms = _of_wholes(torch.stack(torch._foreach_norm(own)), gradients)  # [P]
    norm = torch.linalg.vector_norm(norms)
    if max_norm > 0:
        scales = (max_norm / ((norms if by == "tensor" else norm) + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(own, list(scales.unbind()) if by == "tensor" else scales)
    return norm


def _of_wholes(norms: Tensor, tensors: Iterable[Tensor]) -> Tensor:
    """Norms of tensors from those of this rank's parts of them, where they are divided among ranks; all call it."""
    divided = any(own_part(tensor) is not tensor for tensor in tensors)
    return all_reduce_sum(norms.square()).sqrt() if divided else norms


@torch.no_grad()
def update_ratio(optimizer: AdamW, parameters: Iterable[Tensor]) -> Tensor:
    """Norm of AdamW's last step of these parameters, without weight decay, as a share of their own norm, float32 0-d.

    It is made again from the optimiser's state, so that no weights need be kept; parameters that were never stepped
    are left out, and without any the ratio is 0. Healthy training moves weights by about a thousandth of their norm.
    """
    group, seen, steps, stepped = optimizer.param_groups[0], [], [], []
    (beta1, beta2), rate, eps = group["betas"], group["lr"], group["eps"]
    for parameter in parameters:
        if state := optimizer.state.get(parameter):
            seen.append(parameter)
            count = state["step"].double().clamp(min=1)  # 0 where a device has skipped all steps
            mean, square = own_part(state["exp_avg"]), own_part(state["exp_avg_sq"])
            scale = (square / (1 - beta2**count)).sqrt_().add_(eps)
            steps.append(torch.linalg.vector_norm(mean / scale) * (rate / (1 - beta1**count)))
            stepped.append(torch.linalg.vector_norm(own_part(parameter)))
    if not stepped:
        return torch.zeros(())
    moved, size = _of_wholes(torch.stack([torch.linalg.vector_norm(torch.stack(x)) for x in (steps, stepped)]), seen)
    return (moved / size).float()


def optimizer_tensors(optimizer: Optimizer, named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """AdamW's state as ``optimizer.<parameter name>.{step, exp_avg, exp_avg_sq}``.

    `named` is the ``named_parameters()`` of the module that the optimiser was made for. A parameter that has not been
    stepped yet (a frozen last layer) has no entries. The tensors are not copies.
    """
    states = {name: optimizer.state[parameter] for name, parameter in named if parameter in optimizer.state}
    return {f"{PREFIX}{name}.{field}": state[field] for name, state in states.items() for field in STATE if state}


def load_optimizer_tensors(
    optimizer: Optimizer, named: Iterable[tuple[str, Tensor]], tensors: Mapping[str, Tensor]
) -> None:
    """Replace AdamW's state by what `optimizer_tensors` gave; entries without the prefix ``optimizer.`` are ignored.

    Raises:
        UserError: an entry belongs to no parameter of the optimiser, lacks its siblings, or has another shape;
            the optimiser is unchanged.
    """
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameters = {name: p for name, p in named if id(p) in owned}
    names = {key.removeprefix(PREFIX).rpartition(".")[0] for key in tensors if key.startswith(PREFIX)}
    if unknown := sorted(names - parameters.keys()):
        raise UserError(
            f"tensors has optimizer state of {unknown[0]!r}, which is not trained here; resume with the same model"
        )
    states = {name: {field: _state(name, field, parameters[name], tensors) for field in STATE} for name in names}
    optimizer.state.clear()
    optimizer.state.update({parameters[name]: state for name, state in states.items()})


def _state(name: str, field: str, parameter: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """A private copy where fused AdamW keeps it: beside its parameter, a moment with its strides."""
    key = f"{PREFIX}{name}.{field}"
    if key not in tensors:
        raise UserError(f"tensors lacks {key!r}; the checkpoint is not one of this optimizer")
    like = torch.zeros((), dtype=torch.float32, device=parameter.device) if field == "step" else parameter
    if tensors[key].shape != like.shape:
        shapes = f"{list(tensors[key].shape)}, and the parameter wants {list(like.shape)}"
        raise UserError(f"tensors[{key!r}] has shape {shapes}; resume with the same model")
    return torch.empty_like(like, requires_grad=False).copy_(divided_like(tensors[key], like))
