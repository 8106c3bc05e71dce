"""The augmentation of a batch's crops, as published probabilities have it: time of everyone who can compute it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring.contest import Passes, contest
from benchmarks.measuring.exactness import worst
from benchmarks.measuring.gpu import on_gpu
from benchmarks.measuring.records import record
from benchmarks.measuring.words import without_times
from benchmarks.registry import Benchmark, Problem, register
from esvit_fast import ops
from esvit_fast.config import AugmentConfig
from esvit_fast.data import normalize
from esvit_fast.data.views.augment import operator_settings, sampled_parameters
from esvit_fast.data.views.exact_pil import exact_pil

SIZES = {224: (0, 1), 96: (2,) * 8}
"""Views of each size, by kind: first global, second global, local."""
CONFIG = AugmentConfig()


@dataclass(frozen=True)
class Inputs:
    """Crops of one size and their parameters."""

    images: Tensor
    parameters: Tensor


def inputs(batch: int, device: str) -> list[Inputs]:
    """Smooth colours and noise, and what is drawn for them."""
    g, made = torch.Generator().manual_seed(0), []
    for size, kinds in SIZES.items():
        count = batch * len(kinds)
        coarse = 255 * torch.rand(count, 3, size // 8, size // 8, generator=g)
        smooth = F.interpolate(coarse, size=(size, size), mode="bicubic")
        images = (smooth + 10 * torch.randn(smooth.shape, generator=g)).clamp(0, 255).byte()
        of_view = torch.tensor(kinds).repeat_interleave(batch)
        parameters = sampled_parameters(CONFIG, torch.rand(count, 11, generator=g), of_view)
        made.append(Inputs(images.to(device), parameters))
    return made


def _ours(backend: str) -> Callable[[Inputs, torch.dtype], Tensor]:
    def run(x: Inputs, dtype: torch.dtype) -> Tensor:
        settings = operator_settings(CONFIG)
        return ops.multicrop_augment(x.images, x.parameters, **settings, dtype=dtype, backend=backend)

    return run


def _published(x: Inputs, dtype: torch.dtype) -> Tensor:
    views = exact_pil(x.images.cpu(), x.parameters)
    return normalize(views.to(x.images.device), CONFIG).to(dtype)


CONTESTANTS: dict[str, Callable[[Inputs, torch.dtype], Tensor]] = {
    "torch eager": _ours("reference"),
    "pillow": _published,
    "esvit_fast cpu": _ours("cpu"),
    "esvit_fast triton": _ours("triton"),
}
"""The first is the batched oracle; Pillow takes images one by one, as the published code does."""


def refusal(name: str, device: str) -> str | None:
    """Why someone cannot take part, or None."""
    if name.startswith("esvit_fast") and on_gpu(device) != name.endswith("triton"):
        return f"the crops are on {device}"
    return None


def gate(name: str, dtype: torch.dtype, device: str) -> float:
    """Errors against float64, in units of what is allowed; at most 1 passes.

    Of colours in [0, 1]: 1e-5 and one rounding to `dtype`, but 2/255 where solarisation may fall on either side. Pillow
    rounds after every operation and blurs by boxes: of its errors, the mean is held to 2/255.
    """
    ratios = []
    for x in inputs(2, device):
        found, exact = CONTESTANTS[name](x, dtype), _ours("reference")(x, torch.float64)
        plain = x.parameters.clone()
        plain[:, -1] = 0
        before = _ours("reference")(Inputs(x.images, plain), torch.float64)
        mean, std = (
            torch.tensor(v, dtype=torch.float64, device=device)[:, None, None] for v in (CONFIG.mean, CONFIG.std)
        )
        error = (found.double() - exact).abs() * std
        if name == "pillow":
            ratios.append((error.mean() * 255 / 2).item())
            continue
        either = (before * std + mean - 128 / 255).abs() < 1e-6
        rounding = exact.abs() * std * torch.finfo(dtype).eps
        ratios.append((error / torch.where(either, 2 / 255, 1e-5 + rounding)).max().item())
    return worst(ratios)


def measure(names: Sequence[str], batch: int, dtype: torch.dtype, device: str, rounds: int) -> dict:
    """A record: all crops of a batch."""
    given = inputs(batch, device)

    def passes(name: str) -> Passes:
        return Passes({"augment": lambda run=CONTESTANTS[name]: [run(x, dtype) for x in given]})

    rows = contest(
        names,
        refusal=lambda name: refusal(name, device),
        gate=lambda name: gate(name, dtype, device),
        passes=passes,
        device=device,
        rounds=rounds,
        resident=True,
    )
    return record(identity(batch, dtype), rows, rounds, device)


def identity(batch: int, dtype: torch.dtype) -> dict:
    """What tells a record from those of other batches."""
    shape = {"batch": batch, "views": {str(size): len(kinds) for size, kinds in SIZES.items()}}
    case = {"op": "multicrop_augment", "case": "published probabilities", "shape": shape}
    return case | {"threads": torch.get_num_threads(), "dtype": str(dtype)}


def table(record: dict) -> str:
    """A record for people to read; whoever failed the gate has no times."""
    rows, shape = record["contestants"], record["shape"]
    views = " + ".join(f"{count} x {size}" for size, count in shape["views"].items())
    lines = [f"{shape['batch']} images of {views} px, {record['dtype']}, {record['threads']} threads"]
    first = rows.get("torch eager", {}).get("augment", {}).get("p50")
    for name, row in rows.items():
        if "augment" not in row:
            lines.append(f"  {name:18} {without_times(row)}")
            continue
        time = row["augment"]["p50"]
        times = f"{first / time:6.2f}x" if first else ""
        resident = f"{row['resident_bytes'] / 2**20:5.0f} MiB resident" if "resident_bytes" in row else ""
        lines.append(
            f"  {name:18} {time:8.1f} ms {times:>7} {1e3 * shape['batch'] / time:7.0f} images/s "
            f"{row['peak_bytes'] / 2**20:6.0f} MiB allocated {resident}  {row['error']:.2f} of what is allowed"
        )
    return "\n".join(lines)


def _problems(args: argparse.Namespace) -> Iterator[Problem]:
    dtype = getattr(torch, args.dtype)
    settings = {"batch": args.batch, "dtype": dtype, "device": args.device, "rounds": args.rounds}
    yield Problem(identity(args.batch, dtype), partial(measure, **settings))


def smallest(device: str, backend: str, dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    """Crops that are not square, with everything done to them and nothing."""
    crops = torch.randint(256, (3, 3, 21, 18), device=device, dtype=torch.uint8)
    everything = {"flip": 1, "order": 7, "brightness": 1.2, "contrast": 0.7, "saturation": 1.3, "hue": 0.1}
    statistics = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "blur_radius": 6, "dtype": dtype}
    for chosen in ({}, everything | {"sigma": 1.5, "solarize": 1}):
        parameters = ops.augment_parameters(3, **chosen)
        yield lambda parameters=parameters: ops.multicrop_augment(crops, parameters, **statistics, backend=backend)


register(
    Benchmark(
        "multicrop_augment",
        "Augmentation of a batch's crops",
        __doc__,
        _problems,
        table,
        modes=("augment",),
        contestants=tuple(CONTESTANTS),
        quick={"batch": 1, "contestants": ["torch eager", "esvit_fast cpu"]},
        smallest=smallest,
    )
)
