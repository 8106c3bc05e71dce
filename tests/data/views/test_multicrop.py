from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from esvit_fast.config import CropConfig
from esvit_fast.data import MultiCrop, crop_boxes, eval_image, uniforms
from esvit_fast.data.views import multicrop
from esvit_fast.data.views.draws import CROP
from esvit_fast.data.views.multicrop import central_box, view_groups
from esvit_fast.ops.crop_resize import available, crop_resize

from ...ops.harness import run_with_instruction_set
from ..stand_ins import distance, pixels

SIDES = st.integers(1, 400)
NATIVE = pytest.mark.skipif(not available(), reason="needs the CPU library of these sources")


def boxes_of(height, width, scale, count, seed=0):
    return crop_boxes(height, width, np.tile(scale, (count, 1)), uniforms(seed, 0, 0, count)[:, CROP])


@given(SIDES, SIDES, st.sampled_from([(0.4, 1.0), (0.05, 0.4), (1.0, 1.0)]), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_boxes_lie_in_the_image_and_keep_area_and_ratio(height, width, scale, seed):
    for top, left, h, w in boxes_of(height, width, scale, 20, seed):
        assert 0 <= top and 0 <= left and h >= 1 and w >= 1 and top + h <= height and left + w <= width
        if (top, left, h, w) == central_box(height, width):
            continue
        # sides are rounded to whole pixels
        assert (h - 0.5) * (w - 0.5) <= scale[1] * height * width and (h + 0.5) * (w + 0.5) >= scale[0] * height * width
        assert (w - 0.5) / (h + 0.5) <= 4 / 3 and (w + 0.5) / (h - 0.5) >= 3 / 4


@pytest.mark.parametrize(("height", "width"), [(300, 400), (64, 64), (100, 700)])
@pytest.mark.parametrize("scale", [(0.4, 1.0), (0.05, 0.4)])
def test_boxes_are_distributed_as_torchvisions(height, width, scale):
    count = 4000
    ours = boxes_of(height, width, scale, count).astype(float)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(count)], dtype=float
    )
    assert all(distance(a, b) < 1 for a, b in zip(ours.T, theirs.T, strict=True))


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (30, 31), (1, 500), (7, 7)])
def test_fallback_is_torchvisions(height, width):
    scale = (50.0, 60.0)  # no attempt can fit
    torch.manual_seed(0)
    expected = RandomResizedCrop.get_params(torch.empty(3, height, width), list(scale), [3 / 4, 4 / 3])
    assert boxes_of(height, width, scale, 3).tolist() == [list(expected)] * 3


def test_first_fitting_attempt_wins():
    draws = np.full((1, 22), 0.5)
    draws[0, :10], draws[0, 10:20] = [0.999] * 3 + [0.2] * 7, [0.0] * 3 + [0.5] * 7  # three too high, then squares
    top, left, h, w = crop_boxes(100, 100, np.array([[0.25, 1.0]]), draws)[0]
    side = round((100 * 100 * (0.25 + 0.75 * 0.2)) ** 0.5)
    assert (h, w) == (side, side) and top == left == int(0.5 * (100 - side + 1))


@pytest.mark.parametrize(("height", "width"), [(375, 500), (50, 41), (32, 32)])
def test_crops_equal_pillows(height, width):
    config = CropConfig(global_size=48, local_sizes=(16, 24), local_counts=(3, 2))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(image).resize((width, height), box=(0, 0, width / 2, height / 2)))
    draws = uniforms(0, 0, 0, 7)[:, CROP]
    crop = MultiCrop(config)
    groups = crop(image, draws)
    assert [tuple(g.shape) for g in groups] == [(2, 3, 48, 48), (3, 3, 16, 16), (2, 3, 24, 24)]
    boxes = crop_boxes(height, width, crop.scale, draws)
    for group, (size, views) in zip(groups, view_groups(config.sizes), strict=True):
        for ours, view in zip(group, views, strict=True):
            top, left, h, w = boxes[view].tolist()
            part = Image.fromarray(image[top : top + h, left : left + w])
            theirs = np.asarray(part.resize((size, size), Image.Resampling.BICUBIC)).astype(int)
            difference = abs(ours.permute(1, 2, 0).numpy().astype(int) - theirs)
            assert difference.max() <= 2 and difference.mean() < 0.1


@NATIVE
@pytest.mark.parametrize("part", range(3))
def test_the_kernel_gives_what_torch_gives_bit_for_bit(part):
    r = random.Random(part)
    for seed in range(60):
        height, width = (r.choice([1, 2, 15, 16, 63, 64, 65, r.randint(1, 90), r.randint(200, 500)]) for _ in range(2))
        image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = image if r.random() < 0.7 else (image > 127) * np.uint8(255)  # sums far beyond a byte
        sides = [r.choice([1, 7, 16, 63, 64, 96, r.randint(1, 130)]) for _ in range(2)]
        counts = r.randint(1, 3), r.randint(1, 3)
        scale = r.choice([(0.4, 1.0), (0.001, 0.1), (1.0, 1.0)])
        crop = MultiCrop(CropConfig(sides[0], scale, tuple(sides), counts, scale))
        boxes = crop_boxes(height, width, crop.scale, uniforms(seed, 0, 0, len(crop.sizes))[:, CROP])
        ours, theirs = crop._by_kernel(image, boxes), crop._by_torch(image, boxes)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@NATIVE
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_resizes_the_same(isa):
    run_with_instruction_set(
        isa,
        "from tests.data.views.test_multicrop import *\n"
        "test_the_kernel_gives_what_torch_gives_bit_for_bit(3); test_crops_equal_pillows(375, 500)",
    )


