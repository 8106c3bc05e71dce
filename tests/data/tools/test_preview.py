"""The picture of a recipe's crops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from esvit_fast.config import Config, CropConfig, DataConfig
from esvit_fast.data import MultiCrop, open_source, uniforms
from esvit_fast.data.tools.preview import COLOURS, GAP, HEAD, MARGIN, SIDE, _boxes, preview
from esvit_fast.data.views.draws import CROP, epoch_order

from ..stand_ins import pixels, write_images


@pytest.fixture
def config():
    crops = CropConfig(global_size=16, local_sizes=(8, 12), local_counts=(3, 2), local_scale=(0.1, 0.4))
    plain = {"flip": 0.0, "jitter": 0.0, "grayscale": 0.0, "blur": (0.0,) * 3, "solarize": (0.0,) * 3}
    data = DataConfig(crops=crops, workers=2)
    return Config(data=replace(data, augment=replace(data.augment, **plain)))


def test_the_crops_are_those_of_the_run(tmp_path, config):
    source = open_source(str(write_images(tmp_path, [f"{n}.png" for n in range(5)])))
    picture = np.array(preview(source, config, 2))
    first = epoch_order(config.train.seed, 0, 5)[0]
    image = source.image(first)
    groups = MultiCrop(config.data.crops)(image, uniforms(config.train.seed, 0, first, 7)[:, CROP])
    inside = SIDE // 2
    left = MARGIN + round(SIDE * 32 / 24) + 2 * GAP
    for view in (0, 1):
        shown = picture[HEAD + inside, left + view * (SIDE + GAP) + inside]
        scaled = inside * 16 // SIDE
        assert abs(shown.astype(int) - groups[0][view][:, scaled, scaled].numpy()).max() <= 1
        assert tuple(picture[HEAD, left + view * (SIDE + GAP)]) == COLOURS[view]
    local = (SIDE - GAP) // 2
    shown = picture[HEAD + local // 2, left + 2 * (SIDE + GAP) + GAP + local // 2]
    assert abs(shown.astype(int) - groups[1][0][:, 4, 4].numpy()).max() <= 1
    assert not np.array_equal(
        picture, np.array(preview(source, replace(config, train=replace(config.train, seed=1)), 2))
    )


def test_a_box_holds_what_its_crop_shows(config):
    image = pixels(0, 48, 64)
    top, left, height, width = _boxes(image, config, 7)[0]
    crop = MultiCrop(config.data.crops)(image, uniforms(config.train.seed, 0, 7, 7)[:, CROP])[0][0]
    region = image[top : top + height, left : left + width].reshape(-1, 3).mean(0)
    assert abs(crop.float().mean((1, 2)).numpy() - region).max() < 3


def test_without_local_crops_and_with_classes(tmp_path, config):
    source = open_source(str(write_images(tmp_path, ["cat/1.png", "dog/2.png"])))
    crops = replace(config.data.crops, local_sizes=(), local_counts=())
    picture = preview(source, replace(config, data=replace(config.data, crops=crops)), 1)
    assert picture.width < preview(source, config, 1).width and picture.mode == "RGB"
    assert preview(source, config, 2).height > picture.height
    with pytest.raises(ValueError, match="batch_size=3 is larger than the data"):
        preview(source, config, 3)


def test_it_needs_no_gpu(tmp_path, config):
    source = open_source(str(write_images(tmp_path, ["1.jpg", "2.jpg"])))
    pictures = [preview(source, replace(config, data=replace(config.data, decode=d)), 2) for d in ("cpu", "gpu")]
    assert np.array_equal(*map(np.asarray, pictures))


@pytest.mark.parametrize(("width", "height"), [(5, 5000), (5000, 5), (1, 3000), (3000, 1)])
def test_images_of_extreme_shape_are_shown_with_their_boxes(tmp_path, config, width, height):
    red = (200, 30, 30)
    Image.new("RGB", (width, height), red).save(tmp_path / "long.png")
    picture = np.array(preview(open_source(str(tmp_path)), config, 1))
    shown = round(1.6 * SIDE) if width > height else SIDE  # across
    crops = MARGIN + shown + 2 * GAP
    for view in (0, 1):
        assert tuple(picture[HEAD + SIDE // 2, crops + view * (SIDE + GAP) + SIDE // 2]) == red
    row, column = HEAD + SIDE // 2, MARGIN + (shown // 2 if width > height else 0)  # the central box: no other fits
    around = picture[row - 2 : row + 3, max(MARGIN, column - 2) : column + 3]
    assert COLOURS[0] in map(tuple, around.reshape(-1, 3).tolist())
