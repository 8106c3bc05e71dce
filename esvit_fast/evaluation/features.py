"""Frozen features of an image source: what k-NN, the linear probe and the feature health are computed from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..config import AugmentConfig
from ..data import CorruptImage, Source, eval_image, normalize
from ..errors import UserError

log = logging.getLogger(__name__)

_DEFAULTS = AugmentConfig()


class Features(NamedTuple):
    """Features of N images, on the CPU; images that could not be read have no row."""

    features: Tensor
    """float32 [N, C]."""
    labels: Tensor
    """int64 [N]; -1 where the source has no classes. Targets of another kind, one for each image."""
    indices: Tensor | None = None
    """int64 [N]: the image's index in its source."""
    failures: tuple[tuple[int, str, str], ...] = ()
    """(index, path, why) of every image that could not be read."""


class _Loaded(NamedTuple):
    images: list[Tensor]
    labels: list[Any]
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


def extract_features(
    model: nn.Module,
    source: Source,
    *,
    size: int | None = None,
    augment: AugmentConfig = _DEFAULTS,
    batch_size: int = 256,
    blocks: int = 0,
    indices: Sequence[int] | None = None,
    target: Callable[[Source, int], Any] | None = None,
    device: str | torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Features of a source's images under the evaluation transform (resize, centre crop, normalise).

    Images are decoded one batch ahead of the model, in one thread. Images that cannot be read are left out, logged, and
    listed in the result.

    Args:
        model: called on float32 [B, 3, size, size], gives [B, C]; in eval mode meanwhile, each module's own mode is
            restored. With blocks, its `forward_last_blocks` is called instead.
        source: images and labels by number; of a `Source` only `__len__`, `image` and `label` are needed.
        size: side in pixels; None takes `model.image_size`, which models of other libraries do not have.
        augment: holds the mean and standard deviation to normalise with; by default ImageNet's.
        blocks: 0 for the pooled output `model(x)`; n for the average-pooled tokens of the last n blocks, concatenated.
        indices: the images to take, in this order; None takes all.
        target: what is kept as the label of an image, a number or an array; None: its class.
        device: where the model is moved to and run; None leaves it where it is.
        progress: called with (images done, images in all) after every batch.

    Raises:
        UserError: the source is empty, none of its images can be read, or the model has no size, no
            `forward_last_blocks` for blocks, or gives no vectors.
    """
    name = type(model).__name__
    if size is None and not isinstance(getattr(model, "image_size", None), int):
        raise UserError(f"size=None needs a model with an image_size, which {name} has not; pass one, such as 224")
    if blocks and not hasattr(model, "forward_last_blocks"):
        raise UserError(f"blocks={blocks} needs a model with forward_last_blocks, which {name} has not; pass 0")
    size = int(model.image_size if size is None else size)
    indices = list(range(len(source))) if indices is None else [int(i) for i in indices]
    what = f"source={getattr(source, 'name', type(source).__name__)!r}"
    if not indices:
        raise UserError(f"{what} gives no images to take features of; pass a source that has some")
    device = next((p.device for p in model.parameters()), torch.device("cpu")) if device is None else device
    model.to(device)
    batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]
    target = target or (lambda source, index: source.label(index))
    rows: list[Tensor] = []
    labels: list[Any] = []
    kept: list[int] = []
    failures: list[tuple[int, str, str]] = []
    with evaluating(model), ThreadPoolExecutor(max_workers=1) as decoder:
        coming = decoder.submit(_load, source, batches[0], size, target)
        for number in range(len(batches)):
            batch = coming.result()
            if number + 1 < len(batches):
                coming = decoder.submit(_load, source, batches[number + 1], size, target)
            if batch.images:
                x = normalize(torch.stack(batch.images).to(device), augment)
                rows.append(_forward(model, x, blocks).float().cpu())
            labels += batch.labels
            kept += batch.indices
            failures += batch.failures
            if progress:
                progress(len(kept) + len(failures), len(indices))
    if not rows:
        raise UserError(
            f"{what}: none of its {len(indices)} images can be read, the first one "
            f"({failures[0][1]}) because of: {failures[0][2]}; check that the files are whole"
        )
    # tensors made under inference_mode cannot enter autograd; clones made outside can
    return Features(torch.cat(rows).clone(), torch.as_tensor(np.asarray(labels)), torch.tensor(kept), tuple(failures))


def _forward(model: nn.Module, x: Tensor, blocks: int) -> Tensor:
    features = torch.cat(model.forward_last_blocks(x, blocks), dim=1) if blocks else model(x)
    if not isinstance(features, Tensor) or features.ndim != 2:
        shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserError(f"model {type(model).__name__} gives {shape} instead of [B, C]; pass one that pools its map")
    return features


def _load(source: Source, indices: Sequence[int], size: int, target: Callable[[Source, int], Any]) -> _Loaded:
    loaded = _Loaded([], [], [], [])
    for index in indices:
        try:
            image = source.image(index)
        except CorruptImage as error:
            log.warning("image %d (%s) is left out: %s", index, error.path, error.why)
            loaded.failures.append((index, str(error.path), str(error.why)))
            continue
        loaded.images.append(torch.as_tensor(eval_image(image, size)))
        loaded.labels.append(target(source, index))
        loaded.indices.append(index)
    return loaded
