from __future__ import annotations

import numpy as np
import pytest
import torch

from esvit_fast.data import SourceError, open_source
from esvit_fast.data.sources.sample import _CLASSES, draw_samples


@pytest.fixture(scope="module")
def splits():
    return open_source("sample"), open_source("sample", split="test")


def test_sizes_classes_and_paths(splits):
    train, test = splits
    assert (len(train), len(test)) == (8000, 2000) and len(train.classes) == 10
    assert train.image(5).shape == (32, 32, 3) and train.image(5).dtype == np.uint8
    assert [train.label(i) for i in (0, 9, 10, 7999)] == [0, 9, 0, 9]
    assert train.path(3) == "sample/train/3" and test.path(3) == "sample/test/3"
    assert len(open_source("sample:120")) == 120 and len(open_source("sample:120", split="test")) == 2000


def test_an_image_depends_on_split_and_number_only(splits):
    train, test = splits
    assert np.array_equal(draw_samples("train", 1203), train.images[:1203])
    assert not (train.images[:2000] == test.images).all((1, 2, 3)).any()
    assert len({image.tobytes() for image in train.images}) == 8000


def test_images_are_pinned(splits):
    """The demo's numbers are comparable only while the images are these (to a level, for other CPUs)."""
    means = [image.astype(float).mean() for image in splits[0].images[[0, 7, 19]]]
    assert means == pytest.approx([152.83, 136.67, 124.64], abs=0.1)
    corner = [[[65, 102, 94], [82, 93, 80]], [[74, 84, 118], [91, 101, 115]]]
    np.testing.assert_allclose(splits[0].image(3)[5:7, 5:7], corner, atol=1)


def test_raw_pixel_neighbours_do_not_tell_the_class(splits):
    bank, queries = (torch.from_numpy(s.images).flatten(1).float() for s in splits)
    for center in (bank.mean(0), 0.0):
        x, q = (torch.nn.functional.normalize(v - center, dim=1) for v in (bank, queries))
        similarity, rows = (q @ x.T).topk(20)
        votes = torch.zeros(len(q), 10).scatter_add_(1, rows % 10, (similarity / 0.07).exp())
        accuracy = (votes.argmax(1) == torch.arange(len(q)) % 10).float().mean()
        assert accuracy <= 0.25


def test_mean_colour_and_contrast_do_not_tell_the_class(splits):
    x = splits[0].images.reshape(8000, -1, 3).astype(np.float64) / 255
    for measure in (x.mean(1), x.std(1)):
        by_class = np.stack([measure[np.arange(8000) % 10 == c] for c in range(10)])
        assert by_class.mean(1).std(0).max() < 0.35 * by_class.std(1).mean()


def test_shapes_are_distances_that_fit_the_unit_square():
    axis = np.linspace(-1.6, 1.6, 129, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    for name, (shape, _) in _CLASSES.items():
        distance = shape(x[None], y[None])[0]
        inside = distance < 0
        assert 0.1 < inside[(abs(x) < 1) & (abs(y) < 1)].mean() < 0.75, name
        assert not inside[(abs(x) > 1.1) | (abs(y) > 1.1)].any(), name
        slope = np.hypot(*np.gradient(distance, axis, axis))[abs(distance) < 0.05]
        assert 0.6 < np.median(slope) < 1.2, name


@pytest.mark.parametrize("spec", ["sample:0", "sample:many", "sample:-3", "sample:1000000000", f"sample:{'9' * 5000}"])
def test_errors(spec):
    with pytest.raises(SourceError, match=f"data.source='{spec}' must be sample or sample:COUNT"):
        open_source(spec)
    with pytest.raises(SourceError, match="split='dev' must be one of train, test"):
        open_source("sample", split="dev")
