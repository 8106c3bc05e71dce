"""From files to batches of views on one core: the published pipeline, torchvision's on tensors, and this library's."""

from __future__ import annotations

import argparse
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from benchmarks.measuring.contest import Passes, contest
from benchmarks.measuring.gpu import on_gpu
from benchmarks.measuring.records import record
from benchmarks.measuring.words import without_times
from benchmarks.registry import Benchmark, Problem, register
from esvit_fast.config import DataConfig
from esvit_fast.data import (
    Augmenter,
    Batch,
    MultiCrop,
    SourceError,
    check_device_decode,
    crop_boxes,
    decode,
    make_loader,
    open_source,
    prefetch,
    uniforms,
)
from esvit_fast.data.sources.encoded import EncodedSource
from esvit_fast.data.views.augment import sampled_parameters
from esvit_fast.data.views.draws import AUGMENT, CROP, epoch_order
from esvit_fast.data.views.exact_pil import exact_pil
from esvit_fast.data.views.multicrop import view_groups

CONFIG = DataConfig(workers=0)
GPU = "cuda"
_BICUBIC = v1.InterpolationMode.BICUBIC

Batches = Iterator[Sequence[Tensor] | Batch]


class Views(Dataset):
    """What a transform for each view makes of an image, as the published code does."""

    def __init__(self, source: EncodedSource, decoded: Callable, transforms: Sequence[Callable]):
        self.source, self.decoded, self.transforms = source, decoded, transforms

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> list[Tensor]:
        image = self.decoded(self.source.read(index))
        return [transform(image) for transform in self.transforms]


def _per_view(view: Callable) -> list[Callable]:
    """view(size, scale, probability of blur, probability of solarisation) for every view."""
    crops, augment, scales = CONFIG.crops, CONFIG.augment, MultiCrop(CONFIG.crops).scale.tolist()
    kinds = [min(number, 2) for number in range(len(crops.sizes))]
    return [
        view(size, tuple(scale), augment.blur[kind], augment.solarize[kind])
        for size, scale, kind in zip(crops.sizes, scales, kinds, strict=True)
    ]


def _pillow(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(torch.empty(1).uniform_(*CONFIG.augment.blur_sigma).item()))


def _published_view(size: int, scale: tuple[float, float], blur: float, solarize: float) -> Callable:
    a = CONFIG.augment
    return v1.Compose(
        [
            v1.RandomResizedCrop(size, scale, interpolation=_BICUBIC),
            v1.RandomHorizontalFlip(a.flip),
            v1.RandomApply([v1.ColorJitter(a.brightness, a.contrast, a.saturation, a.hue)], a.jitter),
            v1.RandomGrayscale(a.grayscale),
            v1.RandomApply([v1.Lambda(_blurred)], blur),
            v1.RandomApply([v1.Lambda(ImageOps.solarize)], solarize),
            v1.ToTensor(),
            v1.Normalize(a.mean, a.std),
        ]
    )


def _tensor_view(size: int, scale: tuple[float, float], blur: float, solarize: float) -> Callable:
    a = CONFIG.augment
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale, interpolation=_BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(a.flip),
            v2.RandomApply([v2.ColorJitter(a.brightness, a.contrast, a.saturation, a.hue)], a.jitter),
            v2.RandomGrayscale(a.grayscale),
            v2.RandomApply([v2.GaussianBlur(13, a.blur_sigma)], blur),
            v2.RandomSolarize(128, solarize),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(a.mean, a.std),
        ]
    )


def _tensor(data: bytes) -> Tensor:
    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)


def transformed(decoded: Callable, view: Callable, source: EncodedSource, batch: int) -> Batches:
    """Views of torchvision's transforms, float32 [B, 3, S, S] each."""
    yield from DataLoader(Views(source, decoded, _per_view(view)), batch, drop_last=True)


def cropped(source: EncodedSource, batch: int) -> Batches:
    """Batches of this library's loader: crops, and draws for the augmentation."""
    count = len(source) // batch * batch
    yield from make_loader(source, CONFIG, batch_size=batch, seed=0, start_samples=0, total_samples=count)


def cropped_by_pillow(source: EncodedSource, batch: int) -> Batches:
    """The same without simplejpeg."""
    with patch.object(decode, "simplejpeg", None):
        yield from cropped(source, batch)


def cropped_by_gpu(source: EncodedSource, batch: int) -> Batches:
    """The same crops, which a GPU decodes and makes."""
    count, config = len(source) // batch * batch, replace(CONFIG, decode="gpu")
    loader = make_loader(source, config, batch_size=batch, seed=0, start_samples=0, total_samples=count)
    yield from prefetch(loader, torch.device(GPU), decode=loader.decode)
    if on_gpu(GPU):
        torch.cuda.synchronize()


