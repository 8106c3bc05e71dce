"""Region matching on a GPU, on all backends with kernels for one."""

from __future__ import annotations

import pytest
import torch

from esvit_fast import ops

from .gpu import DEVICE, DTYPES, moved, on_kernels_of, same_bits
from .test_region_match import SHAPES, assert_those_of_float64, drawn

pytestmark = on_kernels_of("region_match")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (8, 2, 170, 49, 768)])
def test_matches_are_those_of_float64(backend, dtype, shape):
    """In the same bits in every run."""
    maps = moved(drawn(shape, dtype))
    found = ops.region_match(*maps, backend=backend)
    assert assert_those_of_float64(found, *maps).any()
    assert same_bits(found, ops.region_match(*maps, backend=backend))


def test_ties_and_what_is_no_number(backend):
    teacher = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]], device=DEVICE)
    found = ops.region_match(torch.tensor([[[5.0, 0.0], [0.0, 0.0]]], device=DEVICE), teacher, backend=backend)
    assert found.index.tolist() == [[1, 0]] and found.margin.tolist() == [[0.0, 0.0]]
    student, teacher = moved(drawn((1, None, 4, 70, 3), torch.float32))
    teacher[0, 66, 1] = teacher[0, 68, 0] = student[0, 2] = torch.nan
    found = ops.region_match(student, teacher, backend=backend)
    assert found.index.tolist() == [[66, 66, 0, 66]] and found.similarity.isnan().all()


def test_many_images(backend):
    """70,000 images, the last of which has the match that it has alone."""
    student, teacher = moved(drawn((1, None, 2, 3, 16), torch.float16))
    many = student.repeat(70_000, 1, 1), teacher.repeat(70_000, 1, 1)
    found, alone = ops.region_match(*many, backend=backend), ops.region_match(student, teacher, backend=backend)
    assert (found.index == alone.index).all() and (found.similarity == alone.similarity).all()
