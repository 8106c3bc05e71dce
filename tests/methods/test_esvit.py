"""Student, teacher and heads together."""

import copy

import pytest
import torch
from timm.layers import DropPath

from esvit_fast.methods import EsViT
from esvit_fast.models import create_model
from tests import seeds


def make(drop_path_rate=0.0, **options):
    torch.manual_seed(seeds.shifted(0))
    sizes = {"out_dim": 16, "hidden_dim": 12, "bottleneck_dim": 8}
    return EsViT(create_model("swin_nano_w4", drop_path_rate=drop_path_rate), **(sizes | options))


def crops(batch=2, sizes=(32, 32, 16, 16, 16, 24)):
    torch.manual_seed(seeds.shifted(1))
    return [torch.randn(batch, 3, size, size) for size in sizes]


def test_student_and_teacher_start_equal_and_only_the_student_learns():
    method = make()
    student, teacher = method.student.state_dict(), method.teacher.state_dict()
    assert all(torch.equal(student[name], teacher[name]) for name in student)
    method(crops(), 0.04)[0].backward()
    assert all(p.grad is not None for p in method.student.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


def test_views_of_one_size_may_be_computed_one_by_one():
    method, views = make(), crops()
    together = method.student(views)
    alone = [method.student([view]) for view in views]
    torch.testing.assert_close(together.view, torch.cat([p.view for p in alone]))
    torch.testing.assert_close(together.features, torch.cat([p.features for p in alone]))
    assert together.tokens == (16, 16, 4, 4, 4, 9)


@pytest.mark.parametrize("sizes", [(32, 32), (32, 32, 16), (32, 32, 16, 24, 8)])
def test_any_number_and_sizes_of_local_crops(sizes):
    loss, statistics = make()(crops(sizes=sizes), 0.04)
    assert loss.isfinite() and statistics.region_loss > 0


@pytest.mark.parametrize(("task", "head"), [("view", "head_dense"), ("region", "head")])
def test_a_task_alone_has_one_head_and_every_parameter_of_the_student_learns(task, head):
    weights = {"view_weight": 0.0, "region_weight": 0.0} | {f"{task}_weight": 1.0}
    method = make(**weights)
    assert getattr(method.student, head) is None
    loss, statistics = method(crops(), 0.04)
    torch.testing.assert_close(loss.detach(), getattr(statistics, f"{task}_loss"))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.student.parameters())
    method.update_centers(), method.update_teacher(0.9), method.freeze_last_layer(True)


@pytest.mark.parametrize("momentum", [0.996, 0.9, 1.0, 0.0])
def test_teacher_follows_bit_by_bit_as_a_plain_loop_and_the_student_stays(momentum):
    method = make()
    with torch.no_grad():
        for p in (*method.student.parameters(), *method.teacher.parameters()):
            p.normal_(std=0.02)
    plain, kept, other = (copy.deepcopy(net) for net in (method.teacher, method.student, method))
    method.update_teacher(momentum)
    with torch.no_grad():
        for t, s in zip(plain.parameters(), method.student.parameters(), strict=True):
            exact = momentum * t.double() + (1 - momentum) * s.double()
            t.lerp_(s, 1 - momentum)
            torch.testing.assert_close(t.double(), exact, rtol=2e-7, atol=1e-8)
    assert all(torch.equal(t, p) for t, p in zip(method.teacher.parameters(), plain.parameters(), strict=True))
    other.update_teacher(torch.tensor(momentum))  # as on a device that is not waited for
    for t, o in zip(method.teacher.parameters(), other.teacher.parameters(), strict=True):
        torch.testing.assert_close(t, o, rtol=2e-7, atol=1e-8)
    assert all(torch.equal(s, k) for s, k in zip(method.student.parameters(), kept.parameters(), strict=True))
    assert all(t.grad is None and t.grad_fn is None for t in method.teacher.parameters())


def test_teacher_follows_and_heads_keep_no_statistics():
    method = make(head_batch_norm=True)
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(torch.randn_like(p))
    before = {name: p.clone() for name, p in method.teacher.named_parameters()}
    method.update_teacher(0.9)
    student = dict(method.student.named_parameters())
    for name, p in method.teacher.named_parameters():
        torch.testing.assert_close(p, 0.9 * before[name] + 0.1 * student[name])
    assert not list(method.teacher.buffers()) and not list(method.student.buffers())


def test_only_the_student_drops_paths():
    method = make(drop_path_rate=0.5)
    rates = [
        [m.drop_prob for m in net.modules() if isinstance(m, DropPath)] for net in (method.student, method.teacher)
    ]
    assert max(rates[0]) == 0.5 and set(rates[1]) == {0.0}
    views = crops()
    assert not torch.equal(method.student(views).view, method.student(views).view)
    assert torch.equal(method.teacher(views).view, method.teacher(views).view)


def test_frozen_last_layer_gets_no_gradient_and_the_rest_the_same():
    grads = []
    for frozen in (True, False):
        method = make()
        method.freeze_last_layer(frozen)
        method(crops(), 0.04)[0].backward()
        grads.append({name: p.grad for name, p in method.student.named_parameters()})
    last = {name for name in grads[0] if "last_layer" in name}
    assert len(last) == 4
    for name in grads[0]:
        if name in last:
            assert grads[0][name] is None and grads[1][name].abs().sum() > 0
        else:
            assert torch.equal(grads[0][name], grads[1][name])


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_lengths_of_prototypes(norm_last_layer):
    method = make(norm_last_layer=norm_last_layer)
    method.freeze_last_layer(True), method.freeze_last_layer(False)
    assert method.student.head.last_layer.weight_g.requires_grad != norm_last_layer
    torch.testing.assert_close(method.student.head.prototypes.norm(dim=1), torch.ones(16))


def test_accumulated_gradients_and_centers_equal_one_batch():
    views = crops(batch=4)
    whole, parts = make().double(), make().double()
    whole([v.double() for v in views], 0.04)[0].backward()
    for half in (slice(0, 2), slice(2, 4)):
        (parts([v[half].double() for v in views], 0.04)[0] / 2).backward()
    whole.update_centers(), parts.update_centers()
    for a, b in zip(whole.student.parameters(), parts.student.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(whole.loss.region_center, parts.loss.region_center)
    assert whole.loss.region_center.abs().sum() > 0


@pytest.mark.parametrize("centering", ["mean", "sinkhorn"])
def test_loss_and_centers_are_exact_under_autocast(centering):
    method, views = make(centering=centering), crops()
    with torch.no_grad():
        student, teacher = method.student(views), method.teacher(views[:2])
    exact = method.loss(student, teacher, 0.04)[0]
    sums = [noted.total for noted in method.loss._noted.values()]
    method.loss.forget()
    with torch.autocast("cpu", torch.bfloat16):
        cast = method.loss(student, teacher, 0.04)[0]
    assert torch.equal(exact, cast)
    assert all(map(torch.equal, sums, [noted.total for noted in method.loss._noted.values()]))
