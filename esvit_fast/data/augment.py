"""The augmentation of DINO (Caron et al., 2104.14294), batched on the device, with parameters per sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from ..config import AugmentConfig
from .draws import BLUR, BRIGHTNESS, CONTRAST, FLIP, GRAYSCALE, HUE, JITTER, ORDER, SATURATION, SIGMA, SOLARIZE
from .multicrop import view_groups

if TYPE_CHECKING:
    from .loader import Batch

Operation = Callable[..., torch.Tensor]

_ORDERS = torch.tensor(list(itertools.permutations(range(4))))  # [24, 4]
_CHUNK = 1 << 24  # values augmented at a time: bounds temporary memory


class Augmenter:
    """Turn the crops of a batch into the views that the networks see.

    Per sample: flip; jitter of brightness, contrast, saturation and hue in one of 24 orders; grey; Gaussian blur;
    solarisation; normalisation. Colours are float32 in [0, 1], clamped after every operation, as torchvision does for
    float images. Every parameter is a function of the batch's draws; nothing else is random. Autocast is off inside.
    """

    def __init__(self, config: AugmentConfig, sizes: Sequence[int]):
        self.config = config
        self.groups = view_groups(sizes)
        self.views = len(sizes)

    def __call__(self, batch: Batch, device: torch.device | str) -> list[torch.Tensor]:
        """Augmented views of a batch, float32 [B, 3, S, S] each, in view order (0 and 1 are the global ones)."""
        views: list[torch.Tensor] = [None] * self.views  # type: ignore[list-item]
        for crops, (_, numbers) in zip(batch.crops, self.groups, strict=True):
            kinds = torch.tensor(numbers).clamp(max=2).repeat_interleave(crops.shape[1])
            out = self.augment(crops.flatten(0, 1), batch.draws[numbers].flatten(0, 1), kinds, device)
            for number, view in zip(numbers, out.unflatten(0, crops.shape[:2]), strict=True):
                views[number] = view
        return views

    def augment(self, images: torch.Tensor, draws: torch.Tensor, kinds: torch.Tensor, device: torch.device | str):
        """Augment and normalise uint8 [N, 3, S, S]; float32 [N, 3, S, S] on the device.

        Args:
            draws: float32 [N, 11] uniforms on the CPU.
            kinds: int64 [N] on the CPU: 0 first global, 1 second global, 2 local.
        """
        images = images.to(device, non_blocking=True)
        out = torch.empty(images.shape, dtype=torch.float32, device=device)
        step = max(1, _CHUNK // images[0].numel())
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            for part in (slice(start, start + step) for start in range(0, len(images), step)):
                x = images[part].float().div_(255)
                self._transform(x, draws[part], kinds[part])
                out[part] = normalize_(x, self.config)
        return out

    def _transform(self, x: torch.Tensor, draws: torch.Tensor, kinds: torch.Tensor) -> None:
        c = self.config
        _apply(x, draws[:, FLIP] < c.flip, lambda part: part.flip(-1))
        self._jitter(x, draws)
        _apply(x, draws[:, GRAYSCALE] < c.grayscale, lambda part: luminance(part).expand_as(part))
        low, high = c.blur_sigma
        sigma, radius = low + (high - low) * draws[:, SIGMA], math.ceil(3 * high)
        _apply(x, draws[:, BLUR] < torch.tensor(c.blur)[kinds], lambda part, s: gaussian_blur(part, s, radius), sigma)
        _apply(x, draws[:, SOLARIZE] < torch.tensor(c.solarize)[kinds], solarize)

    def _jitter(self, x: torch.Tensor, draws: torch.Tensor) -> None:
        c = self.config
        chosen = draws[:, JITTER] < c.jitter
        order = _ORDERS[(draws[:, ORDER] * 24).long()]  # [N, 4]
        operations: list[tuple[Operation, torch.Tensor]] = [
            (adjust_brightness, _factor(draws[:, BRIGHTNESS], c.brightness)),
            (adjust_contrast, _factor(draws[:, CONTRAST], c.contrast)),
            (adjust_saturation, _factor(draws[:, SATURATION], c.saturation)),
            (adjust_hue, (2 * draws[:, HUE] - 1) * c.hue),
        ]
        active = [c.brightness > 0, c.contrast > 0, c.saturation > 0, c.hue > 0]
        for position, number in itertools.product(range(4), range(4)):
            if active[number]:
                function, amount = operations[number]
                _apply(x, chosen & (order[:, position] == number), function, amount)


def normalize(images: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """Normalise uint8 [B, 3, S, S] to float32 with the mean and standard deviation of the configuration."""
    return normalize_(images.float().div_(255), config)


def normalize_(x: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """Normalise float32 [B, 3, S, S] in [0, 1] in place."""
    mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (config.mean, config.std))
    return x.sub_(mean).div_(std)


def luminance(x: torch.Tensor) -> torch.Tensor:
    """Grey value of RGB [N, 3, H, W], [N, 1, H, W] (ITU-R 601-2)."""
    red, green, blue = x.unbind(1)
    return (red * 0.2989 + green * 0.587 + blue * 0.114).unsqueeze(1)


def adjust_brightness(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Scale [N, 3, H, W] by factors [N], clamped to [0, 1]."""
    return (x * _per_image(factor)).clamp_(0, 1)


