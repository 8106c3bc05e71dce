"""The cross-entropy with the last layer inside: every backend that runs here."""

import math

import pytest
import torch
from torch.library import opcheck

from esvit_fast import ops

from .problems import BACKENDS, NATIVE, TEMPERATURES, lengths, problem, results

each_backend = pytest.mark.parametrize("backend", [*BACKENDS, "chunked"])


@each_backend
@pytest.mark.parametrize("normalised", [False, True])
def test_equals_soft_cross_entropy_of_the_logits(backend, normalised):
    student, weight, teacher, teacher_weight, center, pairs = problem()
    options = TEMPERATURES | (lengths() if normalised else {})
    found = results((student, weight, teacher, teacher_weight, center, pairs), options, backend)

    def prototypes(v, g):
        return v if g is None else g.view(-1, 1) * v / v.norm(dim=1, keepdim=True)

    trained = [student.requires_grad_(), weight.requires_grad_()]
    g, g_t = (options.get(name) for name in ("student_weight_g", "teacher_weight_g"))
    trained += [g.requires_grad_()] if normalised else []
    plain, statistics = ops.soft_cross_entropy(
        student @ prototypes(weight, g).T, teacher @ prototypes(teacher_weight, g_t).T, center, pairs, **TEMPERATURES
    )
    expected = [plain.detach(), torch.stack(statistics), *torch.autograd.grad(plain, trained)]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@each_backend
def test_gradcheck(backend):
    student, weight, *rest = problem()
    g = lengths()
    student.requires_grad_(), weight.requires_grad_(), g["student_weight_g"].requires_grad_()

    def loss(x, w, length):
        options = g | {"student_weight_g": length} | TEMPERATURES
        return ops.prototype_cross_entropy(x, w, *rest, **options, backend=backend)[0]

    assert torch.autograd.gradcheck(loss, (student, weight, g["student_weight_g"]))
    assert torch.autograd.gradcheck(
        lambda x, w: ops.prototype_cross_entropy(x, w, *rest, **TEMPERATURES, backend=backend)[0], (student, weight)
    )


@each_backend
@pytest.mark.parametrize("trained", [(), (0,), (1,), (2,), (0, 2), (1, 2)])
def test_only_the_gradients_that_are_needed_are_computed(trained, backend):
    student, weight, *rest = problem()
    tensors = [student, weight, lengths()["student_weight_g"]]
    needs = [i in trained for i in range(3)]
    teacher, teacher_weight, center, pairs = rest
    found = torch.ops.esvit_fast.prototype_cross_entropy(
        *tensors, teacher, teacher_weight, None, center, *pairs, 0.5, 0.2, needs, backend
    )
    for i, grad in enumerate(found[2:]):
        assert grad.shape == (tensors[i].shape if i in trained else (0,))
    for i in trained:
        tensors[i].requires_grad_()
    loss, _ = ops.prototype_cross_entropy(
        *tensors[:2], *rest, **TEMPERATURES, student_weight_g=tensors[2], backend=backend
    )
    if trained:
        loss.backward()
    assert [x.grad is not None for x in tensors] == needs


@each_backend
def test_backward_may_run_twice_and_by_any_factor(backend):
    student, weight, *rest = problem()
    student.requires_grad_(), weight.requires_grad_()
    loss, _ = ops.prototype_cross_entropy(student, weight, *rest, **TEMPERATURES, backend=backend)
    first = torch.autograd.grad(loss, (student, weight), retain_graph=True)
    loss.backward(retain_graph=True)
    (3 * loss).backward()
    for grad, tensor in zip(first, (student, weight), strict=True):
        torch.testing.assert_close(tensor.grad, 4 * grad)


@each_backend
def test_a_second_derivative_is_refused(backend):
    student, weight, *rest = problem()
    student.requires_grad_()
    loss, _ = ops.prototype_cross_entropy(student, weight, *rest, **TEMPERATURES, backend=backend)
    (grad,) = torch.autograd.grad(loss, student, create_graph=True)
    with pytest.raises(NotImplementedError, match="prototype_cross_entropy is differentiable once"):
        torch.autograd.grad(grad.sum(), student)


