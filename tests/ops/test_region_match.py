"""Matching regions by cosine similarity."""

import pytest
import torch
from torch.library import opcheck

from esvit_fast import ops


def test_is_the_first_maximum_of_the_cosine_similarity():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 7, 5, dtype=torch.float64), torch.randn(3, 11, 5, dtype=torch.float64)
    index, similarity = ops.region_match(student, teacher)
    cosine = torch.nn.functional.cosine_similarity(student[:, :, None], teacher[:, None], dim=-1)
    assert index.dtype == torch.int64
    assert torch.equal(index, cosine.argmax(-1))
    torch.testing.assert_close(similarity, cosine.max(-1).values)


def test_ties_go_to_the_first():
    teacher = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]])
    index, similarity = ops.region_match(torch.tensor([[[5.0, 0.0], [0.0, 0.0]]]), teacher)
    assert index.tolist() == [[1, 0]]
    assert similarity.tolist() == [[1.0, 0.0]]


def test_length_of_features_does_not_matter():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 8), torch.randn(2, 6, 8)
    scaled = ops.region_match(student * 2, teacher * torch.tensor([1.0, 4.0, 0.5, 8.0, 2.0, 16.0])[:, None])
    assert torch.equal(scaled[0], ops.region_match(student, teacher)[0])


def test_half_precision_features_are_compared_in_float32():
    torch.manual_seed(0)
    common = torch.randn(1, 1, 64)
    student, teacher = (common + 0.05 * torch.randn(1, 49, 64) for _ in range(2))
    exact = ops.region_match(student, teacher)[0]
    assert torch.equal(
        ops.region_match(student.bfloat16().float(), teacher.bfloat16().float())[0],
        ops.region_match(student.bfloat16(), teacher.bfloat16())[0],
    )
    rounded = ops.region_match(student, teacher, match_dtype=torch.bfloat16)[0]
    assert (rounded != exact).float().mean() > 0.2
    # ties of rounded similarities pull matches to the first regions
    assert rounded.float().mean() < 0.7 * exact.float().mean()


def test_gives_no_gradient():
    student = torch.randn(1, 3, 4, requires_grad=True)
    assert not ops.region_match(student, student)[1].requires_grad


def test_opcheck():
    student = torch.randn(2, 3, 4)
    for teacher, dtype in ((torch.randn(2, 5, 4), None), (torch.randn(5, 2, 4).transpose(0, 1), torch.bfloat16)):
        opcheck(torch.ops.esvit_fast.region_match.default, (student, teacher, dtype, "reference"))
    opcheck(torch.ops.esvit_fast.region_match.default, (student[:0], torch.randn(0, 5, 4), None, "reference"))


@pytest.mark.parametrize(
    ("student", "teacher", "error", "message"),
    [
        (
            torch.zeros(2, 3),
            torch.zeros(1, 2, 3),
            ValueError,
            r"student has shape \(2, 3\); it must be \[B, tokens, C\]",
        ),
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
    torch.manual_seed(0)
    student, teacher = (torch.randn(1, 1, 64) + 0.05 * torch.randn(1, 49, 64) for _ in range(2))
    exact = ops.region_match(student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        cast = ops.region_match(student, teacher)
    assert torch.equal(exact[0], cast[0]) and torch.equal(exact[1], cast[1])
