"""The operator `esvit_fast::multicrop_augment`: crops to the views that networks see, with parameters per sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ... import reference
from .._core.library import define, implement
from .._core.plan import choose, register_rule
from . import cpu, triton

COLUMNS = ("flip", "order", "brightness", "contrast", "saturation", "hue", "grey", "sigma", "solarize")
"""What each column of parameters is."""
_NEUTRAL = dict(zip(COLUMNS, (0, -1, 1, 1, 1, 0, 0, 0, 0), strict=True))


def augment_parameters(count: int, **columns: Tensor | float | Sequence[float]) -> Tensor:
    """Parameters of `multicrop_augment` for `count` samples, float32 [count, 9]; what is not given changes nothing.

    Each is a number or [count], and all are on the device of the first that is a tensor.

    Args:
        flip: 1 (or True) to exchange left and right.
        order: of the jitter, 0 to 23: the permutations of (brightness, contrast, saturation, hue) as
            `itertools.permutations` lists them; -1 for no jitter, whatever its amounts.
        brightness, contrast, saturation: factors; 1 changes nothing.
        hue: shift in turns; 0 changes nothing.
        grey: 1 for luminance in all three channels.
        sigma: standard deviation of the blur in px; 0 for none.
        solarize: 1 to invert what is at least 128/255.

    Raises:
        TypeError: a column does not exist.
        ValueError: a column has another number of samples.
    """
    if unknown := columns.keys() - _NEUTRAL.keys():
        raise TypeError(f"{min(unknown)} is no parameter; they are {', '.join(COLUMNS)}")
    device = next((column.device for column in columns.values() if isinstance(column, Tensor)), None)
    made = []
    for name, neutral in _NEUTRAL.items():
        column = torch.as_tensor(columns.get(name, neutral), dtype=torch.float32, device=device)
        if column.shape not in ((), (count,)):
            raise ValueError(f"{name} has shape {tuple(column.shape)}; it must be a number or [{count}]")
        made.append(column.expand(count))
    return torch.stack(made, 1)


def multicrop_augment(
    images: Tensor,
    parameters: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    blur_radius: int,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
) -> Tensor:
    """The augmentation of DINO (Caron et al., 2104.14294), after cropping and resizing, and normalisation.

    Per sample: flip; jitter of brightness, contrast, saturation and hue in its order; grey; Gaussian blur;
    solarisation; normalisation; cast.

    Args:
        images: uint8 [N, 3, H, W], RGB.
        parameters: float32 [N, 9], as `augment_parameters` makes them; on the images' device or on the CPU, where
            their values are checked, and where the oracle need not wait for the device to read them.
        mean, std: three numbers each, of colours in [0, 1].
        blur_radius: taps of the blur to each side, 2 * blur_radius + 1 in all; borders are repeated.
        dtype: of the result.
        backend: one of cuda, triton, cpu, chunked, reference; None: the first that can run.

    Returns:
        [N, 3, H, W] of `dtype`; not differentiable.

    Numerics:
        Computed in float32 (float64 for float64 results), clamped to [0, 1] after every operation of the jitter, as
        torchvision does with float images, and rounded once, to `dtype`. A sample's result depends on nothing but its
        image and its row, bit for bit, but for the oracle's.

    Raises:
        ValueError: shapes or values do not fit.
        TypeError: dtype or device do not fit.
        BackendError: the backend asked for cannot run; with the reasons.
    """
    _check(images, parameters, mean, std, blur_radius, dtype)
    chosen = choose("multicrop_augment", {"images": images, "parameters": parameters}, {"dtype": dtype}, backend)
    settings = [float(v) for v in mean], [float(v) for v in std], blur_radius, dtype
    return torch.ops.esvit_fast.multicrop_augment(images, parameters.detach(), *settings, chosen)


def _check(images, parameters, mean, std, blur_radius, dtype) -> None:
    if images.dtype != torch.uint8:
        raise TypeError(f"images has dtype {images.dtype}; it must be torch.uint8")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(f"images has shape {tuple(images.shape)}; it must be [N, 3, H, W]")
    if parameters.dtype != torch.float32:
        raise TypeError(f"parameters has dtype {parameters.dtype}; it must be torch.float32")
    if parameters.shape != (len(images), len(COLUMNS)):
        raise ValueError(
            f"parameters has shape {tuple(parameters.shape)}; for {len(images)} images it must be "
            f"[{len(images)}, {len(COLUMNS)}], as augment_parameters makes them"
        )
    if parameters.device.type != "cpu" and parameters.device != images.device:
        raise TypeError(f"parameters is on {parameters.device} but images is on {images.device}; move it there")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not all(map(math.isfinite, values)):
            raise ValueError(f"{name}={tuple(values)} must be three finite numbers")
    if not all(value > 0 for value in std):
        raise ValueError(f"std={tuple(std)} must be greater than 0")
    if blur_radius < 0:
        raise ValueError(f"blur_radius={blur_radius} must not be negative")
    if not dtype.is_floating_point:
        raise TypeError(f"dtype={dtype} must be a floating-point dtype")


def _checked(implementation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Look at the values before they choose what is done, where that needs no wait for a device."""

    def run(images: Tensor, parameters: Tensor, *settings) -> Tensor:
        if parameters.device.type == "cpu":
            _check_values(parameters)
        return implementation(images, parameters, *settings)

    return run


def _check_values(parameters: Tensor) -> None:
    order, sigma = parameters[:, COLUMNS.index("order")], parameters[:, COLUMNS.index("sigma")]
    for name, column, fits, remedy in (
        ("order", order, (order >= -1) & (order <= 23) & (order == order.round()), "a whole number from -1 to 23"),
        ("sigma", sigma, sigma >= 0, "0 or greater"),
    ):
        if not fits.all():
            row = int(fits.logical_not().nonzero()[0])
            raise ValueError(f"parameters[{row}] has {name}={column[row].item():g}; it must be {remedy}")
    if not parameters.isfinite().all():
        row, column = parameters.isfinite().logical_not().nonzero()[0].tolist()
        raise ValueError(f"parameters[{row}] has {COLUMNS[column]}={parameters[row, column].item()}; it must be finite")


def _fake(images, parameters, mean, std, blur_radius, dtype, backend):
    return images.new_empty(images.shape, dtype=dtype)


define(
    "multicrop_augment",
    "(Tensor images, Tensor parameters, float[] mean, float[] std, int blur_radius, ScalarType dtype, str backend)"
    " -> Tensor",
    _fake,
)
implement("multicrop_augment", "reference", _checked(reference.multicrop_augment))
implement("multicrop_augment", "cpu", _checked(cpu.forward))
implement("multicrop_augment", "triton", _checked(triton.forward))
register_rule("multicrop_augment", "triton", triton.refuse)
register_rule("multicrop_augment", "cpu", cpu.refuse)
register_rule("multicrop_augment", "reference", lambda facts: None)
