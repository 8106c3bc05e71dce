"""The loss against its definition, written out pair by pair."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from esvit_fast.methods import EsViTLoss, Projection, koleo
from esvit_fast.methods.losses.esvit import sinkhorn_bias
from tests import seeds

F64 = torch.float64


def projection(batch, tokens, prototypes=6, width=4, channels=5, seed=0, regions=True):
    g = seeds.generator(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=F64)

    rows = batch * sum(tokens)
    view = Projection(tuple(tokens), normal(len(tokens) * batch, width), normal(prototypes, width))
    if not regions:
        return view
    return replace(
        view,
        region=normal(rows, width),
        region_prototypes=normal(prototypes, width),
        features=normal(rows, channels),
    )


def written_out(student, teacher, loss, teacher_temp):
    """EsViT's loss, equation by equation: loops over teacher views, student views, images and regions."""
    views, teachers = len(student.tokens), len(teacher.tokens)
    batch = student.view.shape[0] // views

    def cross_entropy(t, s, center):
        return -(((t - center) / teacher_temp).softmax(-1) * (s / loss.student_temp).log_softmax(-1)).sum(-1)

    def split(rows, tokens):
        return [x.view(batch, n, -1) for x, n in zip(rows.split([batch * n for n in tokens]), tokens, strict=True)]

    s_view = (student.view @ student.view_prototypes.T).view(views, batch, -1)
    t_view = (teacher.view @ teacher.view_prototypes.T).view(teachers, batch, -1)
    s_region = split(student.region @ student.region_prototypes.T, student.tokens)
    t_region = split(teacher.region @ teacher.region_prototypes.T, teacher.tokens)
    s_map, t_map = split(student.features, student.tokens), split(teacher.features, teacher.tokens)
    view_terms, region_terms = [], []
    for q in range(teachers):
        for v in range(views):
            if v == q:
                continue
            view_terms.append(cross_entropy(t_view[q], s_view[v], loss.view_center).mean())
            for b in range(batch):
                cosine = F.normalize(s_map[v][b], dim=-1) @ F.normalize(t_map[q][b], dim=-1).T
                best = cosine.argmax(-1)
                region_terms.append(cross_entropy(t_region[q][b][best], s_region[v][b], loss.region_center).mean())
    return sum(view_terms) / len(view_terms), sum(region_terms) / len(region_terms)


def make_loss(seed=3, **options):
    loss = EsViTLoss(6, **options).to(F64)
    g = seeds.generator(seed)
    for task in loss.tasks:
        getattr(loss, f"{task}_center").copy_(torch.randn(6, generator=g))
    return loss


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    global_tokens=st.integers(1, 5),
    local_tokens=st.lists(st.integers(1, 4), max_size=4),
    weights=st.sampled_from([(0.5, 0.5), (0.3, 1.7), (0.0, 1.0)]),
    seed=st.integers(0, 99),
)
def test_equals_the_definition(batch, global_tokens, local_tokens, weights, seed):
    tokens = [global_tokens, global_tokens, *local_tokens]
    student, teacher = projection(batch, tokens, seed=seed), projection(batch, tokens[:2], seed=seed + 100)
    loss = make_loss(view_weight=weights[0], region_weight=weights[1])
    both = make_loss()
    both.region_center.copy_(loss.region_center)
    if "view" in loss.tasks:
        both.view_center.copy_(loss.view_center)
    value, statistics = loss(student, teacher, teacher_temp=0.4)
    view, region = written_out(student, teacher, both, 0.4)
    torch.testing.assert_close(value, weights[0] * view + weights[1] * region, rtol=1e-12, atol=0)
    torch.testing.assert_close(statistics.region_loss, region, rtol=1e-12, atol=0)
    assert (statistics.view_loss is None) == (weights[0] == 0)