def augmented(source: EncodedSource, batch: int) -> Batches:
    """Views of this library, float32 [B, 3, S, S] each."""
    augment = Augmenter(CONFIG.augment, CONFIG.crops.sizes)
    for loaded in cropped(source, batch):
        yield augment(loaded, "cpu")


TRANSFORMS: dict[str, Callable[[EncodedSource, int], Batches]] = {
    "published": partial(transformed, _pillow, _published_view),
    "torchvision v2": partial(transformed, _tensor, _tensor_view),
}
FOR_GPUS = {"esvit_fast crops, nvJPEG decodes": cropped_by_gpu}
LOADERS = {"esvit_fast crops": cropped, "esvit_fast crops, Pillow decodes": cropped_by_pillow} | FOR_GPUS
CONTESTANTS = TRANSFORMS | {"esvit_fast views": augmented} | LOADERS
"""Crops are what workers give a training process, whose device augments them; all others give the views."""
PUBLISHED = next(iter(CONTESTANTS))


@cache
def by_pillow(source: EncodedSource, index: int) -> tuple[list[Tensor], list[Tensor]]:
    """Crops and views of an image in the loader's first epoch, uint8 [3, S, S] each, all by Pillow."""
    sizes, image = CONFIG.crops.sizes, _pillow(source.read(index))
    draws = uniforms(0, 0, index, len(sizes))
    boxes = crop_boxes(image.height, image.width, MultiCrop(CONFIG.crops).scale, draws[:, CROP]).tolist()
    parts = [image.crop((left, top, left + w, top + h)) for top, left, h, w in boxes]
    resized = [part.resize((size, size), Image.Resampling.BICUBIC) for part, size in zip(parts, sizes, strict=True)]
    crops = [torch.from_numpy(np.array(crop)).permute(2, 0, 1) for crop in resized]
    kinds = torch.arange(len(sizes)).clamp(max=2)
    parameters = sampled_parameters(CONFIG.augment, torch.from_numpy(draws[:, AUGMENT]).float(), kinds)
    return crops, [exact_pil(crop[None], row[None])[0] for crop, row in zip(crops, parameters, strict=True)]


def colors(views: Sequence[Tensor]) -> list[Tensor]:
    """Views [3, S, S] in [0, 1], as they were before they were normalised."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CONFIG.augment.mean, CONFIG.augment.std))
    return [view * std + mean for view in views]


MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean(),
    "contrast": lambda x: x.std((1, 2)).mean(),
    "saturation": lambda x: (x.amax(0) - x.amin(0)).mean(),
    "sharpness": lambda x: (x[..., 1:] - x[..., :-1]).abs().mean(),
}


def described(views: Sequence[Tensor]) -> Tensor:
    """What the views of an image in [0, 1] measure: first global, second global, mean of the local ones; [3, 4]."""
    each = torch.stack([torch.stack([measure(view) for measure in MEASURES.values()]) for view in views])
    return torch.stack([each[0], each[1], each[2:].mean(0)])


def gate(name: str, source: EncodedSource, batch: int) -> float:
    """The error of a contestant, in units of what is allowed; at most 1 passes.

    Of crops and views of this library: the mean difference from what Pillow makes with the same draws, of 2 levels.
    Others draw for themselves: the mean difference of brightness, contrast, saturation and sharpness, for each kind of
    view over the images, of 4 standard errors and 0.002.
    """
    torch.manual_seed(0)
    if name in TRANSFORMS:
        found = _differences(name, source, batch)
        allowed = 4 * found.std(0) / len(found) ** 0.5 + 0.002
        return (found.mean(0).abs() / allowed).max().item()
    return _errors(name, source, batch).mean().item() / 2


def _differences(name: str, source: EncodedSource, batch: int) -> Tensor:
    """What views measure beyond what Pillow's views of the same images do, [images, 3, 4]."""
    rows = [row for loaded in CONTESTANTS[name](source, batch) for row in zip(*loaded, strict=True)]
    return torch.stack(
        [
            described(colors(row)) - described([view / 255 for view in by_pillow(source, index)[1]])
            for index, row in enumerate(rows)
        ]
    )


def _errors(name: str, source: EncodedSource, batch: int) -> Tensor:
    """Mean difference in levels of each view from what Pillow makes with the same draws."""
    found, order = [], iter(epoch_order(0, 0, len(source)).tolist())
    for loaded in CONTESTANTS[name](source, batch):
        for row in zip(*(_in_order(loaded) if name in LOADERS else loaded), strict=True):
            crops, views = by_pillow(source, next(order))
            pairs = (crops, row) if name in LOADERS else (views, [255 * view for view in colors(row)])
            found += [(expected.float() - view).abs().mean() for expected, view in zip(*pairs, strict=True)]
    return torch.stack(found)


