"""The augmentation of crops: its operations against torchvision's, and every backend that runs here."""

from __future__ import annotations

import importlib
import itertools
import math

import pytest
import torch
from torch.library import opcheck
from torchvision.transforms.v2 import functional as tv

from esvit_fast import ops
from esvit_fast.ops import augment_parameters
from esvit_fast.ops.multicrop_augment.op import COLUMNS
from tests import seeds

from .harness import run_with_instruction_set, with_threads
from .problems import BACKENDS, NATIVE

# the oracle's name is that of its module
oracle = importlib.import_module("esvit_fast.reference.multicrop_augment")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images(count: int, height: int = 16, width: int | None = None, seed: int = 0) -> torch.Tensor:
    """Smooth colours and noise, uint8 [count, 3, height, width]."""
    g, width = seeds.generator(seed), width or height
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = 2 * torch.rand(count, 3, 3, 1, 1, generator=g)
    smooth = 128 + 110 * torch.sin(waves[:, :, 0] * x / 3 + waves[:, :, 1] * y / 3 + 3 * waves[:, :, 2])
    return (smooth + 20 * torch.randn(smooth.shape, generator=g)).clamp(0, 255).byte()


def sampled(count: int, seed: int = 0) -> torch.Tensor:
    """Parameters of which each is neutral now and then."""
    g = seeds.generator(1000 + seed)

    def uniform(low: float, high: float, neutral: float = 0.0) -> torch.Tensor:
        value = low + (high - low) * torch.rand(count, generator=g)
        return torch.where(torch.rand(count, generator=g) < 0.2, neutral, value)

    def coin() -> torch.Tensor:
        return torch.rand(count, generator=g) < 0.4

    return augment_parameters(
        count,
        flip=coin(),
        order=torch.randint(-1, 24, (count,), generator=g),
        brightness=uniform(0.3, 1.7, 1),
        contrast=uniform(0.3, 1.7, 1),
        saturation=uniform(0, 2, 1),
        hue=uniform(-0.5, 0.5),
        grey=coin(),
        sigma=uniform(0.1, 2),
        solarize=coin(),
    )


def augment(x: torch.Tensor, parameters: torch.Tensor, backend: str | None = None, **options) -> torch.Tensor:
    """Not normalised, unless options say how."""
    return ops.multicrop_augment(
        x, parameters, **{"mean": (0, 0, 0), "std": (1, 1, 1), "blur_radius": 6, **options}, backend=backend
    )


def assert_near_float64(x: torch.Tensor, parameters: torch.Tensor, backend: str | None, radius: int = 6) -> None:
    """To 1e-5 but where solarisation may fall on either side, and to 2/255 there."""
    found = augment(x, parameters, backend, blur_radius=radius)
    options = {"backend": "reference", "dtype": torch.float64, "blur_radius": radius}
    exact, before = (augment(x, p, **options) for p in (parameters, replaced(parameters, solarize=0)))
    either = (before - 128 / 255).abs() < 1e-6
    error = (found.double() - exact).abs()
    assert found.dtype == torch.float32 and error.max() <= 2 / 255
    assert error.masked_fill(either & (parameters[:, -1] != 0).view(-1, 1, 1, 1), 0).max() <= 1e-5


def replaced(parameters: torch.Tensor, **columns: float) -> torch.Tensor:
    """Parameters of which some columns are others."""
    kept = dict(zip(COLUMNS, parameters.unbind(1), strict=True))
    return augment_parameters(len(parameters), **{**kept, **columns})


@NATIVE
@pytest.mark.parametrize("part", range(4))
def test_cpu_finds_what_float64_finds_at_any_size(part):
    for seed in range(15 * part, 15 * part + 15):
        r = seeds.choices(seed)
        height, width = (r.choice([1, 2, 15, 16, 17, 32, r.randint(1, 70), 96]) for _ in range(2))
        radius, count = r.choice([0, 1, 2, 6, 9, 30]), r.randint(1, 12)
        parameters = sampled(count, seed)
        if r.random() < 0.3:
            parameters = replaced(parameters, sigma=r.uniform(0.05, 20), hue=r.uniform(-3, 3))
        x = images(count, height, width, seed)
        x[:, :, : height // 3] = x[:, :1, : height // 3]  # grey, where the hue is undefined
        assert_near_float64(x, parameters, "cpu", radius)


@NATIVE
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa):
    run_with_instruction_set(
        isa,
        "from tests.ops.test_multicrop_augment import *\n"
        "for size in (7, 16, 45): assert_near_float64(images(40, size), sampled(40, size), 'cpu')\n"
        "test_results_are_rounded_once('cpu'); test_the_threshold_of_solarisation_is_exact('cpu')\n"
        "test_a_flip_mirrors_and_twice_is_none('cpu'); test_neutral_parameters_normalise('cpu')",
    )


