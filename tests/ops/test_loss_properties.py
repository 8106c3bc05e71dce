"""What holds for both cross-entropies whatever they are given: hypothesis draws shapes, dtypes, temperatures, rows."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from esvit_fast.ops import Pairs
from esvit_fast.ops._core import triton as _device
from tests import seeds

from .drawn import (
    BITWISE,
    DTYPES,
    KINDS,
    PROPERTIES,
    Problem,
    assert_close,
    assert_same,
    change,
    for_every_problem,
    make,
    run,
)
from .harness import run_in_the_interpreter

F32_UP = (torch.float64, torch.float32)


def joined(*lists: Pairs) -> Pairs:
    return Pairs(*map(torch.cat, zip(*lists, strict=True)))


def uniform(p: Problem) -> torch.Tensor:
    """The loss of students without an opinion."""
    return p.pairs.weight.double().sum() * math.log(p.prototypes)


def cross_entropies(p: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """log_softmax of the student's rows of all pairs, and the teacher's centred logits, float64."""
    student, teacher = p.logits()
    return (student / p.student_temp).log_softmax(-1)[p.pairs.student_row], teacher - p.center


@for_every_problem()
def test_students_may_stand_in_any_order(p, backend):
    order = p.order(len(p.student))
    pairs = p.pairs._replace(student_row=order.argsort()[p.pairs.student_row])
    moved, plain = run(change(p, student=p.student[order], pairs=pairs), backend), run(p, backend)
    assert_same(moved["student"], plain["student"][order], p, backend)
    assert_close(moved, plain | {"student": plain["student"][order]}, p)


@for_every_problem()
def test_teachers_may_stand_in_any_order(p, backend):
    order = p.order(len(p.teacher))
    pairs = p.pairs._replace(teacher_row=order.argsort()[p.pairs.teacher_row])
    moved, plain = run(change(p, teacher=p.teacher[order], pairs=pairs), backend), run(p, backend)
    assert_same(moved["student"], plain["student"], p, backend)
    assert_same(moved["loss"], plain["loss"], p, backend, "loss")
    assert_close(moved, plain, p)


@for_every_problem()
def test_pairs_may_stand_in_any_order(p, backend):
    order = p.order(len(p.pairs.weight))
    assert_close(run(change(p, pairs=Pairs(*(x[order] for x in p.pairs))), backend), run(p, backend), p)


@for_every_problem()
def test_prototypes_may_stand_in_any_order(p, backend):
    order = p.order(p.prototypes)
    moved = {name: x[order] for name, x in p.weights.items()} | {"center": p.center[order]}
    if not p.weights:
        moved |= {"student": p.student[:, order], "teacher": p.teacher[:, order]}
    plain = run(p, backend)
    grads = {name: x[order] for name, x in plain.items() if name in p.weights}
    if not p.weights:
        grads["student"] = plain["student"][:, order]
    assert_close(run(change(p, **moved), backend), plain | grads, p)


@for_every_problem(examples=40, interpreted=False)
def test_an_image_does_not_depend_on_its_batch_mates(p, backend):
    """Bit for bit, unless torch multiplies the matrices: the gradients of its rows, and, given prototypes, the loss of
    its pairs alone."""
    own = [torch.arange(len(p.student)), torch.arange(len(p.teacher))]
    rows, teachers = ((1, 3), (20, 1), (300, 40), (530, 300))[p.order(4, 2)[0]]
    sizes = rows, teachers, p.prototypes, p.student.shape[1], 90
    mates = make("logits" if not p.weights else "prototypes", p.dtype, sizes, (1, 1), p.seed + 1)
    if p.seed % 3 == 0:  # whatever they are
        mates.student[0], mates.teacher[0] = math.nan, math.inf
    pairs = mates.pairs
    if p.seed % 2:  # before the image, or behind it
        crowd = {"student": torch.cat([mates.student, p.student]), "teacher": torch.cat([mates.teacher, p.teacher])}
        own = [x + len(m) for x, m in zip(own, (mates.student, mates.teacher), strict=True)]
    else:
        crowd = {"student": torch.cat([p.student, mates.student]), "teacher": torch.cat([p.teacher, mates.teacher])}
        pairs = Pairs(pairs.student_row + len(p.student), pairs.teacher_row + len(p.teacher), pairs.weight)
    image = Pairs(own[0][p.pairs.student_row], own[1][p.pairs.teacher_row], p.pairs.weight)
    alone = run(p, backend)
    for together in (joined(pairs, image), joined(image, pairs)):
        found = run(change(p, **crowd, pairs=together), backend)["student"][own[0]]
        # float16 has fewer bits below 2^-14, where weights decide what is
        kept = alone["student"].abs() >= 4 * 2**-14 * (p.dtype == torch.float16)
        assert_same(found[kept], alone["student"][kept], p, backend)
    assert_same(run(change(p, **crowd, pairs=image), backend)["loss"], alone["loss"], p, backend, "loss")


@for_every_problem(kinds=("logits",))
def test_the_gradient_of_logits_sums_to_zero(p, backend):
    gradient = run(p, backend)["student"]
    allowed = torch.finfo(p.dtype).eps * gradient.double().abs().sum(-1) + p.slack() * p.share / p.student_temp
    assert (gradient.double().sum(-1).abs() <= allowed + 1e-7 * p.prototypes * (p.dtype == torch.float16)).all()


@for_every_problem(kinds=("lengths",))
def test_directions_get_no_gradient_along_themselves(p, backend):
    found, v = run(p, backend), p.weights["student_weight"].double()
    dv, dg = (found[name].double() for name in ("student_weight", "student_weight_g"))
    size = (dv.norm(dim=1) * v.norm(dim=1))[:, None] + dg.abs() + p.share / p.student_temp
    least = 1e-7 * v.abs().sum(1, keepdim=True) * (p.dtype == torch.float16)
    allowed = p.slack() * size + torch.finfo(p.dtype).eps * (dv * v).abs().sum(1, keepdim=True) + least
    assert ((dv * v).sum(1, keepdim=True).abs() <= allowed).all()


@for_every_problem(dtypes=F32_UP)
def test_a_constant_added_to_all_scores_of_a_row_changes_nothing(p, backend):
    g = seeds.generator(p.seed)
    moved = {"center": p.center + 2 * torch.randn(1, generator=g).to(p.exact)}
    if not p.weights:
        each = 2 * torch.randn(2, max(len(p.student), len(p.teacher)), 1, generator=g).to(p.dtype)
        moved["student"], moved["teacher"] = (
            p.student + each[0, : len(p.student)],
            p.teacher + each[1, : len(p.teacher)],
        )
    elif "student_weight_g" not in p.weights:  # scores are linear in the prototypes
        for name in ("student_weight", "teacher_weight"):
            moved[name] = p.weights[name] + torch.randn(p.student.shape[1], generator=g).to(p.dtype)
    moved = change(p, **moved)
    assert_close(run(moved, backend), run(p, backend), p, p.slack() + moved.slack())


@for_every_problem(dtypes=F32_UP)
def test_a_cold_teacher_is_hard_cross_entropy(p, backend):
    log_p, scores = cross_entropies(p)
    best, gap = scores.argmax(-1)[p.pairs.teacher_row], 1.0
    if p.prototypes > 1:
        top = scores.topk(2).values
        gap = (top[:, 0] - top[:, 1]).min().item()
        assume(gap > 1e-3)
    expected = -(p.pairs.weight * log_p.gather(1, best[:, None])[:, 0]).sum()
    assert_close(run(change(p, teacher_temp=gap / 200), backend), {"loss": expected}, p)


@for_every_problem()
def test_a_hot_teacher_means_all_prototypes_alike(p, backend):
    log_p, _ = cross_entropies(p)
    found = run(change(p, teacher_temp=1e9), backend)
    assert_close(found, {"loss": -(p.pairs.weight * log_p.mean(-1)).sum()}, p, p.slack() + 1e-8)
    assert found["statistics"][0].item() == pytest.approx(math.log(p.prototypes), rel=1e-5, abs=1e-6)


@for_every_problem()
def test_equal_teachers_count_as_one_with_both_weights(p, backend):
    copies = p.pairs._replace(teacher_row=p.pairs.teacher_row + len(p.teacher))
    both = change(p, teacher=p.teacher.repeat(2, 1), pairs=joined(p.pairs, copies))
    double = change(p, pairs=p.pairs._replace(weight=2 * p.pairs.weight))
    assert_close(run(both, backend), run(double, backend), double)


@for_every_problem()
def test_a_pair_twice_is_a_pair_of_both_weights(p, backend):
    again = p.pairs._replace(weight=3 * p.pairs.weight)
    sum_of_weights = change(p, pairs=p.pairs._replace(weight=4 * p.pairs.weight))
    assert_close(run(change(p, pairs=joined(p.pairs, again)), backend), run(sum_of_weights, backend), sum_of_weights)


@for_every_problem()
def test_pairs_that_weigh_nothing_add_nothing(p, backend):
    nothing = Pairs(
        p.order(len(p.student)), p.order(len(p.student), 2) % len(p.teacher), p.center.new_zeros(len(p.student))
    )
    assert_close(run(change(p, pairs=joined(p.pairs, nothing)), backend), run(p, backend), p)
    only = run(change(p, pairs=nothing), backend)
    assert all(not x.any() for name, x in only.items() if name != "statistics")


@for_every_problem()
def test_rows_of_zeros_have_no_opinion(p, backend):
    found = run(change(p, student=torch.zeros_like(p.student)), backend)
    assert_close(found, {"loss": uniform(p)}, p)
    found = run(change(p, teacher=torch.zeros_like(p.teacher), center=torch.zeros_like(p.center)), backend)
    assert found["statistics"][0].item() == pytest.approx(math.log(p.prototypes), rel=1e-6, abs=1e-6)


@for_every_problem(kinds=("lengths",))
def test_prototypes_without_length_mean_ln_k_and_their_lengths_still_learn(p, backend):
    found = run(change(p, student_weight_g=torch.zeros_like(p.weights["student_weight_g"])), backend)
    assert_close(found, {"loss": uniform(p)}, p)
    assert not found["student"].any() and not found["student_weight"].any()
    assert found["student_weight_g"].any() or p.prototypes == 1


@for_every_problem(widest=1)
def test_a_single_prototype_is_certain(p, backend):
    found = run(p, backend)
    assert_close(found, {name: torch.zeros_like(x) for name, x in found.items() if name != "statistics"}, p)
    assert_close(found, {"statistics": found["loss"].new_tensor([0, 0, 0, 1, 1])}, p)


@for_every_problem()
def test_a_row_that_is_no_number_spoils_the_loss_and_no_row_it_is_not_paired_with(p, backend):
    r, m = p.pairs.student_row[0], p.pairs.teacher_row[-1]
    plain = run(p, backend)
    for student, row in ((True, r), (False, m)):
        rows = (p.student if student else p.teacher).clone()
        rows[row, p.seed % rows.shape[1]] = math.nan
        found = run(change(p, **{"student" if student else "teacher": rows}), backend)
        hit = torch.zeros(len(p.student), dtype=torch.bool)
        hit[row if student else p.pairs.student_row[p.pairs.teacher_row == m]] = True
        assert found["loss"].isnan() and found["student"][hit].isnan().all()
        assert_same(found["student"][~hit], plain["student"][~hit], p, backend)
        assert all(x.isnan().all() for name, x in found.items() if name in p.weights)
    # beyond all pairs it spoils what is summed over all rows: prototypes, but neither the loss nor other rows
    rows = torch.cat([p.student, torch.full_like(p.student[:1], math.nan)])
    found = run(change(p, student=rows), backend)
    assert_same(found["loss"], plain["loss"], p, backend, "loss")
    assert_same(found["student"][:-1], plain["student"], p, backend)
    assert all(x.isnan().all() for name, x in found.items() if name in p.weights)


@for_every_problem(kinds=("logits",))
def test_infinite_logits_are_as_in_torch(p, backend):
    """In the student's an infinite loss where the teacher means it; else a score of no weight, or no number."""
    r, m, k = p.pairs.student_row[0], p.pairs.teacher_row[0], p.seed % p.prototypes
    for name, row, value in (
        ("student", r, math.inf), ("student", r, -math.inf), ("teacher", m, math.inf), ("teacher", m, -math.inf),
        ("center", None, math.inf), ("center", None, -math.inf),
    ):  # fmt: skip
        changed = getattr(p, name).clone()
        changed[(k,) if row is None else (row, k)] = value
        q = change(p, **{name: changed})
        x = q.student.to(q.exact).requires_grad_()
        log_p = (x / q.student_temp).log_softmax(-1)
        target = ((q.teacher.to(q.exact) - q.center) / q.teacher_temp).softmax(-1)
        assume(not (name == "student" and value < 0 and (target[:, k] == 0).any()))
        loss = -(q.pairs.weight[:, None] * target[q.pairs.teacher_row] * log_p[q.pairs.student_row]).sum()
        found = run(q, backend)
        (grad,) = torch.autograd.grad(loss, x)
        both = torch.stack([found["loss"], loss.detach()]).double()
        assert torch.equal(*both.isnan()) and torch.equal(*both.isinf()), (name, value, both)
        assert torch.equal(found["student"].isfinite(), grad.isfinite()), (name, value)
        kept = grad.isfinite()
        expected = {"student": grad[kept]} | ({"loss": loss.detach()} if loss.isfinite() else {})
        if kept.any():
            assert_close(found | {"student": found["student"][kept]}, expected, p)


