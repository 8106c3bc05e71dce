"""What holds for matching whatever is matched: hypothesis draws shapes, dtypes and rows."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from esvit_fast import ops
from esvit_fast.ops._core import triton as _device
from tests import seeds

from .drawn import BITWISE, DTYPES
from .harness import run_in_the_interpreter
from .problems import BACKENDS

PROPERTIES = []
CLEAR = 1e-4
"""A margin that no rounding of float32 decides."""


def draw(shape, dtype, seed):
    """Maps [batch, tokens, channels] of the student and [batch, views, tokens, channels] of the teacher."""
    batch, views, tokens, candidates, channels = shape
    g = seeds.generator(seed)
    student = torch.randn(batch, tokens, channels, generator=g).to(dtype)
    return student, torch.randn(batch, views, candidates, channels, generator=g).to(dtype), seed


shapes = st.tuples(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 40), st.sampled_from([1, 2, 5, 49, 64, 65, 70, 130]),
    st.integers(1, 40),
)  # fmt: skip
maps = st.builds(draw, shapes, st.sampled_from(DTYPES), st.integers(0, 999))


def for_all_maps(prop):
    """A property(maps, backend) becomes a test of every backend that runs here, on maps that are drawn."""
    PROPERTIES.append(prop)
    return pytest.mark.parametrize("backend", BACKENDS)(
        settings(max_examples=25, deadline=None)(given(drawn=maps)(prop))
    )


def order(count, seed):
    return torch.randperm(count, generator=seeds.generator(seed))


def assert_same(found, expected, backend):
    """Of the same bits, or, where products of matrices in torch promise none, but for rounding where that decides."""
    if backend in BITWISE:
        assert all(map(torch.equal, found, expected))
        return
    clear = expected.margin > CLEAR
    assert torch.equal(found.index[clear], expected.index[clear])
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6, equal_nan=True)


@for_all_maps
def test_the_students_regions_may_stand_in_any_order(drawn, backend):
    student, teacher, seed = drawn
    places = order(student.shape[1], seed)
    moved = ops.region_match(student[:, places], teacher, backend=backend)
    plain = ops.region_match(student, teacher, backend=backend)
    assert_same(moved, type(plain)(*(x[..., places] for x in plain)), backend)


@for_all_maps
def test_the_teachers_regions_may_stand_in_any_order(drawn, backend):
    student, teacher, seed = drawn
    places = order(teacher.shape[2], seed)
    moved = ops.region_match(student, teacher[:, :, places], backend=backend)
    plain = ops.region_match(student, teacher, backend=backend)
    clear = plain.margin > CLEAR
    assert torch.equal(places[moved.index][clear], plain.index[clear])
    for ours, theirs in zip(moved[1:], plain[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0 if backend in BITWISE else 2e-6)


@for_all_maps
def test_an_image_and_a_view_are_matched_as_if_alone(drawn, backend):
    """Whatever the others are, and in whatever order."""
    student, teacher, seed = drawn
    images = order(len(student), seed)
    together = ops.region_match(student[images], teacher[images], backend=backend)
    for place, image in enumerate(images.tolist()):
        for view in range(teacher.shape[1]):
            one = slice(image, image + 1)
            alone = ops.region_match(student[one], teacher[one, view], backend=backend)
            assert_same(type(alone)(*(x[place : place + 1, view] for x in together)), alone, backend)
    student, teacher = (torch.cat([torch.full_like(x[:1], math.nan), x]) for x in (student, teacher))
    beside = ops.region_match(student, teacher, backend=backend)
    plain = ops.region_match(student[1:], teacher[1:], backend=backend)
    assert_same(type(plain)(*(x[1:] for x in beside)), plain, backend)


@for_all_maps
def test_lengths_do_not_matter(drawn, backend):
    """Powers of 2 round nothing: not even bits do."""
    student, teacher, seed = drawn
    powers = 2.0 ** torch.randint(-3, 4, (teacher.shape[2], 1), generator=seeds.generator(seed))
    scaled = ops.region_match(4 * student.float(), teacher.float() * powers, backend=backend)
    assert_same(scaled, ops.region_match(student.float(), teacher.float(), backend=backend), backend)


@for_all_maps
def test_ties_go_to_the_first(drawn, backend):
    """Every region of the teacher once more, in another order: all is as it was, but that nothing is the only best."""
    student, teacher, seed = drawn
    count = teacher.shape[2]
    rows = torch.cat([torch.arange(count), order(count, seed)])
    found = ops.region_match(student, teacher[:, :, rows], backend=backend)
    plain = ops.region_match(student, teacher, backend=backend)
    assert_same(type(plain)(rows[found.index], found.similarity, plain.margin), plain, backend)
    assert found.margin.abs().max() <= (0 if backend in BITWISE else 2e-6)
    assert backend not in BITWISE or (found.index < count).all()
    axes = torch.eye(student.shape[2])[None]  # of these no product rounds anything
    found = ops.region_match(3 * axes, (axes * torch.arange(1, 9)[:, None, None]).flatten(0, 1)[None], backend=backend)
    assert torch.equal(found.index[0], torch.arange(student.shape[2]))
    assert (found.similarity == 1).all() and not found.margin.any()


@for_all_maps
def test_rows_of_no_length_are_as_in_torchs_normalize(drawn, backend):
    """Similar to nothing, and to all alike: a student's is matched to the first. So for those that are shorter than
    1e-12, which are not made longer than that makes them."""
    student, teacher, seed = (x.float() if isinstance(x, torch.Tensor) else x for x in drawn)
    rows = [slice(0, None, 3), slice(seed % 2, None, 2)]
    student[:, rows[0]], teacher[:, :, rows[1]] = 0, 0
    found = ops.region_match(student, teacher, backend=backend)
    assert not found.index[..., rows[0]].any() and not found.similarity[..., rows[0]].any()
    cosine = F.normalize(student.double(), dim=-1)[:, None] @ F.normalize(teacher.double(), dim=-1).transpose(-2, -1)
    best, index = cosine.max(-1)
    torch.testing.assert_close(found.similarity.double(), best, rtol=0, atol=2e-6)
    clear = found.margin > CLEAR
    assert torch.equal(found.index[clear], index[clear])
    short = ops.region_match(1e-14 * student, teacher, backend=backend)
    cosine = F.normalize(1e-14 * student, dim=-1)[:, None] @ F.normalize(teacher, dim=-1).transpose(-2, -1)
    torch.testing.assert_close(short.similarity, cosine.max(-1).values, rtol=1e-5, atol=1e-8)


@for_all_maps
def test_what_is_no_number_is_matched_first_as_in_torch_max(drawn, backend):
    student, teacher, seed = drawn
    first, last = (order(teacher.shape[2], seed) % teacher.shape[2])[[0, -1]].sort().values.tolist()
    token = seed % student.shape[1]
    student[0, token, 0] = teacher[:, :, first, -1] = teacher[:, :, last, 0] = math.nan
    found = ops.region_match(student, teacher, backend=backend)
    expected = torch.full_like(found.index, first)
    expected[0, :, token] = 0
    assert torch.equal(found.index, expected) and found.similarity.isnan().all()


@for_all_maps
def test_memory_may_lie_in_any_way(drawn, backend):
    student, teacher, _ = drawn
    found = ops.region_match(
        student.transpose(0, 2).contiguous().transpose(0, 2),
        teacher.repeat_interleave(2, -1)[..., ::2],
        backend=backend,
    )
    assert_same(found, ops.region_match(student, teacher, backend=backend), backend)


@for_all_maps
def test_nothing_is_matched_to_something_but_not_to_nothing(drawn, backend):
    student, teacher, _ = drawn
    assert ops.region_match(student[:0], teacher[:0], backend=backend).index.shape == (
        0,
        *teacher.shape[1:2],
        student.shape[1],
    )
    assert ops.region_match(student[:, :0], teacher, backend=backend).index.shape == (*teacher.shape[:2], 0)
    with pytest.raises(ValueError, match="teacher must have at least one token"):
        ops.region_match(student, teacher[:, :, :0], backend=backend)


def check():
    """In Triton's interpreter."""
    for seed, prop in enumerate(PROPERTIES):
        prop(draw((2, 1, 3, 70, 9), torch.float32, seed), "triton")


@pytest.mark.skipif(_device.MISSING is not None, reason=str(_device.MISSING))
def test_in_the_interpreter():
    run_in_the_interpreter("tests.ops.test_region_match_properties", "check()")
