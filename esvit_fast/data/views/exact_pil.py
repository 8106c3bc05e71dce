"""The augmentation as published: torchvision's operations on Pillow images, one image at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import functional as tv

_ORDERS = tuple(itertools.permutations(range(4)))
Operation = Callable[[Image.Image, float], Image.Image]
_JITTER: tuple[tuple[Operation, float], ...] = (
    (tv.adjust_brightness, 1.0),
    (tv.adjust_contrast, 1.0),
    (tv.adjust_saturation, 1.0),
    (tv.adjust_hue, 0.0),
)
"""Operations, and the amount for which the published transform leaves each out."""


def exact_pil(images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """Augment uint8 [N, 3, S, S] on the CPU, by parameters as those of `ops.multicrop_augment`; uint8 [N, 3, S, S].

    Colours are rounded to 8 bits after every operation, hues are turned in 8-bit HSV, and the blur is Pillow's three
    box blurs, as in the published code of EsViT and DINO.
    """
    views = [
        _view(image.permute(1, 2, 0).numpy(), *row) for image, row in zip(images, parameters.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2) if views else images


def _view(image, flip, order, brightness, contrast, saturation, hue, grey, sigma, solarize) -> np.ndarray:
    view, amounts = Image.fromarray(image), (brightness, contrast, saturation, hue)
    if flip:
        view = ImageOps.mirror(view)
    for number in _ORDERS[int(order)] if order >= 0 else ():
        operation, neutral = _JITTER[number]
        if amounts[number] != neutral:
            view = operation(view, amounts[number])
    if grey:
        view = tv.to_grayscale(view, 3)
    if sigma > 0:
        view = view.filter(ImageFilter.GaussianBlur(sigma))
    if solarize:
        view = ImageOps.solarize(view)
    return np.asarray(view)
