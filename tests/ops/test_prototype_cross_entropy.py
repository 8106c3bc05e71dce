"""The cross-entropy with the last layer inside: every backend that runs here."""

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