@NATIVE
def test_images_of_any_layout_are_cropped(monkeypatch):
    crop, draws = MultiCrop(CropConfig(24, (0.4, 1.0), (16,), (2,))), uniforms(0, 0, 0, 4)[:, CROP]
    image = pixels(0, 50, 70)
    frozen, strided = image.copy(), np.asfortranarray(image)
    frozen.flags.writeable = False
    for other in (frozen, strided):
        assert all(torch.equal(a, b) for a, b in zip(crop(other, draws), crop(image, draws), strict=True))
    expected = crop(image, draws)
    monkeypatch.setattr("esvit_fast.data.views.multicrop.available", lambda: False)
    assert all(torch.equal(a, b) for a, b in zip(crop(image, draws), expected, strict=True))


@NATIVE
@pytest.mark.parametrize("box", [(-1, 0, 4, 4, 2), (0, 0, 0, 4, 2), (0, 3, 4, 6, 2), (5, 0, 4, 4, 2), (0, 0, 4, 4, 0)])
def test_boxes_outside_of_the_image_are_refused(box):
    with pytest.raises(RuntimeError, match="a box lies outside of the image"):
        crop_resize(torch.zeros(8, 8, 3, dtype=torch.uint8), torch.tensor([box]))


@NATIVE
@pytest.mark.parametrize(("height", "width"), [(1, 100_000), (100_000, 1), (300, 400)])
def test_the_kernel_gets_no_more_of_an_image_than_its_crops(monkeypatch, height, width):
    """It holds whole blocks of rows of what it gets, however few an image has."""
    crop, given = MultiCrop(CropConfig(24, (0.4, 1.0), (16,), (2,))), []
    monkeypatch.setattr("esvit_fast.data.views.multicrop.crop_resize", lambda *a: given.append(a) or crop_resize(*a))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    boxes = crop_boxes(height, width, crop.scale, uniforms(0, 0, 0, 4)[:, CROP])
    ours, theirs = crop._by_kernel(image, boxes), crop._by_torch(image, boxes)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    part, moved = given[0][0], given[0][1][:, :4]
    ends = (moved[:, :2] + moved[:, 2:]).amax(0)
    assert moved[:, :2].amin(0).tolist() == [0, 0] and ends.tolist() == list(part.shape[:2])


def test_equal_sizes_share_a_resolution():
    assert view_groups([32, 32, 16, 32, 16]) == [(32, [0, 1, 3]), (16, [2, 4])]


def test_no_local_crops():
    groups = MultiCrop(CropConfig(global_size=8, local_sizes=(), local_counts=()))(
        pixels(0), uniforms(0, 0, 0, 2)[:, CROP]
    )
    assert [tuple(g.shape) for g in groups] == [(2, 3, 8, 8)]


def test_eval_image_of_small_images_keeps_the_whole_image():
    image = pixels(1, 32, 32)
    image.flags.writeable = False
    assert np.array_equal(eval_image(image, 32).permute(1, 2, 0).numpy(), image)
    assert eval_image(pixels(1, 20, 30), 32).shape == (3, 32, 32)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (257, 256)])
def test_eval_image_is_resize_and_centre_crop(height, width):
    image = pixels(2, height, width)
    short = 64
    h, w = (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
    whole = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BICUBIC)).astype(int)
    top, left = (h - 56) // 2, (w - 56) // 2
    ours = eval_image(image, 56).permute(1, 2, 0).numpy().astype(int)
    assert abs(ours - whole[top : top + 56, left : left + 56]).max() <= 2


@pytest.mark.parametrize(
    ("height", "width", "most"),
    [(1, 71, 0), (71, 1, 0), (4, 72, 0), (70, 4200, 0), (1500, 80, 0), (5, 333, 3), (3001, 67, 3), (80, 1999, 3)],
)
def test_eval_image_of_extreme_shape_is_the_centre_of_the_whole(monkeypatch, height, width, most):
    """To the bit, where the long side becomes whole pixels; a last pixel cut off stretches the rest by some levels."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    cut = eval_image(image, 56)
    monkeypatch.setattr(multicrop, "_LONGEST", 10**6)
    whole = eval_image(image, 56)
    assert abs(cut.int() - whole.int()).max() <= most


@pytest.mark.parametrize("shape", [(1, 10**6), (10**6, 1), (3, 10**6)])
def test_eval_image_takes_no_more_memory_for_a_longer_image(monkeypatch, shape):
    made, resize = [], multicrop.resize
    monkeypatch.setattr(multicrop, "resize", lambda *args: made.append(resize(*args)) or made[-1])
    image = np.zeros((*shape, 3), dtype=np.uint8)
    image[shape[0] // 2, shape[1] // 2] = 255
    assert eval_image(image, 56).max() > 200
    assert made[0].numel() <= 3 * 18 * 56 * 56
