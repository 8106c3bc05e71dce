from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from esvit_fast.config import AugmentConfig
from esvit_fast.data import Augmenter, Batch, normalize, uniforms
from esvit_fast.data.views.augment import sampled_parameters
from esvit_fast.data.views.draws import (
    AUGMENT,
    BLUR,
    BRIGHTNESS,
    CONTRAST,
    FLIP,
    GRAYSCALE,
    HUE,
    JITTER,
    ORDER,
    SATURATION,
    SIGMA,
    SOLARIZE,
)
from esvit_fast.data.views.multicrop import view_groups
from esvit_fast.ops.multicrop_augment.op import COLUMNS

from ..stand_ins import distance, pixels

oracle = importlib.import_module("esvit_fast.reference.multicrop_augment")
PLAIN = AugmentConfig(
    flip=0, jitter=0, grayscale=0, blur=(0, 0, 0), solarize=(0, 0, 0), mean=(0, 0, 0), std=(1, 1, 1)
)  # nothing happens


def images(count: int, size: int = 16) -> torch.Tensor:
    smooth = np.stack([pixels(seed, size, size) for seed in range(count)])
    noise = np.random.default_rng(0).integers(-20, 20, smooth.shape)
    return torch.from_numpy(np.clip(smooth + noise, 0, 255).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


def augment(config: AugmentConfig, x: torch.Tensor, draws: torch.Tensor, kind: int = 0) -> torch.Tensor:
    return Augmenter(config, (x.shape[-1],)).augment(x, draws, torch.full((len(x),), kind), "cpu")


def uniform(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 11, generator=torch.Generator().manual_seed(seed))


def test_all_orders_of_the_jitter():
    config = AugmentConfig(**{**vars(PLAIN), "jitter": 1.0, "saturation": 0.4})
    x, draws = images(48), uniform(48)
    draws[:, ORDER] = (torch.arange(48) % 24 + 0.5) / 24
    got = augment(config, x, draws)
    orders = list(itertools.permutations(range(4)))
    for n in range(48):
        factors = [0.6 + 0.8 * draws[n, slot].item() for slot in (BRIGHTNESS, CONTRAST, SATURATION)]
        operations = [
            lambda t, f=factors: tv.adjust_brightness(t, f[0]),
            lambda t, f=factors: tv.adjust_contrast(t, f[1]),
            lambda t, f=factors: tv.adjust_saturation(t, f[2]),
            lambda t, n=n: tv.adjust_hue(t, (2 * draws[n, HUE].item() - 1) * 0.1),
        ]
        expected = x[n].float() / 255
        for number in orders[n % 24]:
            expected = operations[number](expected)
        torch.testing.assert_close(got[n], expected, rtol=0, atol=2e-5)


def test_brightness_never_goes_below_zero():
    config = AugmentConfig(
        **{**vars(PLAIN), "jitter": 1.0, "brightness": 3.0, "contrast": 0, "saturation": 0, "hue": 0}
    )
    x, draws = images(2), uniform(2)
    draws[:, BRIGHTNESS] = torch.tensor([0.0, 0.5])
    got = augment(config, x, draws)
    assert got[0].abs().max() == 0  # max(0, 1 - 3)
    torch.testing.assert_close(got[1], (x[1] / 255 * 2).clamp(max=1))


def test_blur_is_near_pillows():
    x = images(1, 64)
    got = oracle.gaussian_blur(x.float(), torch.tensor([1.5]), 6)[0].permute(1, 2, 0).numpy()
    theirs = Image.fromarray(x[0].permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(1.5))
    difference = abs(got - np.asarray(theirs))  # Pillow approximates by three box blurs
    assert difference.max() < 4 and difference.mean() < 1


@pytest.mark.parametrize(
    ("field", "slot", "change"),
    [
        ("flip", FLIP, lambda t: t.flip(-1)),
        ("grayscale", GRAYSCALE, lambda t: tv.rgb_to_grayscale(t, 3)),
        ("solarize", SOLARIZE, lambda t: tv.solarize(t, 128 / 255)),
    ],
)
def test_exactly_the_chosen_samples_change(field, slot, change):
    value = 0.3 if field in ("flip", "grayscale") else (0.3, 0.3, 0.3)
    x, draws = images(40), uniform(40)
    got = augment(AugmentConfig(**{**vars(PLAIN), field: value}), x, draws)
    for n in range(40):
        expected = x[n].float() / 255
        expected = change(expected) if draws[n, slot] < 0.3 else expected
        torch.testing.assert_close(got[n], expected, rtol=0, atol=1e-6)
    assert 0 < (draws[:, slot] < 0.3).sum() < 40


def test_probabilities_follow_the_kind_of_view():
    config = AugmentConfig(**{**vars(PLAIN), "solarize": (0.0, 1.0, 0.0), "blur": (1.0, 0.0, 0.0)})
    x, draws = images(3), uniform(3)
    plain = x.float() / 255
    sigma = 0.1 + 1.9 * draws[:, SIGMA]
    torch.testing.assert_close(augment(config, x, draws, 0), oracle.gaussian_blur(plain, sigma, 6))
    # one rounding, as operations are in another order
    torch.testing.assert_close(augment(config, x, draws, 1), oracle.solarize(plain), rtol=0, atol=6e-8)
    torch.testing.assert_close(augment(config, x, draws, 2), plain, rtol=0, atol=6e-8)


def make_batch(sizes, count):
    groups = view_groups(sizes)
    crops = [torch.stack([images(count, size).roll(view, 0) for view in views]) for size, views in groups]
    draws = torch.rand(len(sizes), count, 11, generator=torch.Generator().manual_seed(1))
    return Batch(crops, draws, torch.arange(count), [])


def test_views_come_in_order_and_each_from_its_own_crop_and_draws():
    sizes, config = (16, 16, 8, 16, 8), AugmentConfig()
    batch = make_batch(sizes, 6)
    views = Augmenter(config, sizes)(batch, "cpu")
    assert [tuple(v.shape) for v in views] == [(6, 3, s, s) for s in sizes]
    place = {0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (0, 2), 4: (1, 1)}
    for view, (group, row) in place.items():
        alone = augment(config, batch.crops[group][row], batch.draws[view], min(view, 2))
        torch.testing.assert_close(views[view], alone, rtol=0, atol=1e-6)


def test_autocast_changes_nothing():
    x, draws = images(8), uniform(8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = augment(AugmentConfig(), x, draws)
    assert inside.dtype == torch.float32 and torch.equal(inside, augment(AugmentConfig(), x, draws))


@pytest.mark.parametrize("exact_pil", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_views_of_another_dtype_are_those_of_float32_rounded_once(dtype, exact_pil):
    sizes, config = (16, 16, 8), AugmentConfig(exact_pil=exact_pil)
    batch = make_batch(sizes, 6)
    exact = Augmenter(config, sizes)(batch, "cpu")
    assert {view.dtype for view in exact} == {torch.float32}
    for view, expected in zip(Augmenter(config, sizes, dtype)(batch, "cpu"), exact, strict=True):
        assert view.dtype == dtype and torch.equal(view, expected.to(dtype))


def test_inputs_are_left_alone():
    x, draws = images(4), uniform(4)
    before = x.clone(), draws.clone()
    augment(AugmentConfig(), x, draws)
    assert torch.equal(x, before[0]) and torch.equal(draws, before[1])


def test_normalize():
    config = AugmentConfig()
    x = images(2)
    expected = tv.normalize(x / 255, list(config.mean), list(config.std))
    torch.testing.assert_close(normalize(x, config), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("by_pillow", [False, True])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_statistics_equal_the_published_pil_augmentation(kind, by_pillow):
    """Channel means, contrast, saturation and sharpness of augmented images, against torchvision on Pillow images."""
    count, config = 2000, AugmentConfig(mean=(0, 0, 0), std=(1, 1, 1), exact_pil=by_pillow)
    source = images(20).repeat(count // 20, 1, 1, 1)
    ours = augment(config, source, uniform(count, kind), kind)
    torch.manual_seed(kind)
    jitter = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
        ]
    )
    draws = torch.rand(count, 3)
    theirs = []
    for n, image in enumerate(source):
        view = jitter(Image.fromarray(image.permute(1, 2, 0).numpy()))
        if draws[n, 0] < config.blur[kind]:
            view = view.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * draws[n, 1].item()))
        if draws[n, 2] < config.solarize[kind]:
            view = ImageOps.solarize(view)
        theirs.append(torch.from_numpy(np.array(view)).permute(2, 0, 1) / 255)
    for measure in (_mean, _contrast, _saturation, _sharpness):
        a, b = measure(ours), measure(torch.stack(theirs))
        error = ((a.var() + b.var()) / count).sqrt()
        # 4 standard errors, and what rounding to 8 bits after every operation and Pillow's box blur may shift
        shift = 0 if by_pillow else 0.002
        assert abs(a.mean() - b.mean()) < 4 * error + shift, measure.__name__
        assert abs(a.std() / b.std() - 1) < 0.12, measure.__name__
        assert distance(a.numpy(), b.numpy()) < 1, measure.__name__


def test_parameters_are_distributed_as_torchvisions():
    """Each by itself, and the order of the jitter as one of 24."""
    count, config = 4000, AugmentConfig()
    draws = torch.from_numpy(uniforms(3, 0, 0, count)[:, AUGMENT]).float()
    torch.manual_seed(0)
    jitter = v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
    drawn = [jitter.make_params([]) for _ in range(count)]
    for kind in range(3):
        ours = dict(zip(COLUMNS, sampled_parameters(config, draws, torch.full((count,), kind)).T.numpy(), strict=True))
        for name in ("brightness", "contrast", "saturation", "hue"):
            theirs = np.array([params[f"{name}_factor"] for params in drawn])
            assert distance(ours[name], theirs) < 1, name
        jittered, blurred = ours["order"] >= 0, ours["sigma"] > 0
        shares = {"flip": 0.5, "order": 0.8, "grey": 0.2, "sigma": (1, 0.1, 0.5)[kind], "solarize": (0, 0.2, 0)[kind]}
        for name, share in shares.items():
            happened = {"order": jittered, "sigma": blurred}.get(name, ours[name] != 0)
            assert abs(happened.mean() - share) <= 4 * (share * (1 - share) / count) ** 0.5, name
        orders = np.bincount(ours["order"][jittered].astype(int), minlength=24)
        expected = jittered.sum() / 24
        assert ((orders - expected) ** 2 / expected).sum() < 49.7  # chi-square of 23, one in a thousand
        sigma = ours["sigma"][blurred]
        assert distance(sigma, np.linspace(*config.blur_sigma, len(sigma))) < 1


def _mean(x):
    return x.mean((1, 2, 3))


def _contrast(x):
    return x.std((2, 3)).mean(1)


def _saturation(x):
    return (x.amax(1) - x.amin(1)).mean((1, 2))


def _sharpness(x):
    return (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3))


def test_unused_slots_do_not_matter():
    x, draws = images(4), uniform(4)
    other = draws.clone()
    draws[:, JITTER] = other[:, JITTER] = 0.9  # not jittered
    draws[:, BLUR] = other[:, BLUR] = 0.9
    other[:, [BRIGHTNESS, CONTRAST, SATURATION, HUE, ORDER, SIGMA]] = 0.123
    assert torch.equal(augment(AugmentConfig(), x, draws, 1), augment(AugmentConfig(), x, other, 1))
