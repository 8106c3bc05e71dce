"""A training step on tensors that have shapes but no memory: what the real one allocates, keeps and multiplies."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ...config import Config
from ...data import Batch
from ...data.loading.device_decode import HELD_BYTES
from ...data.views.draws import AUGMENT
from ...parallel.ranks import Ranks, accumulation_steps
from ..step.trainer import Trainer, kept_weights
from .estimate import Work
from .watch import UPDATE, Watch, bytes_of

KINDS = {
    "weights": "the student's parameters",
    "optimizer": "AdamW's moments, and what its step holds for a moment",
    "teacher": "the teacher's parameters",
    "gradients": "of the student's parameters",
    "activations": "of the two networks, most of them kept for the backward pass",
    "loss": "centres, pairs, and gradients that are made with the loss",
    "backward": "what the backward pass holds for a moment",
    "augmentation": "views, as the networks see them",
    "batch": "crops of all micro-batches of a step, as the loader gives them, and images that a GPU decodes",
}
"""What memory is taken for."""
_KIND_OF_PART = {"student": "weights", "teacher": "teacher", "loss": "loss"}


@dataclass(frozen=True)
class DryStep:
    """What an optimiser step takes on one device, which has taken one before and trains its last layer.

    Attributes:
        peak: most bytes of tensors that are there at once.
        parts: what these are, by `KINDS`.
        flops: of an image, two for a multiplication and an addition in a matrix product or convolution: of a
            backbone's forward pass by the side of the view in pixels, of all heads, of the loss, of all forward passes
            ("forward"), and of the whole step ("step"). The loss makes its gradients in its forward pass.
        parameters: of the student's backbone, of its heads, and of both those that are trained.
        checkpoint: bytes of the tensors of a checkpoint.
        model: bytes of the teacher's backbone, model.safetensors.
        traced: micro-batches of the step that was looked at.
        work: of these, every operator.
        course: bytes of tensors whenever there were more, from its begin to its end.
    """

    peak: int
    parts: dict[str, int]
    flops: dict[str, int]
    parameters: dict[str, int]
    checkpoint: int
    model: int
    traced: int = 1
    work: tuple[Work, ...] = field(default=(), repr=False)
    course: tuple[int, ...] = field(default=(), repr=False)


def noise(config: Config, images: int, device: torch.device | str = "cpu") -> Batch:
    """A micro-batch of noise: no step's cost depends on what it sees."""
    sizes = config.data.crops.sizes
    shapes = [(sizes.count(size), images, 3, size, size) for size in dict.fromkeys(sizes)]
    return Batch(
        [torch.randint(256, shape, dtype=torch.uint8, device=device) for shape in shapes],
        torch.rand(len(sizes), images, AUGMENT.stop - AUGMENT.start),
        torch.arange(images),
        [],
    )


