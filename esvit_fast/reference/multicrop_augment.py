"""The augmentation of DINO (Caron et al., 2104.14294), with parameters per sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ORDERS = torch.tensor(list(itertools.permutations(range(4))))
"""int64 [24, 4]: the orders of brightness (0), contrast (1), saturation (2) and hue (3)."""
_CHUNK = 1 << 24  # values augmented at a time: bounds temporary memory


def multicrop_augment(
    images: Tensor,
    parameters: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    blur_radius: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Augmented and normalised images; arguments as `esvit_fast.ops.multicrop_augment`."""
    exact = torch.promote_types(dtype, torch.float32)
    out = images.new_empty(images.shape, dtype=dtype)
    step = max(1, _CHUNK // max(1, math.prod(images.shape[1:])))
    for part in (slice(start, start + step) for start in range(0, len(images), step)):
        x = images[part].to(exact).div_(255)
        _transform(x, parameters[part].to(exact), blur_radius)
        out[part] = normalize_(x, mean, std)
    return out


def _transform(x: Tensor, parameters: Tensor, blur_radius: int) -> None:
    flip, order, brightness, contrast, saturation, hue, grey, sigma, solarized = parameters.unbind(1)
    _apply(x, flip != 0, lambda part: part.flip(-1))
    jitter = (
        (adjust_brightness, brightness, brightness != 1),
        (adjust_contrast, contrast, contrast != 1),
        (adjust_saturation, saturation, saturation != 1),
        (adjust_hue, hue, hue != 0),
    )
    orders = ORDERS.to(order.device)[order.long().clamp(min=0)]  # [N, 4]
    for position, (number, (function, amount, changes)) in itertools.product(range(4), enumerate(jitter)):
        _apply(x, (order >= 0) & changes & (orders[:, position] == number), function, amount)
    _apply(x, grey != 0, lambda part: luminance(part).expand_as(part))
    _apply(x, sigma > 0, lambda part, s: gaussian_blur(part, s, blur_radius), sigma)
    _apply(x, solarized != 0, solarize)


def normalize_(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise [N, 3, H, W] in [0, 1] in place."""
    mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device).view(3, 1, 1) for v in (mean, std))
    return x.sub_(mean).div_(std)


def luminance(x: Tensor) -> Tensor:
    """Grey value of RGB [N, 3, H, W], [N, 1, H, W] (ITU-R 601-2)."""
    red, green, blue = x.unbind(1)
    return (red * 0.2989 + green * 0.587 + blue * 0.114).unsqueeze(1)


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Scale [N, 3, H, W] by factors [N], clamped to [0, 1]."""
    return (x * _per_image(factor)).clamp_(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend [N, 3, H, W] with its mean grey value, factor [N] being the image's share."""
    return _blend(x, luminance(x).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blend [N, 3, H, W] with its grey version, factor [N] being the image's share."""
    return _blend(x, luminance(x), factor)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
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


def gaussian_blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur [N, 3, H, W] by Gaussians of standard deviation sigma [N] in px; borders are repeated.

    The kernel has 2 * radius + 1 taps and sums to one. It is a product with two banded matrices per image: in plain
    torch, the fastest form on CPUs and GPUs for kernels that differ per sample.
    """
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    taps = torch.softmax(-0.5 * (offsets / sigma[:, None]) ** 2, dim=1)  # [N, K]
    height, width = x.shape[-2:]
    return _bands(taps, offsets, height) @ x @ _bands(taps, offsets, width).mT


def _bands(taps: Tensor, offsets: Tensor, size: int) -> Tensor:
    """Matrices that weigh `size` positions, [N, 1, size, size]."""
    position = torch.arange(size, device=taps.device)
    source = (position + offsets[:, None]).clamp_(0, size - 1)  # [K, size]
    spread = (source[:, :, None] == position).to(taps.dtype)  # [K, size, size]
    return (taps @ spread.flatten(1)).unflatten(1, (1, size, size))


def solarize(x: Tensor) -> Tensor:
    """Invert the values of [N, 3, H, W] that are at least 128/255."""
    return torch.where(x >= 128 / 255, 1 - x, x)


def _apply(x: Tensor, chosen: Tensor, function: Callable[..., Tensor], *amounts: Tensor) -> None:
    rows = chosen.nonzero().squeeze(1)  # where parameters are on the CPU, no wait for the device
    if rows.numel():
        on_device = rows.to(x.device, non_blocking=True)
        values = function(x[on_device], *(amount[rows].to(x.device, non_blocking=True) for amount in amounts))
        x.index_copy_(0, on_device, values.contiguous())


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    share = _per_image(factor)
    return (x * share).add_(other * (1 - share)).clamp_(0, 1)


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
