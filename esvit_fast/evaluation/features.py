"""Frozen features of an image source: what k-NN, the linear probe and the feature health are computed from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esvit_fast.config import AugmentConfig
from esvit_fast.data import CorruptImage, Source, eval_image, normalize
from esvit_fast.data.draws import epoch_order

log = logging.getLogger(__name__)

HOLD_OUT = 10
"""Without a test split one in ten labelled images is a query."""

Side = tuple[Source, list[int]]
"""A source and the indices of the images to take from it."""


class Features(NamedTuple):
    """Features of N images, on the CPU; images that could not be read have no row."""

    features: Tensor
    """float32 [N, C]."""
    labels: Tensor
    """int64 [N]; -1 where the source has no classes."""
    indices: Tensor | None = None
    """int64 [N]: the image's index in its source."""
    failures: tuple[tuple[int, str, str], ...] = ()
    """(index, path, why) of every image that could not be read."""


class _Loaded(NamedTuple):
    images: list[Tensor]
    labels: list[int]
    indices: list[int]
    failures: list[tuple[int, str, str]]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into eval mode under `torch.inference_mode`, and each back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def require_labels(source: Source, what: str) -> None:
    """Check that a source has classes.

    Raises:
        ValueError: it has none; the message says how to give them.
    """
    if not source.classes:
        raise ValueError(
            f"source={source.name!r} has no classes, which {what} needs: "
            "put the images of each class in a folder of its own, or pass a .csv of path,class"
        )


def split_labelled(train: Source, test: Source | None) -> tuple[Side, Side] | None:
    """The images of the bank and of the queries; None if the training source has no classes.

    A test source without classes, or with the same images, counts as none; then a fixed random tenth of the training
    images are queries and not in the bank. Images without a label, as those beside class folders, are left out.

    Raises:
        ValueError: the classes of the two sources differ, or fewer than two images have a label.
    """
    if not train.classes:
        return None
    rows, queries = _labelled(train), _labelled(test) if test is not None and test.classes else []
    if queries and not _same_images(train, test):
        if test.classes != train.classes:
            odd = ", ".join(sorted(set(test.classes) ^ set(train.classes))[:3])
            raise ValueError(
                f"test source {test.name!r} has other classes than {train.name!r} ({odd} in only one of them); "
                "give both the same class folders"
            )
        return (train, rows), (test, queries)
    if len(rows) < 2:
        raise ValueError(f"data.source={train.name!r} has {len(rows)} images with a label; k-NN needs 2 or more")
    held = [rows[i] for i in subset(len(rows), max(1, len(rows) // HOLD_OUT))]
    return (train, sorted(set(rows) - set(held))), (train, held)


def _labelled(source: Source) -> list[int]:
    """The images that have a label; all of them where labels are known only by reading images."""
    labels = getattr(source, "labels", None)
    return list(range(len(source))) if labels is None else [i for i, label in enumerate(labels) if label >= 0]


def _same_images(one: Source, other: Source) -> bool:
    return len(one) == len(other) and all(one.path(i) == other.path(i) for i in range(len(one)))


def subset(length: int, limit: int | None) -> list[int]:
    """At most `limit` indices of `range(length)`, rising; None or 0 means all.

    They are random, since every n-th image would miss classes where labels alternate, but the same ones every time; a
    larger limit adds to them.
    """
    return sorted(epoch_order(0, 0, length)[: limit or length].tolist())


def extract_features(
    model: nn.Module,
    source: Source,
    *,
    size: int | None = None,
    augment: AugmentConfig,
    batch_size: int = 256,
    blocks: int = 0,
    indices: Sequence[int] | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Features of a source's images under the evaluation transform (resize, centre crop, normalise).

    Images are decoded one batch ahead of the model, in one thread. Images that cannot be read are left out, logged, and
    listed in the result.

    Args:
        model: called on float32 [B, 3, size, size]; in eval mode meanwhile, each module's own mode is restored.
        size: side in pixels; None takes `model.image_size`.
        augment: holds the mean and standard deviation to normalise with.
        blocks: 0 for the pooled output `model(x)`; n for the average-pooled tokens of the last n blocks, concatenated.
        indices: the images to take, in this order; None takes all.
        progress: called with (images done, images in all) after every batch.

    Raises:
        ValueError: the source is empty, or none of its images can be read.
    """
    size = int(model.image_size if size is None else size)
    indices = list(range(len(source))) if indices is None else [int(i) for i in indices]
    if not indices:
        raise ValueError(f"source={source.name!r} gives no images to take features of; pass a source that has some")
    model.to(device)
    batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    rows: list[Tensor] = []
    labels: list[int] = []
    kept: list[int] = []
    failures: list[tuple[int, str, str]] = []
    with evaluating(model), ThreadPoolExecutor(max_workers=1) as decoder:
        coming = decoder.submit(_load, source, batches[0], size)
        for number in range(len(batches)):
            batch = coming.result()
            if number + 1 < len(batches):
                coming = decoder.submit(_load, source, batches[number + 1], size)
            if batch.images:
                x = normalize(torch.stack(batch.images).to(device), augment)
                rows.append(_forward(model, x, blocks).float().cpu())
            labels += batch.labels
            kept += batch.indices
            failures += batch.failures
            if progress:
                progress(len(kept) + len(failures), len(indices))
    if not rows:
        raise ValueError(
            f"source={source.name!r}: none of its {len(indices)} images can be read, the first one "
            f"({failures[0][1]}) because of: {failures[0][2]}; check that the files are whole"
        )
    # tensors made under inference_mode cannot enter autograd; clones made outside can
    return Features(torch.cat(rows).clone(), torch.tensor(labels), torch.tensor(kept), tuple(failures))


def _forward(model: nn.Module, x: Tensor, blocks: int) -> Tensor:
    return torch.cat(model.forward_last_blocks(x, blocks), dim=1) if blocks else model(x)


def _load(source: Source, indices: Sequence[int], size: int) -> _Loaded:
    loaded = _Loaded([], [], [], [])
    for index in indices:
        try:
            image = source.image(index)
        except CorruptImage as error:
            log.warning("image %d (%s) is left out: %s", index, error.path, error.why)
            loaded.failures.append((index, str(error.path), str(error.why)))
            continue
        loaded.images.append(torch.as_tensor(eval_image(image, size)))
        loaded.labels.append(source.label(index))
        loaded.indices.append(index)
    return loaded
