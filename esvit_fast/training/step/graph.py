"""A step on a GPU as one CUDA graph, which launches all its kernels at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...config import ConfigError, TrainConfig
from ...parallel.ranks import Ranks, accumulation_steps
from .schedules import SchedulePoint

_OF_THIS_THREAD = "thread_local"
"""What may not happen while a graph is recorded: others pin memory meanwhile, for batches to come."""
_WARM_UP = 3
"""Steps of a kind that run one by one before they are recorded: kernels are compiled then, tables and moments made."""


def check_one_gpu(config: TrainConfig, ranks: Ranks) -> None:
    """Raise a ConfigError, unless a step of this run can be a graph."""
    if ranks.device.type != "cuda" or ranks.world_size > 1:
        found = f"{ranks.world_size} x {ranks.device.type}"
        raise ConfigError(f"train.cuda_graph=True is for one GPU, but this run is on {found}; leave it out")
    if (count := accumulation_steps(config, ranks.world_size)) > 1:
        raise ConfigError(
            f"train.cuda_graph=True takes a step of one micro-batch, but this run accumulates {count}; leave it out, "
            "or hold the whole batch at a time"
        )


class StepGraph:
    """`work`, recorded once and replayed on other numbers.

    What moves with every step is in scalars on the device: learning rate, weight decay, and what the method takes
    there, such as the teacher's momentum. A graph holds the method's other numbers, such as the teacher's temperature,
    which kernels take as a number, or whether last layers are trained: after one of them has changed, steps run one by
    one until a new graph is recorded. While the temperature is warmed up per epoch, each epoch has its own graph.

    The loss of a step and its gradients, and what they need, stay in the graph's memory; the values that a step
    returns are copies.

    Args:
        work: of a step: ``work([crops], 1, point, keep)``, named tensors with `values` among them; `point` is that of
            the method, `keep` as in `optimizer.decay`.
        optimizer: which is told to read its learning rate on the device, and no longer to decay weights.
        on_device: names of the method's numbers that it takes as scalars there.
    """

    def __init__(self, work: Callable[..., Any], optimizer: Optimizer, device: torch.device, on_device: Sequence[str]):
        self.work, self._device = work, device
        self.rate, self.keep, *moving = torch.zeros(2 + len(on_device), device=device).unbind()
        self.moving = dict(zip(on_device, moving, strict=True))
        for group in optimizer.param_groups:
            group |= {"lr": self.rate, "weight_decay": 0.0, "capturable": True}
        self.forget()

    def forget(self) -> None:
        """Drop the graph, as when the tensors that it reads and writes are replaced."""
        self._kind, self._steps, self._replay, self._crops = None, 0, None, []

    def __call__(self, crops: list[Tensor], point: SchedulePoint) -> Any:
        """Work on crops, which are copied to where the graph reads them."""
        self.rate.fill_(point.learning_rate)
        self.keep.fill_(1 - point.learning_rate * point.weight_decay)
        for name, scalar in self.moving.items():
            scalar.fill_(getattr(point.method, name))
        # numbers that a graph holds; what moves is here the scalar that it reads, always the same one
        kind = point.method._replace(**self.moving), [crop.shape for crop in crops]
        if kind != self._kind:
            self.forget()
            self._kind = kind
        self._steps += 1
        if self._steps <= _WARM_UP:
            return aside(lambda: self._work(crops), self._device)
        if self._replay is None:
            self._crops = [torch.empty_like(crop) for crop in crops]
            self._replay = recorded(lambda: self._work(self._crops), self._device)
        torch._foreach_copy_(self._crops, crops)
        return _copied(self._replay())

    def _work(self, crops: list[Tensor]) -> Any:
        return self.work([crops], 1, self._kind[0], self.keep)


def aside(function: Callable[[], Any], device: torch.device) -> Any:
    """What a function gives, on the stream on which graphs are recorded."""
    with torch.cuda.device(device):
        here, stream = torch.cuda.current_stream(), _stream(device)
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            out = function()
        here.wait_stream(stream)
        return out


def recorded(function: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """A function that does on the device what another one does, and gives the same tensors every time."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=_stream(device), capture_error_mode=_OF_THIS_THREAD):
        out = function()

    def replay() -> Any:
        graph.replay()
        return out

    return replay


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _copied(work: Any) -> Any:
    """The next step would overwrite them."""
    values = torch.stack(list(work.values.values())).unbind()
    rest = {name: tensor.clone() for name, tensor in work._asdict().items() if name != "values"}
    return work._replace(values=dict(zip(work.values, values, strict=True)), **rest)
