import itertools
import math

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tf

from esvit_fast.config import AugmentConfig
from esvit_fast.data import eval_image, uniforms
from esvit_fast.data.views.draws import AUGMENT as AUGMENT_SLOTS
from esvit_fast.data.views.draws import BRIGHTNESS, CONTRAST, HUE, JITTER, ORDER, SATURATION
from esvit_fast.evaluation.measures.correspondence import (
    PAIRS,
    Correspondence,
    chebyshev,
    correspondence,
    correspondence_accuracy,
    crop_pair,
    match_pair,
    published_pair,
    region_grid,
    true_regions,
)

from ..stand_ins import ArraySource, TinyModel, noise_images

AUGMENT = AugmentConfig()


def by_point(grid_a, grid_b, box_a, box_b, flip_a, flip_b):
    """One region at a time, in plain Python."""
    truth = []
    for row in range(grid_a[0]):
        for column in range(grid_a[1]):
            column_a = grid_a[1] - 1 - column if flip_a else column
            y = box_a[0] + (row + 0.5) * box_a[2] / grid_a[0]
            x = box_a[1] + (column_a + 0.5) * box_a[3] / grid_a[1]
            v, u = (y - box_b[0]) / box_b[2] * grid_b[0], (x - box_b[1]) / box_b[3] * grid_b[1]
            if not (0 <= v < grid_b[0] and 0 <= u < grid_b[1]):
                truth.append(-1)
                continue
            column_b = grid_b[1] - 1 - math.floor(u) if flip_b else math.floor(u)
            truth.append(math.floor(v) * grid_b[1] + column_b)
    return truth


@pytest.mark.parametrize("flip_a", [False, True])
@pytest.mark.parametrize("flip_b", [False, True])
def test_true_regions_equal_plain_geometry(flip_a, flip_b):
    rng = np.random.default_rng(3)
    for _ in range(20):
        boxes = [(*rng.uniform(0, 50, 2), *rng.uniform(20, 80, 2)) for _ in range(2)]
        grids = [tuple(rng.integers(1, 8, 2).tolist()) for _ in range(2)]
        got = true_regions(*grids, *boxes, flip_a, flip_b)
        assert got.tolist() == by_point(*grids, *boxes, flip_a, flip_b)


def test_same_box_is_the_identity_and_a_flip_mirrors_rows():
    box = (3, 5, 40, 60)
    assert true_regions((3, 4), (3, 4), box, box).tolist() == list(range(12))
    assert true_regions((2, 3), (2, 3), box, box, flip_b=True).tolist() == [2, 1, 0, 5, 4, 3]
    assert true_regions((2, 2), (2, 2), (0, 0, 10, 10), (20, 0, 10, 10)).tolist() == [-1] * 4


def test_distinct_cells_are_found_again_in_shifted_and_mirrored_views():
    canvas = (
        torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    )
    a, b = canvas[:, :16, :16], canvas[:, 8:24, 4:20]
    found = correspondence(TinyModel(), a, b.flip(-1), (0, 0, 16, 16), (8, 4, 16, 16), flip_b=True)
    assert found.grid_a == found.grid_b == (4, 4)
    both = found.truth >= 0
    assert int(both.sum()) == 6
    assert torch.equal(found.match[both], found.truth[both])
    assert found.distance[both].abs().max() == 0
    assert found.distance[~both].isnan().all()
    torch.testing.assert_close(found.similarity[both], torch.ones(6))


def test_distances_count_regions():
    found = Correspondence((1, 3), (3, 4), torch.tensor([0, 11, 5]), torch.ones(3), torch.tensor([11, 6, 5]))
    assert found.distance.tolist() == pytest.approx([math.hypot(2, 3), math.hypot(1, 1), 0])
    assert chebyshev(found).tolist() == [3, 1, 0]


def test_crop_pairs_follow_from_seed_and_index_and_show_their_boxes():
    image = noise_images(1, side=40)[0]
    first, again, other = crop_pair(image, 16, 0, 5), crop_pair(image, 16, 0, 5), crop_pair(image, 16, 0, 6)
    assert torch.equal(first.view_a, again.view_a)
    assert first[2:] == again[2:] != other[2:]
    pairs = [crop_pair(image, 16, 1, index) for index in range(40)]
    assert 8 < sum(pair.flip_b for pair in pairs) < 32
    for pair in pairs:
        for top, left, height, width in (pair.box_a, pair.box_b):
            assert 0 <= top <= top + height <= 40
            assert 0 <= left <= left + width <= 44
            assert 0.35 < height * width / (40 * 44) < 0.85
    pair = next(p for p in pairs if p.flip_b)
    top, left, height, width = pair.box_b
    part = torch.from_numpy(image[top : top + height, left : left + width]).float().mean((0, 1))
    torch.testing.assert_close(pair.view_b.float().mean((1, 2)), part, atol=4, rtol=0)


