"""The augmentation of crops in Triton, run by its interpreter."""

from __future__ import annotations

import pytest
import torch

from esvit_fast import ops
from esvit_fast.kernels import _tables
from esvit_fast.ops import Facts, augment_parameters
from esvit_fast.ops._core import triton as _device

from .harness import assert_walls, run_in_the_interpreter, walled, walled_allocations
from .test_multicrop_augment import MEAN, STD, assert_near_float64, augment, images, replaced, sampled

pytestmark = pytest.mark.skipif(_device.MISSING is not None, reason=str(_device.MISSING))


def check():
    """Sizes around those of blocks, all orders, and shifts and deviations beyond what is published."""
    for seed, (count, height, width, radius) in enumerate(
        [(24, 9, 13, 6), (3, 32, 32, 6), (3, 33, 32, 2), (2, 1, 40, 0), (2, 40, 1, 9), (1, 70, 61, 30)]
    ):
        parameters = sampled(count, seed)
        if count == 24:
            parameters = replaced(parameters, order=torch.arange(24))
        if radius > 6:
            parameters = replaced(parameters, sigma=20.0, hue=-2.3)
        x = images(count, height, width, seed)
        x[:, :, : height // 3] = x[:, :1, : height // 3]
        assert_near_float64(x, parameters, "triton", radius)


def check_dtypes_and_parts():
    """Rounded once; a sample depends on no other, nor on which are held at a time."""
    x, parameters = images(5, 17, 12), sampled(5)
    whole = augment(x, parameters, "triton", mean=MEAN, std=STD)
    half = augment(x, parameters, "triton", mean=MEAN, std=STD, dtype=torch.float16)
    assert half.dtype == torch.float16 and torch.equal(half, whole.half())
    _tables.MULTICROP_AUGMENT["values"] = 2 * x[0].numel()
    assert torch.equal(augment(x, parameters, "triton", mean=MEAN, std=STD), whole)
    assert torch.equal(augment(x[3:4], parameters[3:4], "triton", mean=MEAN, std=STD)[0], whole[3])
    assert augment(x[:0], parameters[:0], "triton").shape == (0, 3, 17, 12)
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    levels = (augment(ramp, augment_parameters(1, solarize=1), "triton")[0, 0].flatten() * 255).round().tolist()
    assert levels == [*range(128), *range(127, -1, -1)]


def check_walls():
    """Nothing beside the inputs is read, and all that is made, and nothing else, is written."""
    x, parameters = images(3, 33, 35), replaced(sampled(3), order=torch.tensor([0, 9, 23]), contrast=1.3, sigma=1.7)
    plain = augment(x, parameters, "triton")
    with walled_allocations() as walls:
        inside = augment(walled(x), walled(parameters), "triton")
    assert len(walls) == 4
    assert_walls(walls, "multicrop_augment")
    assert torch.equal(inside, plain)


@pytest.mark.parametrize("call", ["check()", "check_dtypes_and_parts()", "check_walls()"])
def test_in_the_interpreter(call):
    run_in_the_interpreter("tests.ops.test_multicrop_augment_triton", call)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)])
def test_a_gpu_runs_triton(capability):
    for dtype, backend in ((torch.bfloat16, "triton"), (torch.float32, "triton"), (torch.float64, "reference")):
        facts = Facts("cuda", torch.uint8, {"images": (64, 3, 224, 224)}, {"dtype": dtype}, capability, unproven=True)
        assert ops.plan("multicrop_augment", facts).backend == backend
