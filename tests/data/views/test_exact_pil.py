"""Augmentation with Pillow beside that of the operator."""

from __future__ import annotations

import pytest

from esvit_fast.config import AugmentConfig
from esvit_fast.data.views.augment import operator_settings
from esvit_fast.data.views.exact_pil import exact_pil
from esvit_fast.ops import augment_parameters, multicrop_augment

from .test_augment import PLAIN, augment, images, uniform


@pytest.mark.parametrize(
    ("columns", "largest", "average"),
    [
        ({"flip": 1}, 0.001, 0.001),
        ({"order": 0, "brightness": 1.3}, 1.01, 0.5),
        ({"order": 0, "contrast": 0.7}, 1.6, 0.6),
        ({"order": 0, "saturation": 1.2}, 1.6, 0.6),
        ({"order": 0, "hue": 0.07}, 20, 1.5),  # 8-bit HSV
        ({"grey": 1}, 0.6, 0.5),
        ({"sigma": 1.0}, 6, 1),  # boxes
        ({"solarize": 1}, 0.001, 0.001),
    ],
)
def test_each_operation_is_near_pillows(columns, largest, average):
    """In levels of 255."""
    x, parameters = images(100), augment_parameters(100, **columns)
    ours = multicrop_augment(x, parameters, **operator_settings(PLAIN))
    error = (255 * ours - exact_pil(x, parameters)).abs()
    assert error.max() <= largest and error.mean() <= average


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_the_same_draws_give_nearly_what_pillow_gives(kind):
    x, draws = images(200, 32), uniform(200, kind)
    ours, pillows = (
        augment(AugmentConfig(mean=(0, 0, 0), std=(1, 1, 1), exact_pil=exact), x, draws, kind)
        for exact in (False, True)
    )
    assert ours.dtype == pillows.dtype and ours.shape == pillows.shape
    error = 255 * (ours - pillows).abs()
    assert error.mean((1, 2, 3)).max() < 4 and error.mean() < 2 and error.max() < 40
