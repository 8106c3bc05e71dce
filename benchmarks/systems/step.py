"""A whole training step of a recipe, in plain torch and with what this library chooses: time and memory."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from unittest.mock import patch

import torch

from benchmarks.measuring.checkout import OPERATORS
from benchmarks.measuring.contest import NO_ROOM, Passes, contest
from benchmarks.measuring.records import record
from benchmarks.measuring.words import without_times
from benchmarks.operators.window_attention import sdpa
from benchmarks.registry import Benchmark, Problem, register
from esvit_fast import ops, reference
from esvit_fast.config import Config, load_config, validate
from esvit_fast.data import Batch
from esvit_fast.data.views import augment as data_augment
from esvit_fast.methods.losses import esvit as esvit_loss
from esvit_fast.nn import patches, swin_block
from esvit_fast.parallel.ranks import Ranks
from esvit_fast.training.step.trainer import StepResult, Trainer


@contextmanager
def plain_torch() -> Iterator[None]:
    """The oracles in place of the operators, under torch's autograd, which keeps all that they make.

    No backend does that: the reference backend, which also takes part, keeps an operator's inputs and computes again.
    """

    def matched(student, teacher, *, match_dtype=None):
        return ops.Matches(*reference.region_match(student.detach(), teacher.detach(), match_dtype))

    def cross_entropy(
        student, weight, teacher, teacher_weight, center, pairs, *, student_weight_g, teacher_weight_g, **t
    ):
        loss, statistics = reference.prototype_cross_entropy(
            student, weight, student_weight_g, teacher, teacher_weight, teacher_weight_g, center, *pairs, **t
        )
        return loss, ops.Statistics(*statistics.unbind())

    def attention(qkv, bias, *, pad_kv, **options):
        return reference.window_attention(qkv, bias, pad_kv, **options)

    def augment(images, parameters, *, mean, std, blur_radius, dtype):
        return reference.multicrop_augment(images, parameters, mean, std, blur_radius, dtype)

    with (
        patch.object(data_augment, "multicrop_augment", augment),
        patch.multiple(ops, linear=reference.linear, window_attention=attention),
        patch.multiple(esvit_loss, region_match=matched, prototype_cross_entropy=cross_entropy),
        patch.object(swin_block, "through", lambda first, x, then: then(first(x))),
        patch.object(patches, "through", lambda first, x, then: then(first(x))),
    ):
        yield


@lru_cache(maxsize=1)
def _compiled() -> tuple[Callable, Callable]:
    """A block, and the loss over prototypes, which are compiled for each shape at its first call."""
    torch._dynamo.reset()
    block, loss = swin_block.SwinBlock.forward, reference.prototype_cross_entropy
    return torch.compile(block, dynamic=False), torch.compile(loss, dynamic=False)


def _timms_attention(qkv, bias, *, num_heads, window_size, shift_size, pad_kv, **others):
    square = {"window_size": window_size[0], "shift_size": shift_size[0]}
    return sdpa(qkv, bias, num_heads=num_heads, pad_kv=pad_kv, **square)


@contextmanager
def timm_compiled() -> Iterator[None]:
    """timm's fused attention in plain torch, with blocks and loss under torch.compile."""
    block, loss = _compiled()
    with (
        plain_torch(),
        patch.object(ops, "window_attention", _timms_attention),
        patch.object(swin_block.SwinBlock, "forward", block),
        patch.object(reference, "prototype_cross_entropy", loss),
        torch._dynamo.config.patch(recompile_limit=64),
    ):
        yield


PLAIN = "plain torch"
CONTESTANTS = {
    PLAIN: plain_torch,
    "reference backend": lambda: ops.backend("reference"),
    "timm fused, compiled": timm_compiled,
    "esvit_fast triton": lambda: ops.backend("triton"),
    "esvit_fast": nullcontext,
    "esvit_fast, compiled": nullcontext,
    "esvit_fast, graph": nullcontext,
}
"""Names, and what surrounds a step; the first is what others are compared with."""
SETTINGS = {"esvit_fast, compiled": {"compile": True}, "esvit_fast, graph": {"cuda_graph": True}}
"""How some of them train."""
FOR_GPUS = ("timm fused, compiled", "esvit_fast triton", *SETTINGS)
"""Those that a CPU compiles for minutes, or that are no different there."""