@each_backend
def test_a_nan_row_makes_the_loss_nan(backend):
    for which in (0, 2):
        *matrices, pairs = problem()
        matrices[which][pairs[which // 2][0]] = math.nan
        assert ops.prototype_cross_entropy(*matrices, pairs, **TEMPERATURES, backend=backend)[0].isnan()


@each_backend
def test_rows_of_zeros_have_no_opinion(backend):
    student, *rest = problem()
    student[:] = 0
    loss, _ = ops.prototype_cross_entropy(student, *rest, **TEMPERATURES, backend=backend)
    assert loss.item() == pytest.approx(math.log(7) * rest[-1].weight.sum().item(), rel=1e-13)


@each_backend
def test_no_length_of_prototypes_means_ln_k_and_still_has_gradients(backend):
    *matrices, pairs = problem()
    options = TEMPERATURES | lengths()
    options["student_weight_g"] = torch.zeros(7, 1, dtype=torch.float64)
    loss, _, student, weight, g = results((*matrices, pairs), options, backend)
    assert loss.item() == pytest.approx(math.log(7) * pairs.weight.sum().item(), rel=1e-13)
    assert student.abs().max() == 0 and weight.abs().max() == 0 and g.abs().max() > 1e-2


@each_backend
def test_a_prototype_that_the_centre_rules_out_is_never_meant(backend):
    *matrices, center, pairs = problem()
    center[2] = math.inf
    found = results((*matrices, center, pairs), TEMPERATURES, backend)
    kept = [i for i in range(7) if i != 2]
    teacher = ((matrices[2] @ matrices[3].T - center) / 0.2)[:, kept].softmax(-1)
    log_p = (matrices[0] @ matrices[1].T / 0.5).log_softmax(-1)[:, kept]
    expected = -(pairs.weight * (teacher[pairs.teacher_row] * log_p[pairs.student_row]).sum(-1)).sum()
    torch.testing.assert_close(found[0], expected)
    assert all(x.isfinite().all() for x in found)


@each_backend
def test_what_changes_nothing(backend):
    student, weight, teacher, teacher_weight, center, pairs = problem()

    def run(**change):
        given = {"student": student, "teacher": teacher, "center": center, "pairs": pairs} | change
        return ops.prototype_cross_entropy(
            given["student"], weight, given["teacher"], teacher_weight, given["center"], given["pairs"],
            **TEMPERATURES, backend=backend,
        )[0]  # fmt: skip

    torch.testing.assert_close(run(center=center - 2), run())
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    moved = pairs._replace(student_row=order.argsort()[pairs.student_row])
    torch.testing.assert_close(run(student=student[order], pairs=moved), run())
    order = torch.randperm(4, generator=torch.Generator().manual_seed(2))
    moved = pairs._replace(teacher_row=order.argsort()[pairs.teacher_row])
    torch.testing.assert_close(run(teacher=teacher[order], pairs=moved), run())


@each_backend
def test_directions_get_no_gradient_along_themselves(backend):
    matrices, options = problem(), TEMPERATURES | lengths()
    _, _, _, dweight, _ = results(matrices, options, backend)
    along = (dweight * matrices[1]).sum(-1)
    assert along.abs().max() < 1e-14 and dweight.abs().max() > 1e-3


@each_backend
def test_temperature_limits(backend):
    student, weight, teacher, teacher_weight, center, pairs = problem()
    log_p = (student @ weight.T / 0.5).log_softmax(-1)[pairs.student_row]
    best = (teacher @ teacher_weight.T - center).argmax(-1)[pairs.teacher_row]
    for temp, expected in ((1e-4, log_p.gather(1, best[:, None])[:, 0]), (1e9, log_p.mean(-1))):
        loss, _ = ops.prototype_cross_entropy(
            student,
            weight,
            teacher,
            teacher_weight,
            center,
            pairs,
            student_temp=0.5,
            teacher_temp=temp,
            backend=backend,
        )
        torch.testing.assert_close(loss, -(pairs.weight * expected).sum())


@each_backend
def test_equal_teachers_count_as_one_with_both_weights(backend):
    student, weight, teacher, teacher_weight, center, pairs = problem()
    teacher[1] = teacher[0]
    row = pairs.student_row
    zero, one = torch.zeros_like(row), torch.ones_like(row)
    both = ops.Pairs(torch.cat([row, row]), torch.cat([zero, one]), torch.cat([pairs.weight, pairs.weight]))
    double = ops.Pairs(row, zero, 2 * pairs.weight)
    losses = [
        ops.prototype_cross_entropy(
            student, weight, teacher, teacher_weight, center, p, **TEMPERATURES, backend=backend
        )[0]
        for p in (both, double)
    ]
    torch.testing.assert_close(*losses)


@each_backend
def test_opcheck(backend):
    student, weight, teacher, teacher_weight, center, pairs = problem(torch.float32)
    g = lengths(dtype=torch.float32)
    trained = student.requires_grad_(), weight.requires_grad_(), g["student_weight_g"].requires_grad_()
    rest = (teacher, teacher_weight, g["teacher_weight_g"], center, *pairs, 0.5, 0.2)
    for needs in ((True, True, True), (False, True, False), (True, False, False), (False, False, True)):
        given = [x.detach().requires_grad_(need) for x, need in zip(trained, needs, strict=True)]
        opcheck(torch.ops.esvit_fast.prototype_cross_entropy.default, (*given, *rest, list(needs), backend))
    given, grads = ([x.detach().clone() for x in trained] for _ in range(2))
    opcheck(torch.ops.esvit_fast.prototype_cross_entropy_backward.default, (torch.tensor(0.5), *given, *grads, backend))


@NATIVE
def test_it_compiles_to_one_graph():
    student, weight, *rest = problem(torch.float32)
    student.requires_grad_(), weight.requires_grad_()

    def loss(x, w):
        return 2 * ops.prototype_cross_entropy(x, w, *rest, **TEMPERATURES)[0]

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(
        *(torch.autograd.grad(f(student, weight), (student, weight)) for f in (compiled, loss)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"student": torch.zeros(6, 4)}, ValueError, "must agree in D"),
        ({"teacher_weight": torch.zeros(8, 3)}, ValueError, r"teacher_weight \(8, 3\).*must have K=7"),
        ({"student": torch.zeros(0, 3)}, ValueError, "student has shape .* non-empty matrix"),
        ({"student_weight": torch.zeros(7, 3, dtype=torch.int32)}, TypeError, "student_weight has dtype torch.int32"),
        ({"student_weight_g": torch.ones(1, 7)}, ValueError, r"student_weight_g has shape \(1, 7\); it must be \[K\]"),
        ({"teacher_weight_g": torch.ones(6)}, ValueError, r"teacher_weight_g has shape \(6,\).*K=7"),
        ({"teacher_weight_g": torch.ones(7, device="meta")}, TypeError, "teacher_weight_g is on meta"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    names = ("student", "student_weight", "teacher", "teacher_weight", "center", "pairs")
    arguments = dict(zip(names, problem(torch.float32), strict=True)) | change
    with pytest.raises(error, match=message):
        ops.prototype_cross_entropy(**arguments, **TEMPERATURES)
