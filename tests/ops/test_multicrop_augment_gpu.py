"""The augmentation of crops on a GPU, on all backends with kernels for one."""

from __future__ import annotations

import pytest
import torch

from .gpu import moved, on_kernels_of, same_bits
from .test_multicrop_augment import MEAN, STD, assert_near_float64, augment, images, sampled

pytestmark = on_kernels_of("multicrop_augment")


@pytest.mark.parametrize("size", [(96, 96), (224, 224), (17, 45), (1, 3)])
def test_near_float64_in_the_same_bits_in_every_run(backend, size):
    x, parameters = moved((images(40, *size), sampled(40)))
    assert_near_float64(x, parameters, backend)
    assert same_bits([augment(x, parameters, backend)], [augment(x, parameters, backend)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_results_are_rounded_once(backend, dtype):
    x, parameters = moved((images(20, 32), sampled(20, 1)))
    wide, narrow = (augment(x, parameters, backend, mean=MEAN, std=STD, dtype=d) for d in (torch.float32, dtype))
    assert torch.equal(narrow, wide.to(dtype))


def test_many_crops(backend):
    """70,000 crops, the last of which is what it is alone."""
    x, parameters = moved((images(1, 8), sampled(1, 2)))
    many = augment(x.repeat(70_000, 1, 1, 1), parameters.repeat(70_000, 1), backend)
    assert torch.equal(many, augment(x, parameters, backend).expand_as(many))