@for_every_problem()
def test_a_prototype_that_the_centre_rules_out_is_never_meant(p, backend):
    k = p.seed % p.prototypes
    assume(p.prototypes > 1)
    center = p.center.clone()
    center[k] = math.inf
    kept = [i for i in range(p.prototypes) if i != k]
    log_p, scores = cross_entropies(p)
    target = (scores[:, kept] / p.teacher_temp).softmax(-1)[p.pairs.teacher_row]
    found = run(change(p, center=center), backend)
    assert_close(found, {"loss": -(p.pairs.weight * (target * log_p[:, kept]).sum(-1)).sum()}, p)
    assert all(x.isfinite().all() for x in found.values())


@for_every_problem(kinds=("lengths",))
def test_a_prototype_of_no_direction_is_no_number_as_in_torchs_weight_norm(p, backend):
    k = p.seed % p.prototypes
    for name in ("student_weight", "teacher_weight"):
        weight = p.weights[name].clone()
        weight[k] = 0
        assert torch._weight_norm(weight.float(), p.weights[f"{name}_g"].float().view(-1, 1), 0)[k].isnan().all()
        found = run(change(p, **{name: weight}), backend)
        assert found["loss"].isnan()
        assert all(x.isnan().all() for key, x in found.items() if key in p.weights)


