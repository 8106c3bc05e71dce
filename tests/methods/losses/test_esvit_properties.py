"""What holds for EsViT's loss whatever it is given: hypothesis draws images, regions, views, dtypes, weights."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from esvit_fast import ops
from esvit_fast.methods import EsViTLoss, Projection
from tests import seeds
from tests.ops.drawn import BITWISE
from tests.ops.problems import BACKENDS

ROWS = ("view", "region", "features")


def projection(batch, tokens, dtype, seed, prototypes=9, width=4, channels=6):
    g = seeds.generator(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    rows = batch * sum(tokens)
    return Projection(
        tuple(tokens),
        normal(len(tokens) * batch, width), normal(prototypes, width), 0.5 + normal(prototypes, 1).abs(),
        normal(rows, width), normal(prototypes, width), 0.5 + normal(prototypes, 1).abs(),
        normal(rows, channels),
    )  # fmt: skip


@st.composite
def problems(draw):
    """A student's views, and a teacher's first ones, of the same images."""
    tokens = [draw(st.integers(1, 12))] * 2 + [draw(st.integers(1, 5))] * draw(st.integers(0, 3))
    batch, dtype = draw(st.integers(1, 4)), draw(st.sampled_from([torch.float64, torch.float32]))
    seed = draw(st.integers(0, 999))
    teachers = draw(st.integers(1, 2))
    return (*(projection(batch, t, dtype, s) for t, s in ((tokens, seed), (tokens[:teachers], seed + 1000))), seed)


def run(student, teacher, backend, **options):
    """Loss, statistics, and gradients of the student's rows."""
    loss = EsViTLoss(9, **options).to(student.view.dtype)
    g = seeds.generator(5)
    for task in loss.tasks:
        getattr(loss, f"{task}_center").copy_(torch.randn(9, generator=g))
    rows = [student.view.detach().requires_grad_(), student.region.detach().requires_grad_()]
    with ops.backend(backend):
        value, statistics = loss(replace(student, view=rows[0], region=rows[1]), teacher, 0.3)
        return value.detach(), statistics, torch.autograd.grad(value, rows, materialize_grads=True)


def maps(p, name):
    """Rows of each view, [B, tokens, ...]; a view has one row of an image."""
    tokens = (1,) * len(p.tokens) if name == "view" else p.tokens
    batch = len(p.view) // len(p.tokens)
    return [x.unflatten(0, (batch, n)) for x, n in zip(split(getattr(p, name), p, name), tokens, strict=True)]


def split(rows, p, name):
    """Rows by view."""
    batch = len(p.view) // len(p.tokens)
    return rows.split([batch * n for n in ((1,) * len(p.tokens) if name == "view" else p.tokens)])


def changed(p, change, names=ROWS):
    """With change(map, view) for the map [B, tokens, ...] of each view."""
    found = {name: torch.cat([change(x, v).flatten(0, 1) for v, x in enumerate(maps(p, name))]) for name in names}
    return replace(p, **found)


def order(count, seed):
    return torch.randperm(count, generator=seeds.generator(seed))


def close(ours, theirs):
    tolerance = 1e-12 if theirs.dtype == torch.float64 else 2e-5
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def same(ours, theirs, backend):
    """Of the same bits, or, where products of matrices in torch promise none, close."""
    assert torch.equal(ours, theirs) if backend in BITWISE else close(ours, theirs) is None


def clear(student, teacher):
    """Whether no rounding decides what is matched."""
    return all(
        ops.region_match(s, t, backend="reference").margin.min() > 1e-5
        for s in maps(student, "features")
        for t in maps(teacher, "features")
    )


def for_all(property):
    drawn = settings(max_examples=20, deadline=None)(given(problem=problems())(property))
    return pytest.mark.parametrize("backend", BACKENDS)(drawn)


@for_all
def test_the_students_regions_may_stand_in_any_order(problem, backend):
    """In every view in another."""
    student, teacher, seed = problem
    moved = changed(student, lambda x, v: x[:, order(x.shape[1], seed + v)], ("region", "features"))
    assume(clear(student, teacher))
    (ours, _, grads), (theirs, _, plain) = (run(p, teacher, backend) for p in (moved, student))
    close(ours, theirs)
    expected = changed(replace(student, region=plain[1]), lambda x, v: x[:, order(x.shape[1], seed + v)], ("region",))
    same(grads[1], expected.region, backend)
    same(grads[0], plain[0], backend)


@for_all
def test_the_teachers_regions_may_stand_in_any_order(problem, backend):
    student, teacher, seed = problem
    moved = changed(teacher, lambda x, v: x[:, order(x.shape[1], seed + v)], ("region", "features"))
    assume(clear(student, teacher))
    (ours, _, grads), (theirs, _, plain) = (run(student, p, backend) for p in (moved, teacher))
    close(ours, theirs)
    for x, y in zip(grads, plain, strict=True):
        same(x, y, backend)