def configured(recipe: str, batch: int, precision: str, device: str) -> Config:
    """The recipe for one small batch, with its last layer trained from the first step.

    No path is dropped: what a compiled block draws is not what the others draw.
    """
    config = load_config(recipe)
    train = replace(
        config.train,
        batch_size=batch,
        precision=precision,
        device=device,
        freeze_last_layer_epochs=0,
        accumulation_steps=1,
    )
    return validate(replace(config, train=train, model=replace(config.model, drop_path_rate=0.0)))


def make_batch(config: Config) -> Batch:
    """Noise where images would be: no step depends on what it sees."""
    g, crops, batch = torch.Generator().manual_seed(0), config.data.crops, config.train.batch_size
    sizes = crops.sizes
    shapes = [(sizes.count(size), batch, 3, size, size) for size in dict.fromkeys(sizes)]
    return Batch(
        [torch.randint(256, shape, generator=g, dtype=torch.uint8) for shape in shapes],
        torch.rand(len(sizes), batch, 11, generator=g),
        torch.arange(batch),
        [],
    )


def stepper(config: Config, around: Callable[[], AbstractContextManager], batch: Batch) -> Callable[[], StepResult]:
    """A run of its own, which each call takes one step further."""
    trainer = Trainer(config, 1000 * config.train.batch_size, Ranks(0, 1, torch.device(config.train.device)))

    def step() -> StepResult:
        with around():
            return trainer.train_step([batch])

    return step


def measure(recipe: str, names: Sequence[str], batch: int, precision: str, device: str, rounds: int) -> dict:
    """A record. The gate: loss and gradient norm of the first step are those of plain torch, to 1e-4 in float32."""
    names = [PLAIN, *(name for name in names if name != PLAIN)]
    config = configured(recipe, batch, precision, device)
    images, first = make_batch(config), {}
    settings = {name: replace(config, train=replace(config.train, **SETTINGS.get(name, {}))) for name in names}
    steps = {name: stepper(settings[name], CONTESTANTS[name], images) for name in names}

    def error(name: str) -> float:
        try:
            done = steps[name]()
        except torch.OutOfMemoryError:
            if name == PLAIN:
                raise SystemExit(f"{PLAIN} cannot take a step of {batch} images: {NO_ROOM}; lower --batch") from None
            raise
        first[name] = torch.stack([done.values["loss"], done.grad_norm.float()])
        off = ((first[name] - first[PLAIN]) / first[PLAIN]).abs().max().item()
        return off / (1e-4 if precision == "fp32" else 1e-2)

    rows = contest(
        names,
        gate=error,
        passes=lambda name: Passes({"training": steps[name]}),
        device=device,
        rounds=rounds,
        resident=True,
    )
    return record(identity(recipe, batch, precision), rows, rounds, device)


def identity(recipe: str, batch: int, precision: str) -> dict:
    """What tells a record from those of other steps."""
    views = list(load_config(recipe).data.crops.sizes)
    return {"op": "step", "case": recipe, "shape": {"batch": batch, "views": views}, "dtype": precision}


def table(record: dict) -> str:
    """A record for people to read."""
    rows = record["contestants"]
    lines = [f"{record['case']}: {record['shape']['batch']} images, a training step, {record['dtype']}"]
    for name, row in rows.items():
        if "training" not in row:
            lines.append(f"  {name:20} gate {without_times(row)}")
            continue
        times = rows[PLAIN]["training"]["p50"] / row["training"]["p50"]
        resident = f"{row['resident_bytes'] / 2**20:6.0f} MiB resident" if "resident_bytes" in row else ""
        lines.append(
            f"  {name:20} {row['training']['p50']:8.1f} ms {times:6.2f}x {row['peak_bytes'] / 2**20:6.0f} MiB "
            f"allocated {resident}  {row['error']:.2f} of what is allowed"
        )
    return "\n".join(lines)


PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""What recipes call the dtypes."""


def _problems(args: argparse.Namespace) -> Iterator[Problem]:
    precision = PRECISIONS[args.dtype]
    settings = {"batch": args.batch, "precision": precision, "device": args.device, "rounds": args.rounds}
    yield Problem(identity(args.recipe, args.batch, precision), partial(measure, args.recipe, **settings))


register(
    Benchmark(
        "step",
        "A whole training step",
        __doc__,
        _problems,
        table,
        modes=("training",),
        contestants=tuple(CONTESTANTS),
        for_gpus=FOR_GPUS,
        operators=OPERATORS,
        arguments={"--recipe": {"default": "swin_tiny_w7"}},
        quick={"recipe": "sample", "batch": 2, "contestants": ["esvit_fast"]},
    )
)