def test_accuracy_over_a_source_beats_chance_and_counts_readable_images():
    smooth = [np.kron(image[:6, :6], np.ones((8, 8, 1), np.uint8)) for image in noise_images(5)]
    source = ArraySource(smooth, broken={2})
    result = correspondence_accuracy(TinyModel(patch=2), source, augment=AUGMENT, views="crops")
    assert result.images == 4
    assert result.chance == pytest.approx(100 / 64)
    assert result.exact > 15 * result.chance
    assert result.near >= result.exact
    for views in ("published", "crops"):
        arguments = {"augment": AUGMENT, "views": views}
        result = correspondence_accuracy(TinyModel(patch=2), source, **arguments)
        assert result == correspondence_accuracy(TinyModel(patch=2), source, **arguments)
        assert result != correspondence_accuracy(TinyModel(patch=2), source, **arguments, seed=1)


@pytest.mark.parametrize("views", ["published", "crops"])
def test_the_published_number_counts_the_ten_most_similar_pairs_of_each_image(views):
    images, model, shares = noise_images(6), TinyModel(patch=2), []
    for index, image in enumerate(images):
        found = match_pair(model, PAIRS[views](image, 16, 0, index), AUGMENT, "cpu")
        rows = [i for i in range(len(found.match)) if found.truth[i] >= 0]
        rows.sort(key=lambda i: -found.similarity[i].item())
        shares.append(np.mean([found.match[i].item() == found.truth[i].item() for i in rows[:10]]))
        if views == "published":
            assert len(rows) == 64  # both views show everything
    result = correspondence_accuracy(model, ArraySource(images), augment=AUGMENT, views=views)
    assert result.top10 == pytest.approx(100 * np.mean(shares)) and result.top10 > 0


def test_the_published_view_is_mirrored_jittered_and_grey():
    """Operation by operation with torchvision, as the published measurement makes it, the whole image in both views."""
    steps, jittered = (tf.adjust_brightness, tf.adjust_contrast, tf.adjust_saturation, tf.adjust_hue), 0
    for index, image in enumerate(noise_images(12, side=24)):
        pair = published_pair(image, 16, 3, index)
        assert torch.equal(pair.view_a, eval_image(image, 16)) and pair.box_a == pair.box_b and pair.flip_b
        draws = uniforms(3, 0, index, 2)[1, AUGMENT_SLOTS]
        view = pair.view_a.flip(-1).float() / 255
        if draws[JITTER] < 0.8:
            jittered += 1
            factors = [1 + 0.4 * (2 * draws[n] - 1) for n in (BRIGHTNESS, CONTRAST)]
            factors += [1 + 0.2 * (2 * draws[SATURATION] - 1), 0.1 * (2 * draws[HUE] - 1)]
            for number in list(itertools.permutations(range(4)))[int(draws[ORDER] * 24)]:
                view = steps[number](view, factors[number])
        expected = 255 * tf.rgb_to_grayscale(view, 3)
        assert (pair.view_b.float() - expected).abs().max() <= 1
    assert 5 < jittered < 12


def test_an_unknown_pair_of_views_is_refused():
    with pytest.raises(ValueError, match="views='whole' must be one of published, crops"):
        correspondence_accuracy(TinyModel(), ArraySource(noise_images(1)), augment=AUGMENT, views="whole")


def test_bad_input():
    with pytest.raises(ValueError, match="none of 1 images gives two views that share a region; pass more images"):
        correspondence_accuracy(TinyModel(), ArraySource(noise_images(1), broken={0}), augment=AUGMENT)

    class Odd(TinyModel):
        def forward_regions(self, x):
            return None, torch.ones(1, 11, 3)

    with pytest.raises(ValueError, match="view of 16 x 16 pixels gives 11 regions, which form no grid"):
        region_grid(Odd(), torch.zeros(3, 16, 16))
