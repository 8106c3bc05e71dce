"""The augmentation of DINO (Caron et al., 2104.14294): what is drawn for each view, applied on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...config import AugmentConfig
from ...ops import augment_parameters, multicrop_augment
from ..batch import Batch
from .draws import BLUR, BRIGHTNESS, CONTRAST, FLIP, GRAYSCALE, HUE, JITTER, ORDER, SATURATION, SIGMA, SOLARIZE
from .multicrop import view_groups


class Augmenter:
    """Turn the crops of a batch into the views that the networks see.

    Per sample: flip; jitter of brightness, contrast, saturation and hue in one of 24 orders; grey; Gaussian blur;
    solarisation; normalisation, by the operator `multicrop_augment`, or by Pillow as published. Every parameter is a
    function of the batch's draws; nothing else is random.

    Args:
        sizes: side of each view in px.
        dtype: of the views: what the networks compute in, which then need not round them again.
    """

    def __init__(self, config: AugmentConfig, sizes: Sequence[int], dtype: torch.dtype = torch.float32):
        self.config, self.dtype = config, dtype
        self.groups = view_groups(sizes)
        self.views = len(sizes)

    def __call__(self, batch: Batch, device: torch.device | str) -> list[torch.Tensor]:
        """Augmented views of a batch, [B, 3, S, S] each, in view order (0 and 1 are the global ones)."""
        views: list[torch.Tensor] = [None] * self.views  # type: ignore[list-item]
        for crops, (_, numbers) in zip(batch.crops, self.groups, strict=True):
            kinds = torch.tensor(numbers).clamp(max=2).repeat_interleave(crops.shape[1])
            out = self.augment(crops.flatten(0, 1), batch.draws[numbers].flatten(0, 1), kinds, device)
            for number, view in zip(numbers, out.unflatten(0, crops.shape[:2]), strict=True):
                views[number] = view
        return views

    def augment(self, images: torch.Tensor, draws: torch.Tensor, kinds: torch.Tensor, device: torch.device | str):
        """Augment and normalise uint8 [N, 3, S, S]; [N, 3, S, S] of the dtype on the device.

        Args:
            draws: float32 [N, 11] uniforms on the CPU.
            kinds: int64 [N] on the CPU: 0 first global, 1 second global, 2 local.
        """
        parameters = sampled_parameters(self.config, draws, kinds)
        if self.config.exact_pil:
            from .exact_pil import exact_pil

            return normalize(exact_pil(images.cpu(), parameters).to(device), self.config).to(self.dtype)
        images = images.to(device, non_blocking=True)
        return multicrop_augment(images, parameters, **operator_settings(self.config), dtype=self.dtype)


def operator_settings(config: AugmentConfig) -> dict[str, Any]:
    """What `ops.multicrop_augment` is told beside the parameters of the samples."""
    return {"mean": config.mean, "std": config.std, "blur_radius": math.ceil(3 * config.blur_sigma[1])}


def sampled_parameters(config: AugmentConfig, draws: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
    """Parameters of `ops.multicrop_augment`, float32 [N, 9], from uniforms [N, 11] and kinds [N] of views."""
    low, high = config.blur_sigma
    blurred = draws[:, BLUR] < torch.tensor(config.blur)[kinds]
    return augment_parameters(
        len(draws),
        flip=draws[:, FLIP] < config.flip,
        order=torch.where(draws[:, JITTER] < config.jitter, (draws[:, ORDER] * 24).floor(), -1),
        brightness=_factor(draws[:, BRIGHTNESS], config.brightness),
        contrast=_factor(draws[:, CONTRAST], config.contrast),
        saturation=_factor(draws[:, SATURATION], config.saturation),
        hue=(2 * draws[:, HUE] - 1) * config.hue,
        grey=draws[:, GRAYSCALE] < config.grayscale,
        sigma=torch.where(blurred, low + (high - low) * draws[:, SIGMA], 0),
        solarize=draws[:, SOLARIZE] < torch.tensor(config.solarize)[kinds],
    )


def normalize(images: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """Normalise uint8 [B, 3, S, S] to float32 with the mean and standard deviation of the configuration."""
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (config.mean, config.std))
    return images.float().div_(255).sub_(mean).div_(std)


def denormalize(views: torch.Tensor, config: AugmentConfig) -> np.ndarray:
    """Normalised [B, 3, S, S] as pictures, uint8 [B, S, S, 3]."""
    mean, std = (torch.tensor(v, device=views.device).view(3, 1, 1) for v in (config.mean, config.std))
    return ((views * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _factor(draw: torch.Tensor, strength: float) -> torch.Tensor:
    low, high = max(0.0, 1 - strength), 1 + strength
    return low + (high - low) * draw
