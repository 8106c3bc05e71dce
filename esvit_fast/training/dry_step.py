"""A training step on tensors that have shapes but no memory: what the real one allocates, keeps and multiplies."""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..config import Config
from ..data import Batch
from ..data.device_decode import HELD_BYTES
from ..data.draws import AUGMENT
from ..ops._cpu.prototype_cross_entropy import scratch_bytes
from ..ops._flops import FLOPS
from .distributed import Ranks, accumulation_steps
from .sharding import units
from .trainer import Trainer, teacher_weights

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

_SCALAR = torch.ops.aten._local_scalar_dense.default


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
    """

    peak: int
    parts: dict[str, int]
    flops: dict[str, int]
    parameters: dict[str, int]
    checkpoint: int
    model: int


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
    keeps. The oracles, on which GPUs without proven kernels fall back, hold much more.
    """
    accumulated = accumulation_steps(config.train, ranks.world_size)
    trained = min(2, accumulated)  # the second finds the gradients of the first
    train = replace(config.train, batch_size=images * trained, accumulation_steps=trained, micro_batch_size=0)
    train = replace(train, freeze_last_layer_epochs=0.0, compile=False, cuda_graph=False)
    augment = replace(config.data.augment, exact_pil=False)
    config = replace(config, train=train, data=replace(config.data, augment=augment))
    # a loss that counts once has its gradients made; others scale them
    watch = _Watch(scaled=trained > 1 or config.train.precision == "fp16" or ranks.device.type != "cpu")
    with _without_memory(), watch:
        trainer = _prepared(config, Ranks(0, 1, ranks.device))
        on_gpu = ranks.device.type == "cuda"
        with watch.noting("batch"):
            # on a GPU, the next one is copied while a step runs
            batches = [noise(config, images, ranks.device) for _ in range(accumulated + on_gpu)]
            decoding = on_gpu and config.data.decode == "gpu"
            batches.append(torch.empty(HELD_BYTES * decoding, dtype=torch.uint8, device=ranks.device))
        flops = _flops_of_parts(watch, trainer)
        _note_kinds(watch, trainer)
        divided = config.train.shard and ranks.world_size > 1
        if ranks.world_size > 1 and not divided:
            _reduce_in_buckets(watch, trainer, trained)
        watch.begin()
        trainer.train_step(batches[:trained])
        total = {name: watch.flops[name] // (trained * images) for name in ("student", "teacher", "loss")}
        sides = Counter(config.data.crops.sizes)
        forward, views = sum(total.values()), trainer.method.teacher_views
        backbones = sum((n + views * (i == 0)) * flops[f"{side} px"] for i, (side, n) in enumerate(sides.items()))
        flops |= {"heads": total["student"] + total["teacher"] - backbones, "loss": total["loss"], "forward": forward}
        flops["step"] = sum(watch.flops.values()) // (trained * images)
        student = trainer.method.student
        parts = {kind: watch.most[kind] for kind in KINDS}
        if divided:
            parts |= _divided(trainer, ranks.world_size)
        tensors, _ = trainer.state()
        return DryStep(
            sum(parts.values()),
            parts,
            flops,
            {
                "backbone": _count(student.backbone.parameters()),
                "heads": _count(student.parameters()) - _count(student.backbone.parameters()),
                "trained": _count(_trained(student)),
            },
            _bytes_of(tensors.values()),
            _bytes_of(teacher_weights(tensors).values()),
        )


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
    for parameter in _trained(trainer.method.student):
        parameter.grad = torch.empty_like(parameter)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    return trainer


def _note_kinds(watch: _Watch, trainer: Trainer) -> None:
    """Say what a run's tensors are for, and at each time of a step what is made then."""
    method = trainer.method
    for kind, module in (("weights", method.student), ("teacher", method.teacher), ("loss", method.loss)):
        for tensor in (*module.parameters(), *module.buffers()):
            watch.note(tensor, kind)
    for state in trainer.optimizer.state.values():
        for tensor in state.values():
            watch.note(tensor, "optimizer")
    for parameter in _trained(method.student):
        parameter.register_post_accumulate_grad_hook(lambda p: watch.note(p.grad, "gradients"))

    def during(module: nn.Module, kind: str, part: str, after: str) -> None:
        module.register_forward_pre_hook(lambda *_: watch.enter(kind, part))
        module.register_forward_hook(lambda *_: watch.enter(after, after))

    during(method.student, "activations", "student", "loss")
    during(method.teacher, "activations", "teacher", "activations")
    during(method.loss, "loss", "loss", "backward")
    augment = trainer.augment

    def augmented(*args) -> list[Tensor]:
        with watch.noting("augmentation"):
            return augment(*args)

    trainer.augment = augmented
    trainer.optimizer.register_step_pre_hook(lambda *_: watch.enter("optimizer", "optimizer"))


def _reduce_in_buckets(watch: _Watch, trainer: Trainer, steps: int) -> None:
    """Several ranks sum gradients in buckets, which are always there; the last micro-batch's gradients move there."""
    done = Counter()

    def move(bucket: Tensor, parameter: nn.Parameter) -> None:
        done[parameter] += 1
        if done[parameter] == steps:
            parameter.grad = bucket

    for parameter in _trained(trainer.method.student):
        with watch.noting("gradients"):
            bucket = torch.empty_like(parameter, requires_grad=False)
        parameter.register_post_accumulate_grad_hook(partial(move, bucket))


def _divided(trainer: Trainer, count: int) -> dict[str, int]:
    """Bytes of what `sharding.shard` divides, at most: own parts, all that is in no unit, and two units, as the next
    one is fetched while one is at work."""
    student = trainer.method.student
    sizes = [_bytes_of(unit.parameters()) for unit in units(student.backbone)]
    own = _bytes_of(student.parameters()) // count
    at_work = _bytes_of(student.parameters()) - sum(sizes) + sum(sorted(sizes)[-2:])
    moments = sum(_bytes_of(state.values()) for state in trainer.optimizer.state.values()) // count
    return {"weights": own + at_work, "teacher": own + at_work, "gradients": own + at_work, "optimizer": moments}


def _flops_of_parts(watch: _Watch, trainer: Trainer) -> dict[str, int]:
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


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(map(_bytes, tensors))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.itemsize


class _Watch(TorchDispatchMode):
    """Counts the bytes of storages from when they are made until they are gone, and the arithmetic of operators."""

    def __init__(self, scaled: bool):
        super().__init__()
        self.scaled = scaled
        self.kind = self.part = "activations"
        self.held: dict[int, tuple[int, str]] = {}
        self.live: Counter[str] = Counter()
        self.begin()

    def begin(self) -> None:
        """Forget the peak so far, and what was computed."""
        self.total, self.flops = sum(self.live.values()), Counter()
        self.high, self.most = self.total, Counter(self.live)

    def enter(self, kind: str, part: str) -> None:
        """From now on, new tensors are of this kind, and arithmetic of this part."""
        self.kind, self.part = kind, part

    @contextmanager
    def noting(self, kind: str) -> Iterator[None]:
        """Let what is made within be of this kind."""
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before

    def note(self, tensor: Tensor, kind: str) -> None:
        """Count a tensor among those of a kind, whatever it was thought to be."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.held:
            self.live[self.held[key][1]] -= size
        else:
            weakref.finalize(storage, self._free, key)
            self.total += size
        self.held[key] = size, kind
        self.live[kind] += size
        if self.total > self.high:
            self.high, self.most = self.total, Counter(self.live)

    def passing(self, kind: str, size: int, beside: Iterable[Tensor]) -> None:
        """Count bytes of a kind that were there for a moment, with tensors that are about to be noted."""
        size += sum(map(_bytes, beside))
        if self.total + size > self.high:
            self.high, self.most = self.total + size, self.live + Counter({kind: size})

    def _free(self, key: int) -> None:
        size, kind = self.held.pop(key)
        self.live[kind] -= size
        self.total -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is _SCALAR:  # a number that nobody knows: no check finds that anything is wrong
            return args[0].dtype != torch.bool and 0.0
        if func.namespace == "esvit_fast":
            out = self._operator(func, args)
        else:
            out = func(*args, **kwargs)
            if formula := flop_registry.get(func.overloadpacket):
                self.flops[self.part] += formula(*args, **kwargs, out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.held:
                self.note(tensor, self.kind)
        return out

    def _operator(self, func, args) -> object:
        """An operator of ours: its arithmetic, whoever does it."""
        name = func._opname
        if name in FLOPS:
            self.flops[self.part] += FLOPS[name](*args[:-1])
        if name == "prototype_cross_entropy_backward" and not self.scaled:
            return args[-4:-1]
        out = func(*args)
        if name == "prototype_cross_entropy" and args[-1] == "cpu":
            self.passing(self.kind, _scratch_of_loss(*args), out)
        return out


def _scratch_of_loss(student, weight, weight_g, teacher, *rest) -> int:
    """Bytes that the larger of its two passes over prototypes takes beside its results."""
    needs = rest[-2]
    size = torch.promote_types(student.dtype, torch.float32).itemsize
    passes = (teacher, True), (student, needs[0])
    return max(scratch_bytes(*rows.shape, len(weight), size, means, any(needs[1:])) for rows, means in passes)