def adjust_contrast(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend [N, 3, H, W] with its mean grey value, factor [N] being the image's share."""
    return _blend(x, luminance(x).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend [N, 3, H, W] with its grey version, factor [N] being the image's share."""
    return _blend(x, luminance(x), factor)


def adjust_hue(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Turn the hue of RGB [N, 3, H, W] in [0, 1] by shift [N], in turns, at constant HSV value and saturation."""
    red, green, blue = x.unbind(1)
    value = x.amax(1)
    chroma = value - x.amin(1)
    inverse = torch.where(chroma == 0, 0, 1 / chroma)
    hue = torch.where(
        value == red,
        (green - blue) * inverse,
        torch.where(value == green, (blue - red) * inverse + 2, (red - green) * inverse + 4),
    )
    hue = hue + 6 * shift.view(-1, 1, 1)  # in sixths of a turn
    k = (hue.unsqueeze(1) + torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)).remainder_(6)
    k = torch.minimum(k, 4 - k).clamp_(0, 1)
    return torch.addcmul(value.unsqueeze(1), k, chroma.unsqueeze(1), value=-1).clamp_(0, 1)


def gaussian_blur(x: torch.Tensor, sigma: torch.Tensor, radius: int) -> torch.Tensor:
    """Blur [N, 3, S, S] by Gaussians of standard deviation sigma [N] in px; borders are repeated.

    The kernel has 2 * radius + 1 taps and sums to one. It is a product with two banded [S, S] matrices per image: the
    fastest form on CPUs and GPUs for kernels that differ per sample.
    """
    size = x.shape[-1]
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    taps = torch.softmax(-0.5 * (offsets / sigma[:, None]) ** 2, dim=1)  # [N, K]
    position = torch.arange(size, device=x.device)
    source = (position + offsets[:, None]).clamp_(0, size - 1)  # [K, S]
    spread = (source[:, :, None] == position).to(x.dtype)  # [K, S, S]
    matrix = (taps @ spread.flatten(1)).unflatten(1, (1, size, size))  # [N, 1, S, S]
    return matrix @ x @ matrix.mT


def solarize(x: torch.Tensor) -> torch.Tensor:
    """Invert the values of [N, 3, H, W] that are at least 128/255."""
    return torch.where(x >= 128 / 255, 1 - x, x)


def _apply(x: torch.Tensor, chosen: torch.Tensor, function: Operation, *amounts: torch.Tensor) -> None:
    rows = chosen.nonzero().squeeze(1)  # on the CPU: no wait for the device
    if rows.numel():
        on_device = rows.to(x.device, non_blocking=True)
        values = function(x[on_device], *(amount[rows].to(x.device, non_blocking=True) for amount in amounts))
        x.index_copy_(0, on_device, values.contiguous())


def _factor(draw: torch.Tensor, strength: float) -> torch.Tensor:
    low, high = max(0.0, 1 - strength), 1 + strength
    return low + (high - low) * draw


def _blend(x: torch.Tensor, other: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    share = _per_image(factor)
    return (x * share).add_(other * (1 - share)).clamp_(0, 1)


def _per_image(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1)
