"""The Triton kernel that matches regions, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from esvit_fast import ops
from esvit_fast.ops._plan import Facts
from esvit_fast.ops._triton import _device

from .harness import run_in_the_interpreter, walled

pytestmark = pytest.mark.skipif(_device.MISSING is not None, reason=str(_device.MISSING))


def check():
    for seed, (batch, views, tokens, candidates, channels) in enumerate(
        [(2, 2, 9, 49, 40), (1, 1, 49, 70, 96), (2, None, 1, 1, 7), (1, 3, 33, 31, 16), (1, None, 65, 196, 33)]
    ):
        g = torch.Generator().manual_seed(seed)
        shape = (batch, candidates, channels) if views is None else (batch, views, candidates, channels)
        for dtype in (torch.float32, torch.float16):
            student = torch.randn(batch, tokens, channels, generator=g).to(dtype)
            teacher = torch.randn(shape, generator=g).to(dtype)
            found = ops.region_match(student, teacher, backend="triton")
            exact = ops.region_match(student.double(), teacher.double(), backend="reference")
            clear = exact.margin > 1e-5
            assert clear.any() and torch.equal(found.index[clear], exact.index[clear])
            for ours, true in ((found.similarity, exact.similarity), (found.margin, exact.margin)):
                torch.testing.assert_close(ours.double(), true, rtol=0, atol=2e-6)


def check_rounding():
    torch.manual_seed(0)
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