@NATIVE
def test_the_default_dtype_changes_no_bit():
    x, parameters = images(3, 16), sampled(3)
    plain = augment(x, parameters, "cpu")
    torch.set_default_dtype(torch.float64)
    try:
        found = augment(x, parameters, "cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32 and torch.equal(found, plain)


@NATIVE
def test_threads_change_no_bit():
    x, parameters = images(33, 40), sampled(33)
    first, *others = with_threads(lambda: augment(x, parameters, "cpu"), 1, 2, 3)
    assert all(torch.equal(first, other) for other in others)


@NATIVE
def test_a_cpu_runs_its_kernel_but_for_float64():
    for dtype, backend in ((torch.float32, "cpu"), (torch.bfloat16, "cpu"), (torch.float64, "reference")):
        facts = ops.Facts("cpu", torch.uint8, {"images": (64, 3, 224, 224)}, {"dtype": dtype})
        assert ops.plan("multicrop_augment", facts).backend == backend


@pytest.mark.parametrize(
    ("ours", "theirs", "amounts", "tolerance"),
    [
        (oracle.adjust_brightness, tv.adjust_brightness, (0.0, 0.6, 1.0, 1.4), 1e-6),
        (oracle.adjust_contrast, tv.adjust_contrast, (0.0, 0.6, 1.0, 1.4), 1e-6),
        (oracle.adjust_saturation, tv.adjust_saturation, (0.0, 0.8, 1.0, 1.2), 1e-6),
        (oracle.adjust_hue, tv.adjust_hue, (-0.5, -0.1, 0.0, 0.07, 0.5), 1e-5),
    ],
)
def test_each_operation_equals_torchvisions(ours, theirs, amounts, tolerance):
    x = images(len(amounts)).float() / 255
    x[:, :, :4] = x[:, :1, :4]  # grey, where the hue is undefined
    x[:, 0, 4:6], x[:, 1, 4:6] = 1.0, 1.0  # ties of the largest channel
    got = ours(x, torch.tensor(amounts))
    for image, amount, result in zip(x, amounts, got, strict=True):
        torch.testing.assert_close(result, theirs(image, amount), rtol=0, atol=tolerance)


def test_grey_and_solarise_equal_torchvisions():
    x = images(4).float() / 255
    torch.testing.assert_close(oracle.luminance(x), tv.rgb_to_grayscale(x), rtol=0, atol=1e-6)
    assert torch.equal(oracle.solarize(x), tv.solarize(x, 128 / 255))


@pytest.mark.parametrize(("height", "width"), [(5, 5), (16, 16), (3, 20)])
def test_blur_is_a_normalised_gaussian_with_repeated_borders(height, width):
    x = torch.rand(3, 3, height, width, dtype=torch.float64, generator=seeds.generator(0))
    sigma, radius = torch.tensor([0.1, 0.9, 2.0], dtype=torch.float64), 6
    got = oracle.gaussian_blur(x, sigma, radius)
    padded = torch.nn.functional.pad(x, (radius,) * 4, mode="replicate")
    for n in range(3):
        taps = torch.tensor([math.exp(-0.5 * (k / sigma[n].item()) ** 2) for k in range(-radius, radius + 1)]).double()
        kernel = torch.outer(taps, taps) / taps.sum() ** 2
        expected = torch.nn.functional.conv2d(padded[n, :, None], kernel[None, None])[:, 0]
        torch.testing.assert_close(got[n], expected, rtol=0, atol=1e-7)


@each_backend
def test_all_orders_of_the_jitter(backend):
    x, factors = images(24), (0.7, 1.3, 1.4, -0.07)
    got = augment(
        x,
        augment_parameters(24, order=torch.arange(24), brightness=0.7, contrast=1.3, saturation=1.4, hue=-0.07),
        backend,
    )
    theirs = tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue
    for n, order in enumerate(itertools.permutations(range(4))):
        expected = x[n].float() / 255
        for number in order:
            expected = theirs[number](expected, factors[number])
        torch.testing.assert_close(got[n], expected, rtol=0, atol=2e-5)


@each_backend
def test_a_sample_does_not_depend_on_its_batch(backend, monkeypatch):
    x, parameters = images(20), sampled(20)
    whole = augment(x, parameters, backend)
    monkeypatch.setattr(oracle, "_CHUNK", 3 * 16 * 16 * 3)
    close = {"rtol": 0, "atol": 1e-6 if backend == "reference" else 0}
    torch.testing.assert_close(augment(x, parameters, backend), whole, **close)
    torch.testing.assert_close(augment(x[7:8], parameters[7:8], backend)[0], whole[7], **close)
    order = torch.randperm(20, generator=seeds.generator(0))
    torch.testing.assert_close(augment(x[order], parameters[order], backend), whole[order], **close)


@each_backend
def test_neutral_parameters_normalise(backend):
    x = images(3, 9, 21)
    expected = torch.stack([tv.normalize(image / 255, list(MEAN), list(STD)) for image in x])
    for parameters in (augment_parameters(3), augment_parameters(3, order=5), augment_parameters(3, hue=0.2)):
        got = augment(x, parameters, backend, mean=MEAN, std=STD)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@each_backend
def test_a_flip_mirrors_and_twice_is_none(backend):
    for width in (1, 15, 16, 33):
        x, parameters = images(6, 7, width), sampled(6)
        straight, flipped = (replaced(parameters, flip=flip, solarize=0) for flip in (0, 1))
        plain = augment(x, straight, backend)
        # blur and means add in another order
        torch.testing.assert_close(augment(x, flipped, backend), plain.flip(-1), rtol=0, atol=2e-6)
        assert torch.equal(augment(x.flip(-1), flipped, backend), plain)


@each_backend
def test_the_threshold_of_solarisation_is_exact(backend):
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    got = augment(x, augment_parameters(1, solarize=1), backend)
    levels = (got[0, 0].flatten() * 255).round().tolist()
    assert levels == [*range(128), *range(127, -1, -1)]


@each_backend
def test_results_are_rounded_once(backend):
    x, parameters = images(5, 11, 19), sampled(5)
    exact = augment(x, parameters, backend, mean=MEAN, std=STD)
    for dtype in (torch.bfloat16, torch.float16):
        got = augment(x, parameters, backend, mean=MEAN, std=STD, dtype=dtype)
        assert got.dtype == dtype and torch.equal(got, exact.to(dtype))


@each_backend
def test_autocast_and_strides_change_nothing_and_inputs_are_left_alone(backend):
    x, parameters = images(4), sampled(4)
    before, expected = (x.clone(), parameters.clone()), augment(x, parameters, backend)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(x, parameters, backend), expected)
    strided = x.to(memory_format=torch.channels_last), parameters.T.contiguous().T
    assert torch.equal(augment(*strided, backend), expected)
    assert torch.equal(x, before[0]) and torch.equal(parameters, before[1])
    assert augment(x[:0], parameters[:0], backend).shape == (0, 3, 16, 16)


