"""Region matching on a GPU, on all backends with kernels for one."""

from __future__ import annotations

import pytest
import torch

from esvit_fast import ops

from .gpu import BACKENDS, DEVICE, DTYPES, moved, same_bits, taken_by

pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("backend", BACKENDS)]
SHAPES = [(2, 2, 9, 49, 40), (1, 1, 49, 70, 96), (2, None, 1, 1, 7), (1, 3, 33, 31, 16), (8, 2, 170, 49, 768)]


def drawn(shape, dtype, seed=0):
    batch, views, tokens, candidates, channels = shape
    g = torch.Generator().manual_seed(seed)
    student = torch.randn(batch, tokens, channels, generator=g)
    of = (batch, candidates, channels) if views is None else (batch, views, candidates, channels)
    return moved((student.to(dtype), torch.randn(of, generator=g).to(dtype)))


def match(backend, student, teacher, **options):
    with taken_by(backend):
        return ops.region_match(student, teacher, backend=backend, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_are_those_of_float64(backend, dtype, shape):
    """Wherever two candidates are not equal but for rounding; in the same bits in every run."""
    student, teacher = drawn(shape, dtype)
    found = match(backend, student, teacher)
    exact = ops.region_match(student.double(), teacher.double(), backend="reference")
    clear = exact.margin > 1e-5
    assert clear.any() and torch.equal(found.index[clear], exact.index[clear])
    for ours, true in ((found.similarity, exact.similarity), (found.margin, exact.margin)):
        torch.testing.assert_close(ours.double(), true, rtol=0, atol=2e-6)
    assert same_bits(found, match(backend, student, teacher))


def test_ties_and_what_is_no_number(backend):
    teacher = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]], device=DEVICE)
    found = match(backend, torch.tensor([[[5.0, 0.0], [0.0, 0.0]]], device=DEVICE), teacher)
    assert found.index.tolist() == [[1, 0]] and found.margin.tolist() == [[0.0, 0.0]]
    student, teacher = drawn((1, None, 4, 70, 3), torch.float32)
    teacher[0, 66, 1] = teacher[0, 68, 0] = student[0, 2] = torch.nan
    found = match(backend, student, teacher)
    assert found.index.tolist() == [[66, 66, 0, 66]] and found.similarity.isnan().all()


def test_many_images(backend):
    """70,000 images, the last of which has the match that it has alone."""
    student, teacher = drawn((1, None, 2, 3, 16), torch.float16)
    many = student.repeat(70_000, 1, 1), teacher.repeat(70_000, 1, 1)
    found, alone = match(backend, *many), match(backend, student, teacher)
    assert (found.index == alone.index).all() and (found.similarity == alone.similarity).all()