@for_all
def test_images_may_stand_in_any_order(problem, backend):
    student, teacher, seed = problem
    places = order(len(student.view) // len(student.tokens), seed)
    moved = [changed(p, lambda x, v: x[places]) for p in (student, teacher)]
    assume(clear(student, teacher))
    (ours, _, grads), (theirs, _, plain) = (run(*pair, backend) for pair in (moved, (student, teacher)))
    close(ours, theirs)
    expected = changed(replace(student, view=plain[0], region=plain[1]), lambda x, v: x[places], ("view", "region"))
    same(grads[0], expected.view, backend)
    same(grads[1], expected.region, backend)


@for_all
def test_an_image_does_not_depend_on_its_batch_mates(problem, backend):
    """The gradients of its rows: whatever the others are, and, but for the share that a batch gives it, however many.

    Of 1, 2 or 4 images those shares are powers of 2, which round nothing. The loss is the mean of those of the images.
    """
    student, teacher, _ = problem
    assume(clear(student, teacher))
    batch = len(student.view) // len(student.tokens)
    value, _, grads = run(student, teacher, backend)
    rows = replace(student, view=grads[0], region=grads[1])
    alone = []
    for b in range(batch):
        one = [changed(p, lambda x, v, b=b: x[b : b + 1]) for p in (student, teacher)]
        found, _, own = run(*one, backend)
        alone.append(found)
        shared = changed(rows, lambda x, v, b=b: x[b : b + 1], ("view", "region"))
        for ours, theirs in ((shared.view, own[0]), (shared.region, own[1])):
            same(batch * ours, theirs, backend if batch in (1, 2, 4) else "reference")
    close(value, torch.stack(alone).mean())
    # others in the place of mates, one of which is no number
    others = [
        changed(p, lambda x, v: torch.cat([x[:1], x[:1] * math.nan, 2 - x])[: len(x)]) for p in (student, teacher)
    ]
    _, _, found = run(*others, backend)
    ours = changed(replace(student, view=found[0], region=found[1]), lambda x, v: x[:1], ("view", "region"))
    theirs = changed(rows, lambda x, v: x[:1], ("view", "region"))
    same(ours.view, theirs.view, backend)
    same(ours.region, theirs.region, backend)


@for_all
def test_regions_that_are_views_cost_what_views_cost(problem, backend):
    """One region a view, with the views' rows, prototypes and centre."""
    student, teacher, _ = problem
    single = [
        replace(
            p,
            tokens=(1,) * len(p.tokens), region=p.view, region_prototypes=p.view_prototypes,
            region_weight_g=p.view_weight_g, features=p.features[: len(p.view)],
        )
        for p in (student, teacher)
    ]  # fmt: skip
    value, _, _ = run(*single, backend, view_weight=1.0, region_weight=0.0)
    both = EsViTLoss(9, 0.5, 0.5).to(value.dtype)
    g = seeds.generator(5)
    both.view_center.copy_(torch.randn(9, generator=g))
    both.region_center.copy_(both.view_center)
    with ops.backend(backend):
        together, found = both(*single, 0.3)
    close(found.region_loss, found.view_loss)
    close(together, value)
    for ours, theirs in zip(found.region, found.view, strict=True):
        close(ours, theirs)


@for_all
def test_a_constant_added_to_a_centre_changes_nothing(problem, backend):
    student, teacher, seed = problem
    losses = []
    for constant in (0, seed / 500 - 1):
        loss = EsViTLoss(9).to(student.view.dtype)
        loss.view_center += constant
        loss.region_center += constant
        with ops.backend(backend):
            losses.append(loss(student, teacher, 0.3)[0])
    close(*losses)


@for_all
def test_no_length_of_prototypes_means_ln_k(problem, backend):
    student, teacher, _ = problem
    zero = torch.zeros_like(student.view_weight_g)
    value, statistics, grads = run(replace(student, view_weight_g=zero, region_weight_g=zero), teacher, backend)
    close(value, torch.full_like(value, math.log(9)))
    close(statistics.region_loss, statistics.view_loss)
    assert not any(x.any() for x in grads)


@for_all
def test_a_row_that_is_no_number_makes_the_loss_that(problem, backend):
    """A row of the student or the teacher, of either task; features are only compared."""
    student, teacher, seed = problem
    for name in ("view", "region"):
        rows = getattr(student, name).clone()
        rows[-1 - seed % (len(rows) // 2), 0] = math.nan  # the first view has no pair if the teacher has but that
        assert run(replace(student, **{name: rows}), teacher, backend)[0].isnan()
    rows = teacher.view.clone()
    rows[seed % len(rows), 0] = math.nan
    assert run(student, replace(teacher, view=rows), backend)[0].isnan()
    features = torch.full_like(student.features, math.nan)
    assert run(replace(student, features=features), teacher, backend)[0].isfinite()