@each_backend
def test_opcheck(backend):
    settings = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4], 2
    for dtype in (torch.float32, torch.bfloat16):
        for count in (0, 3):
            call = images(count, 5, 9), sampled(count), *settings, dtype, backend
            opcheck(torch.ops.esvit_fast.multicrop_augment.default, call)


GOOD = {"images": torch.zeros(2, 3, 4, 5, dtype=torch.uint8), "parameters": augment_parameters(2)}
GOOD |= {"mean": MEAN, "std": STD, "blur_radius": 6}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"images": torch.zeros(2, 3, 4, 5)}, TypeError, "images has dtype torch.float32; it must be torch.uint8"),
        ({"images": torch.zeros(2, 1, 4, 5).byte()}, ValueError, r"\(2, 1, 4, 5\); it must be \[N, 3, H, W\]"),
        ({"images": torch.zeros(2, 3, 0, 5).byte()}, ValueError, r"\(2, 3, 0, 5\); it must be \[N, 3, H, W\]"),
        ({"parameters": torch.zeros(2, 9).double()}, TypeError, "parameters has dtype torch.float64"),
        ({"parameters": torch.zeros(3, 9)}, ValueError, r"for 2 images it must be \[2, 9\], as augment_parameters"),
        ({"parameters": torch.zeros(2, 9, device="meta")}, TypeError, "parameters is on meta but images is on cpu"),
        ({"parameters": augment_parameters(2, order=24)}, ValueError, r"parameters\[0\] has order=24; .* -1 to 23"),
        ({"parameters": augment_parameters(2, order=(0, 1.5))}, ValueError, r"parameters\[1\] has order=1.5; "),
        ({"parameters": augment_parameters(2, sigma=-1)}, ValueError, "has sigma=-1; it must be 0 or greater"),
        ({"parameters": augment_parameters(2, hue=(0, math.nan))}, ValueError, r"\[1\] has hue=nan; it must be finite"),
        ({"mean": (0, 0)}, ValueError, r"mean=\(0, 0\) must be three finite numbers"),
        ({"std": (1, 0, 1)}, ValueError, r"std=\(1, 0, 1\) must be greater than 0"),
        ({"blur_radius": -1}, ValueError, "blur_radius=-1 must not be negative"),
        ({"dtype": torch.int32}, TypeError, "dtype=torch.int32 must be a floating-point dtype"),
    ],
)
def test_wrong_arguments_are_named(changed, error, message):
    with pytest.raises(error, match=message):
        ops.multicrop_augment(**GOOD | changed)


def test_parameters_are_on_one_device_and_wrong_ones_are_named():
    with pytest.raises(TypeError, match="blur is no parameter; they are flip, order, brightness"):
        augment_parameters(2, blur=1)
    assert augment_parameters(2, hue=torch.zeros(2, device="meta"), sigma=1.5).device.type == "meta"
    with pytest.raises(ValueError, match=r"hue has shape \(3,\); it must be a number or \[2\]"):
        augment_parameters(2, hue=torch.zeros(3))