def _in_order(batch: Batch) -> list[Tensor]:
    """Crops [B, 3, S, S] of every view."""
    numbered = zip([crop.cpu() for crop in batch.crops], view_groups(CONFIG.crops.sizes), strict=True)
    found = {number: crop for crops, (_, numbers) in numbered for number, crop in zip(numbers, crops, strict=True)}
    return [found[number] for number in range(len(found))]


def measure(spec: str, names: Sequence[str], batch: int, rounds: int, device: str = "cpu") -> dict:
    """A record: a pass over the images that a specification names, in this process, with whatever GPU it is about.

    Raises:
        SystemExit: they are not encoded images, or fewer than a batch; or a GPU is to decode and cannot.
    """
    source = opened(spec, batch)
    if FOR_GPUS.keys() & set(names):
        try:
            check_device_decode(torch.device(device))
        except ValueError as error:
            raise SystemExit(str(error)) from None
    rows = contest(
        names,
        gate=lambda name: gate(name, source, batch),
        passes=lambda name: Passes({"load": lambda run=CONTESTANTS[name]: deque(run(source, batch), maxlen=0)}),
        device="cpu",
        rounds=rounds,
    )
    count = len(source) // batch * batch
    for name, row in rows.items():
        if "load" in row:
            row["images_per_s"] = round(1e3 * count / row["load"]["p50"], 1)
            if name in LOADERS:
                row["note"] = "crops and draws, which the device augments; the others make the views on the CPU"
    return record(identity(spec, batch), rows, rounds, device)


def opened(spec: str, batch: int) -> EncodedSource:
    """The images to load."""
    try:
        source = open_source(spec)
    except SourceError as error:
        raise SystemExit(str(error)) from None
    if not isinstance(source, EncodedSource):
        raise SystemExit(f"--data {spec} has no encoded images; pass a folder, a list, a .zip or .tar of JPEG files")
    if len(source) < batch:
        raise SystemExit(f"--batch {batch} is larger than the data, which has {len(source)} images; pass fewer")
    return source


def identity(spec: str, batch: int) -> dict:
    """What tells a record from those of other images and batches."""
    images = len(opened(spec, batch)) // batch * batch
    views = {str(size): len(numbers) for size, numbers in view_groups(CONFIG.crops.sizes)}
    shape = {"images": images, "batch": batch, "views": views}
    named = {"op": "loader", "case": Path(spec).name, "shape": shape}
    return named | {"threads": torch.get_num_threads(), "dtype": str(torch.float32)}


def table(record: dict) -> str:
    """A record for people to read; whoever failed the gate has no times."""
    rows, shape = record["contestants"], record["shape"]
    views = " + ".join(f"{count} x {size}" for size, count in shape["views"].items())
    lines = [f"{record['case']}, {shape['images']} images to {views} px, {record['threads']} threads"]
    first = rows.get(PUBLISHED, {}).get("images_per_s")
    for name, row in rows.items():
        if "load" not in row:
            lines.append(f"  {name:32} {without_times(row)}")
            continue
        times = f"{row['images_per_s'] / first:6.2f}x" if first else ""
        lines.append(
            f"  {name:32} {row['load']['p50'] / shape['images']:6.2f} ms an image {times:>7} "
            f"{row['images_per_s']:7.0f} images/s  {row['error']:.2f} of what is allowed"
        )
    return "\n".join(lines)


def _problems(args: argparse.Namespace) -> Iterator[Problem]:
    torch.set_num_threads(args.threads or 1)
    settings = {"batch": args.batch, "rounds": args.rounds, "device": args.device}
    yield Problem(identity(args.data, args.batch), partial(measure, args.data, **settings))


register(
    Benchmark(
        "loader",
        "From files to views",
        __doc__,
        _problems,
        table,
        modes=("load",),
        contestants=tuple(CONTESTANTS),
        for_gpus=tuple(FOR_GPUS),
        operators=("multicrop_augment",),
        arguments={
            "--data": {"required": True, "help": "a folder, a list, a .zip or .tar of photographs"},
            "--device": {"default": "cpu", "help": "cuda: also whoever decodes there"},
            "--batch": {"type": int, "default": 20},
            "--dtype": None,
        },
        quick={"batch": 4, "contestants": ["published", "esvit_fast views"]},
    )
)
