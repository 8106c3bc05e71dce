"""Do the same places of two views of one image have the same features? (EsViT, arXiv 2106.09785, section 4.4.)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config import AugmentConfig
from ...data import CorruptImage, Source, eval_image, normalize
from ...data.views.augment import sampled_parameters
from ...data.views.draws import AUGMENT, CROP, FLIP, uniforms
from ...data.views.multicrop import crop_boxes, resize
from ...errors import UserError
from ...ops import multicrop_augment
from ..features import evaluating, log
from ..targets import subset

Views = Literal["published", "crops"]
"""Which two views of an image are compared.

published: the image, and the image mirrored, gray, and in four of five cases with its colors jittered before, as the
published code measures it. crops: two crops, the second mirrored in half of the cases, colors as they are: easier for
features of color alone, which an untrained network has.
"""
TOP = 10
"""Pairs of an image that the published accuracy counts: those with the largest similarity."""
_RECOLOR = AugmentConfig(flip=1.0, grayscale=1.0, blur=(0.0, 0.0, 0.0), solarize=(0.0, 0.0, 0.0))

Box = tuple[float, float, float, float]
"""(top, left, height, width) of a crop, in pixels of the image."""


class Correspondence(NamedTuple):
    """The regions of view A, row by row, and where view B has their most similar ones."""

    grid_a: tuple[int, int]
    grid_b: tuple[int, int]
    match: Tensor
    """int64 [Na]: the region of B with the largest cosine similarity; the first of equal ones."""
    similarity: Tensor
    """float32 [Na]."""
    truth: Tensor
    """int64 [Na]: the region of B that holds the centre of this region of A; -1 where it lies outside B."""

    @property
    def distance(self) -> Tensor:
        """float32 [Na]: from the matched to the true region, in regions of B; NaN without truth."""
        width = self.grid_b[1]
        rows = self.match // width - self.truth // width
        columns = self.match % width - self.truth % width
        return torch.hypot(rows.float(), columns.float()).masked_fill(self.truth < 0, float("nan"))


class CorrespondenceAccuracy(NamedTuple):
    """Correspondence over many pairs of views, counting regions that both views show."""

    top10: float
    """Percent matched to the true region among the ten most similar pairs of each image, averaged over images: the
    published number."""
    exact: float
    """Percent of the regions matched to the true region."""
    near: float
    """Percent matched at most one region away, diagonals included."""
    distance: float
    """Mean distance in regions, of all regions that both views show; the published mean is of the pairs of `top10`."""
    chance: float
    """Percent of exact matches that choosing at random would give."""
    regions: int
    images: int


class Pair(NamedTuple):
    """Two views of one image."""

    view_a: Tensor
    """uint8 [3, S, S]."""
    view_b: Tensor
    box_a: Box
    box_b: Box
    flip_b: bool


def correspondence(
    model: nn.Module,
    view_a: Tensor,
    view_b: Tensor,
    box_a: Box,
    box_b: Box,
    flip_a: bool = False,
    flip_b: bool = False,
) -> Correspondence:
    """Match every region of one view to the most similar region of another by cosine similarity.

    Args:
        model: has `forward_regions`; used in eval mode.
        view_a, view_b: normalised float32 [3, H, W], on the model's device; the sides may differ.
        box_a, box_b: the part of the image that each shows.
        flip_a, flip_b: whether it was mirrored, left to right, after cropping.

    Raises:
        UserError: the model's regions form no grid of the view's aspect ratio.
    """
    with evaluating(model):
        (a, grid_a), (b, grid_b) = (region_grid(model, view) for view in (view_a, view_b))
        similarity, match = (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).max(dim=1)
    truth = true_regions(grid_a, grid_b, box_a, box_b, flip_a, flip_b)
    return Correspondence(grid_a, grid_b, match.cpu().clone(), similarity.cpu().clone(), truth)


def region_grid(model: nn.Module, view: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Region features float32 [N, C] of one view [3, H, W], and the (rows, columns) that they form."""
    regions = model.forward_regions(view[None])[1][0].float()
    count, (height, width) = len(regions), view.shape[1:]
    rows = max(1, round((count * height / width) ** 0.5))
    if count % rows:
        raise UserError(
            f"view of {height} x {width} pixels gives {count} regions, which form no grid; pass a square view"
        )
    return regions, (rows, count // rows)


def true_regions(
    grid_a: tuple[int, int], grid_b: tuple[int, int], box_a: Box, box_b: Box, flip_a: bool = False, flip_b: bool = False
) -> Tensor:
    """The region of view B that holds the centre of each region of view A; int64 [Na], -1 outside B."""
    (rows_a, columns_a), (rows_b, columns_b) = grid_a, grid_b
    u = (torch.arange(columns_a, dtype=torch.float64) + 0.5) / columns_a
    v = (torch.arange(rows_a, dtype=torch.float64) + 0.5) / rows_a
    x = box_a[1] + (1 - u if flip_a else u) * box_a[3]
    y = box_a[0] + v * box_a[2]
    u, v = (x - box_b[1]) / box_b[3], (y - box_b[0]) / box_b[2]
    u = 1 - u if flip_b else u
    column, row = (u * columns_b).floor().long(), (v * rows_b).floor().long()
    inside = ((v >= 0) & (v < 1))[:, None] & ((u >= 0) & (u < 1))[None]
    return (row[:, None] * columns_b + column[None]).masked_fill(~inside, -1).flatten()


def crop_pair(image: np.ndarray, size: int, seed: int, index: int) -> Pair:
    """Two crops of 40 to 80 % of an image, the second one mirrored half of the time; (seed, index) decides them.

    Args:
        image: uint8 [H, W, 3].
        size: side of the views in pixels.
    """
    draws = uniforms(seed, 0, index, 2)
    boxes = crop_boxes(*image.shape[:2], np.array([[0.4, 0.8]] * 2), draws[:, CROP]).tolist()
    flip_b = bool(draws[1, AUGMENT][FLIP] < 0.5)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    a, b = (resize(pixels[:, :, t : t + h, x : x + w], size, size)[0] for t, x, h, w in boxes)
    return Pair(a, b.flip(-1) if flip_b else b, tuple(boxes[0]), tuple(boxes[1]), flip_b)


def published_pair(image: np.ndarray, size: int, seed: int, index: int) -> Pair:
    """An image under the evaluation transform, and the same mirrored, jittered and gray; (seed, index) decides how.

    The jitter is that of DINO, four times of five, as in the published measurement; gray comes after it.

    Args:
        image: uint8 [H, W, 3].
        size: side of the views in pixels.
    """
    view, box = eval_image(image, size), (0, 0, size, size)
    draws = torch.from_numpy(uniforms(seed, 0, index, 2)[1:, AUGMENT]).float()
    parameters = sampled_parameters(_RECOLOR, draws, torch.zeros(1, dtype=torch.int64))
    other = multicrop_augment(view[None], parameters, mean=(0, 0, 0), std=(1, 1, 1), blur_radius=0)
    return Pair(view, (255 * other[0]).round().byte(), box, box, True)


PAIRS: dict[Views, Callable[[np.ndarray, int, int, int], Pair]] = {"published": published_pair, "crops": crop_pair}


def correspondence_accuracy(
    model: nn.Module,
    source: Source,
    *,
    augment: AugmentConfig,
    views: Views = "published",
    size: int | None = None,
    images: int | None = 256,
    indices: Sequence[int] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> CorrespondenceAccuracy:
    """How often regions find themselves in another view: over the same pairs of views, whichever model is asked.

    Args:
        augment: holds the mean and standard deviation to normalise with.
        size: side of the views in pixels; None takes `model.image_size`.
        images: how many, the same random ones every time; None takes all. `indices` names them instead.
        seed: with the image's index it decides the pair of crops.
        progress: called with (images done, images in all).

    Raises:
        ValueError: views names none.
        UserError: no image can be read, or no region is seen by both views of a pair.
    """
    if views not in PAIRS:
        raise ValueError(f"views={views!r} must be one of {', '.join(PAIRS)}")
    size = int(model.image_size if size is None else size)
    indices = subset(len(source), images) if indices is None else list(indices)
    model.to(device)
    distances, reach, chances, best, seen = [], [], [], [], 0
    for done, index in enumerate(indices, start=1):
        try:
            image = source.image(index)
        except CorruptImage as error:
            log.warning("image %d (%s) is left out: %s", index, error.path, error.why)
        else:
            found = match_pair(model, PAIRS[views](image, size, seed, index), augment, device)
            both = found.truth >= 0
            distances.append(found.distance[both])
            reach.append(chebyshev(found)[both])
            if both.any():
                first = found.similarity[both].argsort(descending=True, stable=True)[:TOP]
                best.append((reach[-1][first] == 0).double().mean())
            chances.append(torch.full((int(both.sum()),), 1 / (found.grid_b[0] * found.grid_b[1])))
            seen += 1
        if progress:
            progress(done, len(indices))
    distance, steps = torch.cat(distances or [torch.empty(0)]), torch.cat(reach or [torch.empty(0)])
    if len(distance) == 0:
        raise UserError(
            f"source={source.name!r}: none of {len(indices)} images gives two views that share a region; "
            "pass more images"
        )
    exact, near, chance = (100 * share.double().mean().item() for share in (steps == 0, steps <= 1, torch.cat(chances)))
    top10 = 100 * torch.stack(best).mean().item()
    return CorrespondenceAccuracy(top10, exact, near, distance.double().mean().item(), chance, len(distance), seen)


def match_pair(model: nn.Module, pair: Pair, augment: AugmentConfig, device: str | torch.device) -> Correspondence:
    """The correspondence of a pair of uint8 views."""
    view_a, view_b = normalize(torch.stack([pair.view_a, pair.view_b]).to(device), augment)
    return correspondence(model, view_a, view_b, pair.box_a, pair.box_b, flip_b=pair.flip_b)


def chebyshev(found: Correspondence) -> Tensor:
    """int64 [Na]: steps of a chess king from the matched to the true region; meaningless without truth."""
    width = found.grid_b[1]
    rows, columns = found.match // width - found.truth // width, found.match % width - found.truth % width
    return torch.maximum(rows.abs(), columns.abs())
