"""Matching regions by cosine similarity: every backend that runs here."""

import math

import pytest
import torch
from torch.library import opcheck

from esvit_fast import ops
from tests import seeds

from .problems import BACKENDS, NATIVE

each_backend = pytest.mark.parametrize("backend", BACKENDS)
SHAPES = [(2, 2, 9, 49, 40), (1, 1, 49, 70, 96), (2, None, 1, 1, 7), (1, 3, 33, 31, 16)]
"""Images, views of the teacher, regions of a student's and of a teacher's view, and channels."""


def drawn(shape, dtype, seed=0):
    """Maps of student and teacher."""
    batch, views, tokens, candidates, channels = shape
    g = seeds.generator(seed)
    student = torch.randn(batch, tokens, channels, generator=g).to(dtype)
    of = (batch, candidates, channels) if views is None else (batch, views, candidates, channels)
    return student, torch.randn(of, generator=g).to(dtype)


def assert_those_of_float64(found, student, teacher):
    """Wherever two candidates are not equal but for rounding; which is, bool as the index."""
    exact = ops.region_match(student.double(), teacher.double(), backend="reference")
    clear = exact.margin > 1e-5
    assert found.index.shape == exact.index.shape
    assert torch.equal(found.index[clear], exact.index[clear])
    for ours, true in ((found.similarity, exact.similarity), (found.margin, exact.margin)):
        torch.testing.assert_close(ours.double(), true, rtol=0, atol=2e-6)
    return clear


@each_backend
def test_is_the_first_maximum_of_the_cosine_similarity(backend):
    torch.manual_seed(seeds.shifted(0))
    student, teacher = torch.randn(3, 7, 5, dtype=torch.float64), torch.randn(3, 11, 5, dtype=torch.float64)
    index, similarity, margin = ops.region_match(student, teacher, backend=backend)
    cosine = torch.nn.functional.cosine_similarity(student[:, :, None], teacher[:, None], dim=-1)
    assert index.dtype == torch.int64
    assert torch.equal(index, cosine.argmax(-1))
    best = cosine.topk(2).values
    torch.testing.assert_close(similarity, best[..., 0])
    torch.testing.assert_close(margin, best[..., 0] - best[..., 1])


@NATIVE
@pytest.mark.parametrize("part", range(4))
def test_cpu_finds_what_torch_finds_at_any_size(part):
    for seed in range(15 * part, 15 * part + 15):
        r = seeds.choices(seed)
        tokens, candidates = (r.choice([1, 2, 49, 63, 64, 65, r.randint(1, 300), 1024]) for _ in range(2))
        channels, views = r.choice([1, 3, 16, 96, r.randint(1, 200)]), r.choice([None, 1, 2])
        batch = r.randint(1, 3)
        dtype = r.choice([torch.float64, torch.float32, torch.bfloat16, torch.float16])
        student, teacher = drawn((batch, views, tokens, candidates, channels), dtype, seed)
        half = candidates // 2 if r.random() < 0.5 else 0
        if half:  # every region twice, and one more: of two the first wins
            teacher = torch.cat([teacher[..., :half, :]] * 2 + [teacher[..., -1:, :]], -2)
        found, plain = (ops.region_match(student, teacher, backend=b) for b in ("cpu", "reference"))
        assert found.index.shape == plain.index.shape == plain.similarity.shape
        assert_those_of_float64(found, student, teacher)
        assert not half or ((found.index < half) | (found.index == 2 * half)).all(), seed
        assert found.similarity.dtype == plain.similarity.dtype


@each_backend
def test_a_single_region_has_no_rival(backend):
    index, _, margin = ops.region_match(torch.ones(1, 2, 3), torch.ones(1, 1, 3), backend=backend)
    assert index.tolist() == [[0, 0]] and margin.tolist() == [[math.inf, math.inf]]


@each_backend
def test_half_precision_features_are_compared_in_float32(backend):
    torch.manual_seed(seeds.shifted(0))
    common = torch.randn(1, 1, 64)
    student, teacher = (common + 0.05 * torch.randn(1, 49, 64) for _ in range(2))
    exact = ops.region_match(student, teacher, backend=backend).index
    assert torch.equal(
        ops.region_match(student.bfloat16().float(), teacher.bfloat16().float(), backend=backend).index,
        ops.region_match(student.bfloat16(), teacher.bfloat16(), backend=backend).index,
    )
    rounded = ops.region_match(student, teacher, match_dtype=torch.bfloat16, backend=backend).index
    assert (rounded != exact).float().mean() > 0.2
    # ties of rounded similarities pull matches to the first regions
    assert rounded.float().mean() < 0.7 * exact.float().mean()


@NATIVE
@pytest.mark.parametrize("rounding", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_numbers_are_rounded_as_by_torch(rounding, dtype):
    torch.manual_seed(seeds.shifted(0))
    common = torch.randn(1, 1, 64, dtype=dtype)
    student, teacher = (common + 0.2 * torch.randn(4, 49, 64, dtype=dtype) for _ in range(2))
    ours, theirs = (ops.region_match(student, teacher, match_dtype=rounding, backend=b) for b in ("cpu", "reference"))
    # one sum in another order may be rounded to the other side
    assert (ours.index == theirs.index).float().mean() > 0.97
    step = torch.finfo(rounding).eps if rounding.itemsize == 2 else 1e-6
    torch.testing.assert_close(ours.similarity, theirs.similarity, rtol=0, atol=step)


@each_backend
def test_gives_no_gradient(backend):
    student = torch.randn(1, 3, 4, requires_grad=True)
    assert not ops.region_match(student, student, backend=backend).similarity.requires_grad


@each_backend
def test_opcheck(backend):
    student = torch.randn(2, 3, 4)
    for teacher, dtype in (
        (torch.randn(2, 5, 4), None),
        (torch.randn(5, 2, 4).transpose(0, 1), torch.bfloat16),
        (torch.randn(2, 2, 5, 4), None),
    ):
        opcheck(torch.ops.esvit_fast.region_match.default, (student, teacher, dtype, backend))
    opcheck(torch.ops.esvit_fast.region_match.default, (student[:0], torch.randn(0, 5, 4), None, backend))


@pytest.mark.parametrize(
    ("student", "teacher", "error", "message"),
    [
        (
            torch.zeros(2, 3),
            torch.zeros(1, 2, 3),
            ValueError,
            r"student has shape \(2, 3\); it must be \[B, tokens, C\]",
        ),
        (torch.zeros(1, 2, 3), torch.zeros(2, 3), ValueError, r"teacher has shape \(2, 3\).*\[B, views, tokens, C\]"),
        (torch.zeros(1, 2, 3).int(), torch.zeros(1, 2, 3), TypeError, "student has dtype torch.int32"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), ValueError, "must agree in B and C"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 0, 3), ValueError, "at least one token"),
        (torch.zeros(1, 2, 3), torch.zeros(1, 2, 3, device="meta"), TypeError, "teacher is on meta"),
    ],
)
def test_wrong_arguments_are_named(student, teacher, error, message):
    with pytest.raises(error, match=message):
        ops.region_match(student, teacher)


def test_autocast_does_not_round_the_similarity():
    torch.manual_seed(seeds.shifted(0))
    student, teacher = (torch.randn(1, 1, 64) + 0.05 * torch.randn(1, 49, 64) for _ in range(2))
    exact = ops.region_match(student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        cast = ops.region_match(student, teacher)
    assert all(map(torch.equal, exact, cast))