@for_every_problem(kinds=("prototypes", "lengths"), dtypes=F32_UP)
def test_rows_of_no_length_are_normalised_as_by_torch(p, backend):
    """Their scores are 0; what comes before the normalisation still gets a finite gradient."""
    before = p.student.clone()
    row = p.pairs.student_row[0]
    before[row] = 0
    before.requires_grad_()
    gradient = run(change(p, student=F.normalize(before.detach(), dim=-1)), backend)["student"]
    (found,) = torch.autograd.grad(F.normalize(before, dim=-1), before, gradient)
    assert found.isfinite().all()
    alone = change(p, student=torch.zeros_like(p.student[:1]), pairs=Pairs(*(x[:1] for x in p.pairs)))
    alone = change(alone, pairs=alone.pairs._replace(student_row=torch.zeros(1, dtype=torch.int64)))
    assert_close(run(alone, backend), {"loss": uniform(alone)}, alone)


@for_every_problem()
def test_memory_and_integers_may_lie_in_any_way(p, backend):
    """Turned, in every third place, or the same everywhere; rows may be counted in int32."""

    def turned(x):
        return x.T.contiguous().T

    def scattered(x):
        return x.new_full((*x.shape[:-1], 3 * x.shape[-1]), math.nan).copy_(x.repeat_interleave(3, -1))[..., ::3]

    fields = {
        "student": turned(p.student),
        "teacher": scattered(p.teacher),
        "center": scattered(p.center),
        "pairs": Pairs(*(x.repeat_interleave(2)[::2] for x in p.pairs)),
    } | {name: (turned(x) if p.seed % 2 and x.ndim == 2 else scattered(x)) for name, x in p.weights.items()}
    plain = run(p, backend)
    counted = p.pairs._replace(student_row=p.pairs.student_row.int(), teacher_row=p.pairs.teacher_row.int())
    for found in (run(change(p, **fields), backend), run(change(p, pairs=counted), backend)):
        if backend in BITWISE:
            assert all(torch.equal(found[name], x) for name, x in plain.items())
        assert_close(found, plain, p)
    one = p.center[:1].expand(p.prototypes)
    assert_close(run(change(p, center=one), backend), run(change(p, center=one.contiguous()), backend), p)