def test_without_regions_it_is_dino():
    student, teacher = (projection(3, [1, 1, 1], regions=False, seed=s) for s in (1, 2))
    loss = make_loss(view_weight=1.0, region_weight=0.0)
    value, statistics = loss(student, teacher, teacher_temp=0.4)
    s = (student.view @ student.view_prototypes.T / 0.1).log_softmax(-1).chunk(3)
    t = ((teacher.view[:6] @ teacher.view_prototypes.T - loss.view_center) / 0.4).softmax(-1).chunk(2)
    terms = [-(t[q] * s[v]).sum(-1).mean() for q in range(2) for v in range(3) if v != q]
    loss_with_two = loss(student, Projection((1, 1), teacher.view[:6], teacher.view_prototypes), 0.4)[0]
    torch.testing.assert_close(loss_with_two, sum(terms) / len(terms), rtol=1e-13, atol=0)
    assert value != loss_with_two
    assert statistics.region is None and statistics.match is None
    assert not hasattr(loss, "region_center")


def test_given_logits_equal_given_prototypes():
    student, teacher = projection(2, [3, 3, 2], seed=1), projection(2, [3, 3], seed=2)

    def as_logits(p):
        return Projection(
            p.tokens, view=p.view @ p.view_prototypes.T, region=p.region @ p.region_prototypes.T, features=p.features
        )

    fused, given = make_loss(), make_loss()
    a = fused(student, teacher, 0.4)[0]
    b = given(as_logits(student), as_logits(teacher), 0.4)[0]
    torch.testing.assert_close(a, b, rtol=1e-13, atol=0)
    fused.update_centers(), given.update_centers()
    torch.testing.assert_close(fused.region_center, given.region_center, rtol=1e-12, atol=1e-14)


def test_centers_follow_the_mean_of_all_micro_batches():
    loss = make_loss(center_momentum=0.8)
    before = {task: getattr(loss, f"{task}_center").clone() for task in loss.tasks}
    teacher = projection(2, [3, 3], seed=10)
    batches = [
        (projection(2, [3, 3], seed=s), replace(teacher, view=s * teacher.view, region=teacher.region - s))
        for s in (1, 2, 3)
    ]
    for student, teacher in batches:
        loss(student, teacher, 0.4)
        assert torch.equal(loss.view_center, before["view"])
    loss.update_centers()
    for task in loss.tasks:
        logits = torch.cat([getattr(t, task) @ getattr(t, f"{task}_prototypes").T for _, t in batches])
        expected = 0.8 * before[task] + 0.2 * logits.mean(0)
        torch.testing.assert_close(getattr(loss, f"{task}_center"), expected, rtol=1e-12, atol=1e-14)
    after = loss.view_center.clone()
    loss.update_centers()
    assert torch.equal(loss.view_center, after)


def test_forgotten_batches_do_not_move_the_centers():
    loss = make_loss()
    before = loss.view_center.clone()
    loss(projection(2, [3, 3]), projection(2, [3, 3]), 0.4)
    loss.forget()
    loss.update_centers()
    assert torch.equal(loss.view_center, before)


class Work:
    """What an asynchronous reduction returns: the sum is there once it was waited for."""

    def __init__(self, tensor):
        self.tensor, self.waited = tensor, 0

    def wait(self):
        self.waited += 1
        self.tensor.mul_(4)


@pytest.mark.parametrize("begun", [False, True])
def test_centers_are_reduced_beside_the_backward_pass(begun):
    works = []
    loss, alone = make_loss(all_reduce=lambda x: works.append(Work(x)) or works[-1]), make_loss()
    given = projection(2, [3, 3]), projection(2, [3, 3], seed=9), 0.4
    loss(*given), alone(*given)
    if begun:
        loss.reduce_centers()
        assert len(works) == 1
        assert works[0].waited == 0
        with pytest.raises(RuntimeError, match="call update_centers or forget before the next forward pass"):
            loss(*given)
    loss.update_centers(), alone.update_centers()
    assert [work.waited for work in works] == [1]
    torch.testing.assert_close(loss.region_center, alone.region_center, rtol=1e-12, atol=1e-14)
    loss(*given)
    loss.reduce_centers()
    before = loss.region_center.clone()
    loss.forget()
    assert works[1].waited == 1
    loss.update_centers()
    assert torch.equal(loss.region_center, before)


