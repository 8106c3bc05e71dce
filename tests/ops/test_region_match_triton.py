"""The Triton kernel that matches regions, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from esvit_fast import ops
from esvit_fast.ops._core import triton as _device
from esvit_fast.ops._core.plan import Facts
from tests import seeds

from .harness import run_in_the_interpreter, walled
from .test_region_match import SHAPES, assert_those_of_float64, drawn

pytestmark = pytest.mark.skipif(_device.MISSING is not None, reason=str(_device.MISSING))


def check():
    for seed, shape in enumerate([*SHAPES, (1, None, 65, 196, 33)]):
        for dtype in (torch.float32, torch.float16):
            maps = drawn(shape, dtype, seed)
            assert assert_those_of_float64(ops.region_match(*maps, backend="triton"), *maps).any()


def check_rounding():
    torch.manual_seed(seeds.shifted(0))
    common = torch.randn(1, 1, 64)
    student, teacher = (common + 0.2 * torch.randn(3, 49, 64) for _ in range(2))
    ours, plain = (
        ops.region_match(student, teacher, match_dtype=torch.float16, backend=b) for b in ("triton", "reference")
    )
    assert (ours.index == plain.index).float().mean() > 0.97
    torch.testing.assert_close(ours.similarity, plain.similarity, rtol=0, atol=1e-3)


def check_walls():
    """Nothing beside the inputs is read."""
    student, teacher = torch.randn(2, 5, 37), torch.randn(2, 2, 18, 37)
    inside, plain = (
        ops.region_match(*pair, backend="triton") for pair in ((walled(student), walled(teacher)), (student, teacher))
    )
    assert all(map(torch.equal, inside, plain)) and plain.similarity.isfinite().all()


@pytest.mark.parametrize("call", ["check()", "check_rounding(); check_walls()"])
def test_in_the_interpreter(call):
    run_in_the_interpreter("tests.ops.test_region_match_triton", call)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)])
def test_a_gpu_runs_triton(capability):
    facts = Facts("cuda", torch.bfloat16, {"student": (64, 170, 768)}, {"match_dtype": None}, capability, unproven=True)
    assert ops.plan("region_match", facts).backend == "triton"
    facts = Facts("cuda", torch.float64, {"student": (64, 170, 768)}, {"match_dtype": None}, capability, unproven=True)
    assert ops.plan("region_match", facts).backend == "reference"