@for_every_problem(interpreted=False)
def test_the_teacher_may_have_another_dtype(p, backend):
    teacher = (1.2345 * p.teacher.double()).to(DTYPES[p.seed % 4])
    mixed = change(p, teacher=teacher)
    found, plain = run(mixed, backend), run(change(p, teacher=teacher.to(p.exact)), "reference")
    assert found["student"].dtype == p.dtype
    assert_close(found, plain, p)


@settings(max_examples=20, deadline=None)
@given(kind=st.sampled_from(KINDS), which=st.integers(0, 4), seed=st.integers(0, 99))
def test_nothing_is_refused(kind, which, seed):
    sizes = [3, 4, 5, 6, 7]
    p = make(kind, torch.float32, sizes, (0.1, 0.1), seed)
    rows = "logits" if kind == "logits" else ""
    none = [
        ({"student": p.student[:0]}, rf"student(_{rows})? has shape \(0, \d\); it must be a non-empty matrix"),
        ({"teacher": p.teacher[:0]}, rf"teacher(_{rows})? has shape \(0, \d\); it must be a non-empty matrix"),
        ({"pairs": Pairs(*(x[:0] for x in p.pairs))}, "pairs are empty; the loss of no pair is undefined"),
        ({"student": p.student[:, :0], "teacher": p.teacher[:, :0]}, r"has shape \(3, 0\); it must be a non-empty"),
        (
            {"center": p.center[:0]} | {name: x[:0] for name, x in p.weights.items()},
            r"must have K=5 prototypes" if kind == "logits" else "student_weight has shape .* non-empty matrix",
        ),
    ]
    fields, message = none[which]
    with pytest.raises(ValueError, match=message):
        run(change(p, **fields), "reference")