def test_centers_of_several_ranks():
    reduced = []
    loss, alone = make_loss(all_reduce=lambda x: reduced.append(x.mul_(4))), make_loss()
    for one in (loss, alone):
        one(projection(2, [3, 3]), projection(2, [3, 3], seed=9), 0.4)
    loss.update_centers()
    alone.update_centers()
    assert [len(x) for x in reduced] == [2 * (4 + 1)]  # the width of the bottleneck, not the number of prototypes
    torch.testing.assert_close(loss.view_center, alone.view_center)


def test_centers_may_move_before_the_backward_pass():
    student, teacher = projection(2, [3, 3, 2], seed=1), projection(2, [3, 3], seed=2)
    grads = []
    for update_first in (False, True):
        loss = make_loss()
        rows = student.region.clone().requires_grad_()
        value, _ = loss(replace(student, region=rows), teacher, 0.4)
        if update_first:
            loss.update_centers()
        grads.append(torch.autograd.grad(value, rows)[0])
    assert torch.equal(*grads)
    assert grads[0].abs().max() > 1e-4


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (projection(2, [3]), projection(2, [3]), "the student has 1, the teacher 1; pass at least 2"),
        (projection(2, [3, 3]), projection(2, [3, 3, 3]), "the student has 2, the teacher 3"),
        (projection(2, [3, 3]), projection(3, [3, 3]), r"teacher.view has 6 rows; 2 images must have 2 each"),
        (projection(2, [3, 3], regions=False), projection(2, [3, 3]), "student.region is None, but region_weight=0.5"),
    ],
)
def test_views_that_do_not_fit(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        make_loss()(student, teacher, 0.4)


def test_koleo_adds_the_spread_of_the_views_that_the_teacher_sees():
    student, teacher = projection(4, [3, 3, 2], seed=1), projection(4, [3, 3], seed=2)
    student.view.requires_grad_(True)
    plain, plain_statistics = make_loss()(student, teacher, 0.4)
    loss, statistics = make_loss(koleo_weight=0.3)(student, teacher, 0.4)
    expected = (koleo(student.view[:4]) + koleo(student.view[4:8])) / 2
    torch.testing.assert_close(loss - plain, 0.3 * expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(statistics.koleo_loss, expected.detach(), rtol=1e-13, atol=0)
    assert plain_statistics.koleo_loss is None and not statistics.koleo_loss.requires_grad
    gradient, plain_gradient, own = (torch.autograd.grad(x, student.view)[0] for x in (loss, plain, expected))
    torch.testing.assert_close(gradient, plain_gradient + 0.3 * own, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("weights", [{"koleo_weight": -1.0}, {"koleo_weight": 0.1, "view_weight": 0.0}])
def test_koleo_weights_that_cannot_be(weights):
    with pytest.raises(ValueError, match=r"koleo_weight=.* must not be negative, nor be used with view_weight=0"):
        EsViTLoss(6, **weights)


def test_weights_of_zero():
    with pytest.raises(ValueError, match=r"view_weight=0 and region_weight=0 must not be negative nor both 0"):
        EsViTLoss(6, 0, 0)


def test_uniform_teacher_and_student_cost_ln_k():
    student, teacher = projection(2, [3, 3]), projection(2, [3, 3])
    zero = torch.zeros_like(student.view_prototypes)
    student, teacher = (replace(p, view_prototypes=zero, region_prototypes=zero) for p in (student, teacher))
    value, statistics = EsViTLoss(6).to(F64)(student, teacher, 0.4)
    assert value.item() == pytest.approx(math.log(6), rel=1e-12)
    assert statistics.view.teacher_entropy.item() == pytest.approx(math.log(6), rel=1e-12)
    assert statistics.view.kl.item() == pytest.approx(0, abs=1e-12)


def test_sinkhorn_gives_every_prototype_the_same_share():
    logits = 5 * torch.randn(40, 6, dtype=F64, generator=seeds.generator(0)) + torch.arange(6)
    plain = logits.softmax(-1).mean(0)
    balanced = (logits + sinkhorn_bias(logits, iterations=200)).softmax(-1)
    assert plain.max() > 0.25
    torch.testing.assert_close(balanced.mean(0), torch.full((6,), 1 / 6, dtype=F64), rtol=1e-6, atol=0)
    # scaling rows and columns keeps every cross-ratio
    ratio = logits.softmax(-1).log() - balanced.log()
    torch.testing.assert_close(ratio - ratio[:, :1], (ratio - ratio[:, :1])[:1].expand(40, -1))


def test_sinkhorn_over_ranks_is_that_of_all_rows():
    logits = torch.randn(8, 6, dtype=F64, generator=seeds.generator(0))
    whole = sinkhorn_bias(logits.repeat(2, 1))
    torch.testing.assert_close(sinkhorn_bias(logits, all_reduce=lambda x: x.mul_(2)), whole)


def test_sinkhorn_loss_is_that_of_balanced_targets():
    student, teacher = (projection(3, [1, 1], regions=False, seed=s) for s in (1, 2))
    loss = make_loss(view_weight=1.0, region_weight=0.0, centering="sinkhorn")
    logits = teacher.view @ teacher.view_prototypes.T / 0.4
    target = (logits + sinkhorn_bias(logits)).softmax(-1).view(2, 3, 6)
    log_p = (student.view @ student.view_prototypes.T / 0.1).log_softmax(-1).view(2, 3, 6)
    expected = -(target.flip(0) * log_p).sum(-1).mean()
    torch.testing.assert_close(loss(student, teacher, 0.4)[0], expected, rtol=1e-12, atol=0)
    center = loss.view_center.clone()
    loss.update_centers()
    assert torch.equal(loss.view_center, center)
    with pytest.raises(ValueError, match="centering='median' must be mean or sinkhorn"):
        EsViTLoss(6, centering="median")


def test_statistics_of_matches():
    """Two views of one image; three regions of the student meet two of the teacher's in each of the other's views."""
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], dtype=F64)
    g = seeds.generator(0)
    rows, prototypes = torch.randn(6, 4, generator=g, dtype=F64), torch.randn(6, 4, generator=g, dtype=F64)
    student = Projection((3, 3), region=rows, region_prototypes=prototypes, features=features.repeat(2, 1))
    teacher = replace(student, tokens=(2, 2), region=rows[:4], features=torch.eye(2, dtype=F64).repeat(2, 1))
    _, statistics = EsViTLoss(6, view_weight=0.0).to(F64)(student, teacher, 0.4)
    near = 0.9 / math.hypot(0.9, 0.1)
    assert statistics.match.similarity.item() == pytest.approx((1 + near + 1) / 3)
    assert statistics.match.margin.item() == pytest.approx((1 + near * 8 / 9 + 1) / 3)
    assert statistics.match.repeated.item() == pytest.approx(1 / 3)


def test_teachers_of_two_sizes():
    student, teacher = projection(2, [3, 2, 2], seed=1), projection(2, [3, 2], seed=2)
    loss = make_loss()
    value, _ = loss(student, teacher, 0.4)
    view, region = written_out(student, teacher, loss, 0.4)
    torch.testing.assert_close(value, 0.5 * view + 0.5 * region, rtol=1e-12, atol=0)


@pytest.mark.parametrize("chunk", [1, 40, 80, 10_000])
def test_sinkhorn_of_few_prototypes_at_a_time(chunk):
    g = seeds.generator(0)
    rows, prototypes, weight_g = (torch.randn(*s, generator=g, dtype=F64) for s in ((20, 4), (9, 4), (9, 1)))
    logits = rows @ (weight_g * prototypes / prototypes.norm(dim=1, keepdim=True)).T
    expected, row = logits / 0.3, 0.0
    for _ in range(3):
        bias = -(expected + row).logsumexp(0)
        row = -(expected + bias).logsumexp(1, keepdim=True)
    found = sinkhorn_bias(rows, prototypes, weight_g, temp=0.3, chunk=chunk)
    torch.testing.assert_close(found, bias - bias.mean(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sinkhorn_bias(logits, temp=0.3, chunk=chunk), found, rtol=1e-12, atol=1e-12)
