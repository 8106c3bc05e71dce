"""Multi-crop: random boxes of the decoded image, resized as uint8."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import interpolate

from ...config import CropConfig
from ...ops.crop_resize import available, crop_resize
from .draws import ATTEMPTS

RATIO = (3 / 4, 4 / 3)
"""Range of a crop's width over height."""
_LONGEST = 16
"""Short sides that a long side has at least where it is cut before it is resized."""


def view_groups(sizes: Sequence[int]) -> list[tuple[int, list[int]]]:
    """The views of each resolution: (side in px, view numbers), in the order in which the sides first occur."""
    groups: dict[int, list[int]] = {}
    for view, size in enumerate(sizes):
        groups.setdefault(size, []).append(view)
    return list(groups.items())


def crop_boxes(height: int, width: int, scale: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Random resized crops of one image: int64 [V, 4] of (top, left, height, width) in pixels.

    A box's area is uniform in scale, as a share of the image's, and its aspect ratio log-uniform in 3/4 to 4/3; the
    first of 10 attempts that fits is taken, else the largest central box of a permitted ratio. Same distribution as
    torchvision's RandomResizedCrop (Szegedy et al., 1409.4842).

    Args:
        scale: float64 [V, 2], least and largest share of each view.
        draws: float64 [V, 22] in [0, 1): 10 areas, 10 ratios, top, left.
    """
    low, high = scale[:, :1], scale[:, 1:]
    area = height * width * (low + (high - low) * draws[:, :ATTEMPTS])  # [V, 10]
    log_low, log_high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = np.exp(log_low + (log_high - log_low) * draws[:, ATTEMPTS : 2 * ATTEMPTS])
    w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = (np.arange(len(draws)), fits.argmax(axis=1))
    w, h = w[first], h[first]
    top = np.floor(draws[:, -2] * (height - h + 1))
    left = np.floor(draws[:, -1] * (width - w + 1))
    boxes = np.stack([top, left, h, w], axis=1).astype(np.int64)
    boxes[~fits[first]] = central_box(height, width)
    return boxes


def central_box(height: int, width: int) -> tuple[int, int, int, int]:
    """The largest central box (top, left, height, width) whose aspect ratio lies within 3/4 and 4/3."""
    h = min(height, max(1, round(width / RATIO[0])))
    w = min(width, max(1, round(height * RATIO[1])))
    return (height - h) // 2, (width - w) // 2, h, w


class MultiCrop:
    """Cut and resize all views of an image."""

    def __init__(self, config: CropConfig):
        self.sizes = config.sizes
        self.groups = view_groups(config.sizes)
        self.scale = np.array([config.global_scale] * 2 + [config.local_scale] * (len(config.sizes) - 2))

    def __call__(self, image: np.ndarray, draws: np.ndarray) -> list[torch.Tensor]:
        """Crops of one image, one uint8 tensor [V_r, 3, S, S] per resolution.

        Args:
            image: uint8 [H, W, 3].
            draws: float64 [V, 22] in [0, 1).
        """
        return (self._by_kernel if available() else self._by_torch)(image, self.boxes(*image.shape[:2], draws))

    def boxes(self, height: int, width: int, draws: np.ndarray) -> np.ndarray:
        """Where the views of an image lie in it: int64 [V, 4] of (top, left, height, width)."""
        return crop_boxes(height, width, self.scale, draws)

    def _by_kernel(self, image: np.ndarray, boxes: np.ndarray) -> list[torch.Tensor]:
        order = [view for _, views in self.groups for view in views]
        sized = np.concatenate([boxes, np.array(self.sizes)[:, None]], axis=1)[order]
        (top, left), (bottom, right) = boxes[:, :2].min(0), (boxes[:, :2] + boxes[:, 2:]).max(0)
        sized[:, :2] -= top, left
        part = image[top:bottom, left:right]  # of an image of one row, the kernel would hold 128
        pixels = crop_resize(_to_tensor(part)[0].permute(1, 2, 0), torch.from_numpy(sized))
        parts = pixels.split([3 * size * size * len(views) for size, views in self.groups])
        shapes = [(len(views), 3, size, size) for size, views in self.groups]
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def _by_torch(self, image: np.ndarray, boxes: np.ndarray) -> list[torch.Tensor]:
        pixels, crops = _to_tensor(image), []
        for size, views in self.groups:
            group = torch.empty(len(views), 3, size, size, dtype=torch.uint8)
            for slot, view in zip(group, views, strict=True):
                top, left, height, width = boxes[view].tolist()
                slot.copy_(resize(pixels[:, :, top : top + height, left : left + width], size, size)[0])
            crops.append(group)
        return crops


def resize(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize uint8 [B, 3, H, W] by antialiased bicubic interpolation in fixed point; within 2 levels of Pillow's."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    return interpolate(pixels, size=(height, width), mode="bicubic", antialias=True, align_corners=False)


def eval_image(image: np.ndarray, size: int) -> torch.Tensor:
    """The evaluation view of uint8 [H, W, 3], uint8 [3, size, size].

    The short side is resized to size * 256 / 224 and the centre cut out; images whose short side is at most `size` are
    resized to `size` directly, so that small images lose no border. Of long images, what is far from the centre is cut
    off first, by whole short sides: those become whole pixels, and the view stays where it is.
    """
    side = min(image.shape[:2])
    top, left = (max(0, length // side - _LONGEST) // 2 * side for length in image.shape[:2])
    image = image[top : image.shape[0] - top, left : image.shape[1] - left]
    short = size if side <= size else round(size * 256 / 224)
    h, w = (short * length // side for length in image.shape[:2])
    pixels = resize(_to_tensor(image), h, w)[0]
    top, left = (h - size) // 2, (w - size) // 2
    return pixels[:, top : top + size, left : left + size].contiguous()


def eval_transform(size: int) -> str:
    """What `eval_image` does, for people."""
    return f"short side to {round(size * 256 / 224)} px, central {size} x {size} px; images of at most {size} px: whole"


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    """[H, W, 3] as [1, 3, H, W], channels last in memory: the layout of the fastest resize."""
    writable = image if image.flags.writeable else image.copy()
    return torch.from_numpy(writable).permute(2, 0, 1).unsqueeze(0)