@settings(max_examples=10, deadline=None)
@given(
    rows=st.sampled_from([11520, 43520, 174080]),
    prototypes=st.sampled_from([65536, 131072]),
    kind=st.sampled_from(KINDS),
)
def test_more_logits_than_int32_counts_have_shapes(rows, prototypes, kind):
    """Those of 256 images of ViT-S/16, for one: nothing is computed, and nothing is allocated."""
    p = make(kind, torch.float32, [1, 1, 1, 4, 1], (0.1, 0.1), 0)

    def wide(name, x):
        shape = [prototypes if s == 1 else s for s in x.shape] if name.endswith(("weight", "g")) else list(x.shape)
        if name.endswith("_g"):
            shape[1:] = [1] * (x.ndim - 1)
        return torch.empty(shape, device="meta")

    width = prototypes if kind == "logits" else 4
    pairs = Pairs(*(torch.empty(2 * rows, dtype=x.dtype, device="meta") for x in p.pairs))
    weights = {name: wide(name, x) for name, x in p.weights.items()}
    rows_of = {"student": torch.empty(rows, width, device="meta"), "teacher": torch.empty(99, width, device="meta")}
    big = change(p, **rows_of, center=torch.empty(prototypes, device="meta"), pairs=pairs)
    big = change(big, **weights)
    found = run(big, "reference")
    assert found["loss"].shape == () and found["student"].shape == (rows, width)
    assert all(found[name].shape == x.shape for name, x in weights.items() if name in found)


def check(seed):
    """Every property of the loss with its last layer, in sizes that are no multiples of Triton's blocks."""
    for prop, drawn in PROPERTIES:
        kind, prototypes = drawn.get("kinds", KINDS)[-1], 1 if "widest" in drawn else 37
        if kind != "logits":
            prop(make(kind, torch.float32, [5, 4, prototypes, 7, 9], (0.2, 0.1), seed), "triton")


@pytest.mark.skipif(_device.MISSING is not None, reason=str(_device.MISSING))
def test_in_the_interpreter():
    run_in_the_interpreter("tests.ops.test_loss_properties", "check(3)")
