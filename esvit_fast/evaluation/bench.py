"""The protocols: frozen networks and images to one `Result` each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from ..config import AugmentConfig
from ..data import Source, eval_transform
from .features import Features, Side, extract_features, same_images, split_labelled, subset
from .measures.correspondence import PAIRS, correspondence_accuracy
from .measures.health import feature_health
from .measures.knn import check_k, knn
from .measures.linear import linear_probe
from .result import EvalSettings, K, Result, count

PIXEL_SIDE = 32
HEALTH_IMAGES = 2_000

Networks = Mapping[str, nn.Module]
"""Networks by the name that they have in a result: trained, untrained, raw pixels."""


class RawPixels(nn.Flatten):
    """The pixels themselves as features, at 32 x 32."""

    image_size = PIXEL_SIDE


class Shown(NamedTuple):
    """The images that are looked at one by one: those for testing, where there are any."""

    source: Source
    split: str
    """Which split they are, in words; empty where the source is not divided."""


class Images(NamedTuple):
    """The images of an evaluation."""

    data: str
    sides: tuple[Side, ...]
    """Bank and queries; the images alone, if they have no classes; none for correspondence alone."""
    shown: Shown
    remarks: tuple[str, ...] = ()


class Bench:
    """Networks, images and settings."""

    def __init__(
        self,
        networks: Networks,
        images: Images,
        settings: EvalSettings,
        augment: AugmentConfig,
        device: str | torch.device = "cpu",
        progress: Callable[[str, int, int], None] | None = None,
    ):
        self.networks, self.images, self.settings = networks, images, settings
        self.augment, self.device, self.progress = augment, device, progress
        self._parts: dict[str, Features] = {}

    def features(self, name: str, blocks: int = 0) -> list[Features]:
        """Features of a network, of each side."""
        sides = zip(("training images", "test images"), self.images.sides, strict=False)
        found = [self._extract(name, part, source, rows, blocks) for part, (source, rows) in sides]
        if not blocks:
            self._parts[name] = _part(found[0])
        return found

    def part(self, name: str) -> Features:
        """Features of at most `HEALTH_IMAGES` of the first side, which are taken once."""
        if name not in self._parts:
            source, rows = self.images.sides[0]
            chosen = [rows[i] for i in subset(len(rows), HEALTH_IMAGES)]
            self._parts[name] = self._extract(name, "images", source, chosen)
        return self._parts[name]

    def _extract(self, name: str, part: str, source: Source, rows: list[int], blocks: int = 0) -> Features:
        model = self.networks[name]
        return extract_features(
            model,
            source,
            size=None if isinstance(model, RawPixels) else self.settings.size,
            augment=self.augment,
            batch_size=self.settings.batch_size,
            blocks=blocks,
            indices=rows,
            device=self.device,
            progress=self.reporter(f"{name}, features of {part}" + (f", {blocks} blocks" if blocks else "")),
        )

    def result(
        self, protocol: str, numbers: Mapping[str, Any], settings: Mapping[str, Any], seen: list[Features]
    ) -> Result:
        """A result whose images are those of which there are features."""
        bank, queries = seen if len(seen) == 2 else (None, seen[0])
        named = next(iter(self.networks.values()))
        size = int(self.settings.size or named.image_size)
        return Result(
            protocol,
            self.images.data,
            0 if bank is None else len(bank.labels),
            len(queries.labels),
            0 if bank is None else len(bank.labels.unique()),
            f"{eval_transform(size)}; mean {_list(self.augment.mean)}, std {_list(self.augment.std)}",
            settings,
            numbers,
            (
                *self.images.remarks,
                *_unread(sum(len(side.failures) for side in seen)),
                *(() if bank is None else self._unseen(bank, queries)),
            ),
        )

    def reporter(self, what: str) -> Callable[[int, int], None] | None:
        """Progress of one part."""
        return (lambda done, of: self.progress(what, done, of)) if self.progress else None

    def _unseen(self, bank: Features, queries: Features) -> list[str]:
        lost = queries.labels[~torch.isin(queries.labels, bank.labels)]
        if not len(lost):
            return []
        names = self.images.sides[1][0].classes
        kinds = f"{len(lost.unique()):,} {'class' if len(lost.unique()) == 1 else 'classes'}"
        first = ", ".join(repr(names[label]) for label in lost.unique().tolist()[:3])
        return [
            f"{len(lost):,} of {count(len(queries.labels), 'test image')} are of {kinds} of "
            f"which no training image is ({first}): they count as wrong"
        ]


def shown_images(train: Source, test: Source | None) -> Shown:
    """The test images, with classes or without; the training images where there are no others."""
    if test is None:
        return Shown(train, "training split")
    return Shown(test, "" if same_images(train, test) else "test split")


def pictured_images(train: Source, test: Source | None) -> Images:
    """What correspondence alone needs, for which classes do not matter."""
    return Images(train.name, (), shown_images(train, test))


def evaluated_images(train: Source, test: Source | None, settings: EvalSettings) -> Images:
    """Bank and queries; of a training source without classes, its images alone.

    Raises:
        UserError: as `split_labelled`.
    """
    sides, shown = split_labelled(train, test), shown_images(train, test)
    if sides is None:
        every = (train, list(range(len(train))))
        return Images(train.name, (every,), shown, ("no classes: neither k-NN nor linear probe",))
    remarks, chosen = [], []
    if sides[0][0] is sides[1][0]:
        remarks.append("no test split of its own: a tenth of the images is held out, and not among the neighbours")
    for what, limit, (source, rows) in zip(("training", "test"), (settings.bank, settings.queries), sides, strict=True):
        picked = [rows[i] for i in subset(len(rows), limit)]
        remarks += _drawn(len(picked), len(rows), f"{what} image")
        chosen.append((source, picked))
    return Images(train.name, tuple(chosen), shown, tuple(remarks))


def evaluate_knn(bench: Bench) -> Result:
    """Weighted k-NN of every network.

    Raises:
        UserError: k is out of range, or an image has no label.
    """
    given, numbers = bench.settings.k, {}
    if given is not None:
        for n in given:
            check_k(n, len(bench.images.sides[0][1]))
    for name in bench.networks:
        sides = bench.features(name)
        k = tuple(dict.fromkeys(min(n, len(sides[0].labels)) for n in K)) if given is None else given
        found = knn(*sides, k=k, temperature=bench.settings.temperature, device=bench.device)
        numbers[name] = [{"k": n, **accuracy._asdict()} for n, accuracy in found.items()]
    settings = {"k": list(k), "temperature": bench.settings.temperature}
    if any(isinstance(model, RawPixels) for model in bench.networks.values()):
        settings["raw_pixels"] = f"{PIXEL_SIDE} x {PIXEL_SIDE}"
    return bench.result("knn", numbers, settings, sides)


def evaluate_linear(bench: Bench) -> Result:
    """A linear probe of every network that has blocks.

    Raises:
        UserError: a network has fewer blocks than are asked for, or as `linear_probe`.
    """
    numbers, settings = {}, bench.settings
    for model in bench.networks.values():
        if settings.blocks and hasattr(model, "check_blocks"):
            model.check_blocks(settings.blocks)
    for name, model in bench.networks.items():
        if isinstance(model, RawPixels):
            continue
        sides, report = bench.features(name, settings.blocks), bench.reporter(f"{name}, linear probe")
        probe = linear_probe(*sides, epochs=settings.epochs, seed=settings.seed, device=bench.device, progress=report)
        rows = ((row.learning_rate, row.held_out.top1, row.test.top1) for row in probe.table)
        table = [dict(zip(("learning_rate", "held_out", "test"), row, strict=True)) for row in rows]
        numbers[name] = [probe._asdict() | {"table": table, "diverged": list(probe.diverged)}]
    said = {"blocks": settings.blocks, "epochs": settings.epochs, "seed": settings.seed}
    return bench.result("linear", numbers, said, sides)


def evaluate_correspondence(bench: Bench) -> Result:
    """Whether regions find themselves in another view, for every network but raw pixels: a row for each of `PAIRS`."""
    (source, split), settings, numbers = bench.images.shown, bench.settings, {}
    rows = subset(len(source), settings.pair_images)
    for name, model in bench.networks.items():
        if isinstance(model, RawPixels):
            continue
        size, numbers[name] = int(settings.size or model.image_size), []
        for views in PAIRS:
            found = correspondence_accuracy(
                model,
                source,
                augment=bench.augment,
                views=views,
                size=size,
                indices=rows,
                seed=settings.seed,
                device=bench.device,
                progress=bench.reporter(f"{name}, correspondence, {views}"),
            )
            numbers[name].append({"views": views, **found._asdict()})
    transform = (
        f"published: {eval_transform(size)}; the second view mirrored, colors jittered (4 times of 5) and gray. "
        f"crops: two of 40 to 80 % at {size} x {size} px, colors kept, the second mirrored half of the times"
    )
    data = f"{source.name}, {split}" if split else source.name
    said = {"pair_images": settings.pair_images, "seed": settings.seed}
    remarks = (*_drawn(len(rows), len(source), "image"), *_unread(len(rows) - found.images))
    return Result("correspondence", data, 0, found.images, 0, transform, said, numbers, remarks)


def evaluate_health(bench: Bench) -> Result:
    """How far the features of at most `HEALTH_IMAGES` images spread, for every network but raw pixels."""
    parts = {name: bench.part(name) for name, model in bench.networks.items() if not isinstance(model, RawPixels)}
    numbers = {name: [feature_health(part.features)._asdict()] for name, part in parts.items()}
    return bench.result("health", numbers, {}, [next(iter(parts.values()))])


def _part(features: Features) -> Features:
    rows = subset(len(features.labels), HEALTH_IMAGES)
    return Features(features.features[rows].clone(), features.labels[rows], failures=features.failures)


def _drawn(taken: int, of: int, noun: str) -> list[str]:
    return [f"{taken:,} of {count(of, noun)} drawn: others may give other numbers"] if taken < of else []


def _unread(lost: int) -> list[str]:
    if not lost:
        return []
    return [f"{count(lost, 'image')} could not be read and {'is' if lost == 1 else 'are'} left out"]


def _list(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