def dry_step(config: Config, images: int, ranks: Ranks) -> DryStep:
    """Take a step of micro-batches of so many images without memory or arithmetic; seconds for any size.

    The step is that of `Trainer`, with the backends that this machine chooses for the device. What an operator of ours
    holds while it runs is counted for the loss over prototypes on the CPU, whose scratch is the largest there; the
    others' is not seen, nor what the allocator keeps, nor what torch.compile saves, nor the crops that a CUDA graph
    keeps. The oracles, on which GPUs without proven kernels fall back, hold much more. Where torch has no GPU, a step
    on one is looked at on tensors of the CPU, with the autocast of GPUs.
    """
    accumulated = accumulation_steps(config.train, ranks.world_size)
    trained = min(2, accumulated)  # the second finds the gradients of the first
    train = replace(config.train, batch_size=images * trained, accumulation_steps=trained, micro_batch_size=0)
    train = replace(train, freeze_last_layer_epochs=0.0, compile=False, cuda_graph=False)
    augment = replace(config.data.augment, exact_pil=False)
    config = replace(config, train=train, data=replace(config.data, augment=augment))
    # a loss that counts once has its gradients made; others scale them
    on_gpu = ranks.device.type == "cuda"
    here = ranks.device if not on_gpu or torch.cuda.is_available() else torch.device("cpu")
    watch = Watch(trained > 1 or config.train.precision == "fp16" or on_gpu, on_gpu)
    with _without_memory(), watch, _norms_of_gpus() if here != ranks.device else nullcontext():
        trainer = _prepared(config, Ranks(0, 1, here))
        with watch.noting("batch"):
            # on a GPU, the next one is copied while a step runs
            batches = [noise(config, images, here) for _ in range(accumulated + on_gpu)]
            decoding = on_gpu and config.data.decode == "gpu"
            batches.append(torch.empty(HELD_BYTES * decoding, dtype=torch.uint8, device=here))
        flops = _flops_of_parts(watch, trainer)
        _note_kinds(watch, trainer)
        divided = config.train.shard and ranks.world_size > 1
        if ranks.world_size > 1 and not divided:
            _reduce_in_buckets(watch, trainer, trained)
        watch.begin()
        trainer.train_step(batches[:trained])
        work, course = watch.work(), tuple(watch.course)
        total = {name: watch.flops[name] // (trained * images) for name in ("student", "teacher", "loss")}
        sides = Counter(config.data.crops.sizes)
        forward, views = sum(total.values()), trainer.method.teacher_views
        backbones = sum((n + views * (i == 0)) * flops[f"{side} px"] for i, (side, n) in enumerate(sides.items()))
        flops |= {"heads": total["student"] + total["teacher"] - backbones, "loss": total["loss"], "forward": forward}
        flops["step"] = sum(watch.flops.values()) // (trained * images)
        learning, (backbone, *_) = trainer.method.trained, trainer.method.backbones()
        parts = {kind: watch.most[kind] for kind in KINDS}
        if divided:
            parts |= _divided(trainer, ranks.world_size)
        tensors, _ = trainer.state()
        return DryStep(
            sum(parts.values()),
            parts,
            flops,
            {
                "backbone": _count(backbone.parameters()),
                "heads": _count(learning.parameters()) - _count(backbone.parameters()),
                "trained": _count(_trained(learning)),
            },
            bytes_of(tensors.values()),
            bytes_of(kept_weights(config, tensors).values()),
            trained,
            work,
            course,
        )


def peak_of(images: int, known: dict[int, DryStep]) -> int | None:
    """The peak of a step of any number of images from steps of a few; None if these did not take the same course.

    What is there at each moment is linear in images, for which two steps are enough, and quadratic where the loss
    compares images with each other, for which it takes three.
    """
    same = len({len(step.course) for step in known.values()}) == 1
    if not same or any(step.peak != max(step.course) for step in known.values()):  # or parts of it were divided
        return None
    course = 0.0
    for at, step in known.items():  # the polynomial through all of them, as Lagrange wrote it
        share = math.prod((images - other) / (at - other) for other in known if other != at)
        course = course + share * np.array(step.course)
    return round(np.max(course))


def _norms_of_gpus() -> AbstractContextManager:
    """Autocast of GPUs lets layer norms compute and return float32, that of CPUs what they are given."""
    norm = F.layer_norm

    def in_float32(x: Tensor, *args, **kwargs) -> Tensor:
        return norm(x.float() if torch.is_autocast_enabled("cpu") else x, *args, **kwargs)

    return patch.object(F, "layer_norm", in_float32)


@contextmanager
def _without_memory() -> Iterator[None]:
    """Tensors that are made here have no memory; torch's settings and generator are left as they were."""
    precision = torch.get_float32_matmul_precision()
    mode = FakeTensorMode()
    mode.__deepcopy__ = lambda memo: mode  # a copied network's tensors are of the same mode
    with ExitStack() as stack:
        stack.callback(torch.set_float32_matmul_precision, precision)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(warnings.catch_warnings())
        # torch's own copies of parameters look where they are in memory
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        stack.enter_context(mode)
        yield


def _prepared(config: Config, ranks: Ranks) -> Trainer:
    """A run whose optimiser has its state."""
    with patch.object(nn.Module, "to", lambda module, device: module), ranks.device:  # it is made there
        trainer = Trainer(config, 1000 * config.train.batch_size, ranks)
    for parameter in _trained(trainer.method.trained):
        parameter.grad = torch.empty_like(parameter)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    return trainer


def _note_kinds(watch: Watch, trainer: Trainer) -> None:
    """Say what a run's tensors are for, and at each time of a step what is made then."""
    method, parts = trainer.method, trainer.method.parts()
    for part, module in parts.items():
        kind = _KIND_OF_PART[part]
        for tensor in (*module.parameters(), *module.buffers()):
            watch.note(tensor, kind)
    for state in trainer.optimizer.state.values():
        for tensor in state.values():
            watch.note(tensor, "optimizer")
    for parameter in _trained(method.trained):
        parameter.register_post_accumulate_grad_hook(lambda p: watch.note(p.grad, "gradients"))

    def during(module: nn.Module, kind: str, part: str, after: str) -> None:
        module.register_forward_pre_hook(lambda *_: watch.enter(kind, part))
        module.register_forward_hook(lambda *_: watch.enter(after, after))

    during(parts["student"], "activations", "student", "loss")
    if "teacher" in parts:
        during(parts["teacher"], "activations", "teacher", "activations")
    if "loss" in parts:
        during(parts["loss"], "loss", "loss", "backward")
    else:
        method.register_forward_hook(lambda *_: watch.enter("backward", "backward"))
    augment = trainer.augment

    def augmented(*args) -> list[Tensor]:
        with watch.noting("augmentation"):
            return augment(*args)

    trainer.augment = augmented
    trainer.optimizer.register_step_pre_hook(lambda *_: watch.enter("optimizer", UPDATE))


def _reduce_in_buckets(watch: Watch, trainer: Trainer, steps: int) -> None:
    """Several ranks sum gradients in buckets, which are always there; the last micro-batch's gradients move there."""
    done = Counter()

    def move(bucket: Tensor, parameter: nn.Parameter) -> None:
        done[parameter] += 1
        if done[parameter] == steps:
            parameter.grad = bucket

    for parameter in _trained(trainer.method.trained):
        with watch.noting("gradients"):
            bucket = torch.empty_like(parameter, requires_grad=False)
        parameter.register_post_accumulate_grad_hook(partial(move, bucket))


def _divided(trainer: Trainer, count: int) -> dict[str, int]:
    """Bytes of what `sharding.shard` divides, at most: own parts, all that is in no unit, and two units, as the next
    one is fetched while one is at work."""
    trained, (backbone, *_) = trainer.method.trained, trainer.method.backbones()
    sizes = [bytes_of(unit.parameters()) for unit in backbone.units()]
    own = bytes_of(trained.parameters()) // count
    at_work = bytes_of(trained.parameters()) - sum(sizes) + sum(sorted(sizes)[-2:])
    moments = sum(bytes_of(state.values()) for state in trainer.optimizer.state.values()) // count
    return {"weights": own + at_work, "teacher": own + at_work, "gradients": own + at_work, "optimizer": moments}


def _flops_of_parts(watch: Watch, trainer: Trainer) -> dict[str, int]:
    """Of a view of each side through the backbone."""
    found = {}
    for side in dict.fromkeys(trainer.config.data.crops.sizes):
        watch.begin()
        with torch.no_grad(), trainer._autocast():
            trainer.teacher(torch.empty(1, 3, side, side, dtype=trainer.augment.dtype, device=trainer.ranks.device))
        found[f"{side} px"] = sum(watch.flops.values())
    return found


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in parameters)
