"""The Triton kernels of the loss in Triton's interpreter, against the float64 oracle; their plans and refusals.

What runs in the interpreter runs in processes of its own, as functions called `check…`: it is chosen before triton is
imported, and computes bfloat16 wrongly.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from esvit_fast import ops
from esvit_fast.ops._core import triton as _device
from esvit_fast.ops._core.plan import Facts

from .harness import assert_walls, run_in_the_interpreter, walled, walled_allocations
from .problems import REGIMES, TEMPERATURES, assert_exact_in, drawn_from, lengths, problem, regime, results

pytestmark = pytest.mark.skipif(_device.MISSING is not None, reason=str(_device.MISSING))
SIZES = [
    {"rows": 5, "teachers": 3, "prototypes": 7, "width": 3, "pairs": 9},
    {"rows": 70, "teachers": 20, "prototypes": 130, "width": 16, "pairs": 90},
    {"rows": 33, "teachers": 40, "prototypes": 300, "width": 20, "pairs": 100},
    {"rows": 3, "teachers": 2, "prototypes": 2100, "width": 24, "pairs": 6},
    {"rows": 1, "teachers": 1, "prototypes": 1, "width": 1, "pairs": 1},
    {"rows": 65, "teachers": 33, "prototypes": 65, "width": 300, "pairs": 40},
]


def rounded(matrices, options, dtype):
    """The same problem in a dtype, and that in float64."""
    *tensors, pairs = matrices
    narrow = *(x.to(dtype) for x in tensors), pairs._replace(weight=pairs.weight.float())
    options = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    return narrow, options, results((*(x.double() for x in narrow[:-1]), narrow[-1]), wide, "reference")


def assert_close(found, truth, allowed, what):
    for i, (ours, exact) in enumerate(zip(found, truth, strict=True)):
        error = (ours - exact).norm() / exact.norm().clamp_min(1e-3 * truth[0].abs() + 1e-6)
        assert ours.shape == exact.shape and error <= allowed[min(i, 2)], (what, i, error)


ALLOWED = {torch.float32: (1e-6, 2e-6, 5e-6), torch.float16: (1e-4, 1e-3, 3e-3)}
"""Of the loss, of statistics, of gradients; sums of few prototypes do not average what rounding to 16 bits does."""


def drawn(seed):
    sizes = SIZES[seed % len(SIZES)]
    matrices = problem(**sizes, seed=seed)
    scale = sizes["width"] ** -0.5, 1.0
    matrices = [x * scale[i % 2] for i, x in enumerate(matrices[:4])] + list(matrices[4:])
    return matrices, TEMPERATURES | (lengths(sizes["prototypes"], seed=seed) if seed % 2 else {})


def check(seeds):
    for seed in seeds:
        for dtype in (torch.float32, torch.float16):
            matrices, options, truth = rounded(*drawn(seed), dtype)
            assert_close(results(matrices, options, "triton"), truth, ALLOWED[dtype], (seed, dtype))


def autocast(matrices, options):
    """Loss and gradients as torch computes them under autocast to float16: logits are rounded."""
    *tensors, pairs = matrices
    student, weight, teacher, teacher_weight, center = (x.float() for x in tensors)
    trained = student.requires_grad_(), weight.requires_grad_(), options["student_weight_g"].float().requires_grad_()

    def logits(x, v, g):
        return torch.nn.functional.linear(x.half(), torch._weight_norm(v, g.float().view(-1, 1), 0).half())

    log_p = (logits(*trained) / options["student_temp"]).float().log_softmax(-1)
    target = logits(teacher, teacher_weight, options["teacher_weight_g"]).float() - center
    target = (target / options["teacher_temp"]).softmax(-1)
    loss = -(pairs.weight * (target[pairs.teacher_row] * log_p[pairs.student_row]).sum(-1)).sum()
    return [loss.detach(), None, *torch.autograd.grad(loss, trained)]


def of_a_run(name, dtype, seed=0):
    """A regime in a dtype as `rounded` gives it, with weights as large as a loss scale makes gradients."""
    (*matrices, pairs), options = regime(name, rows=20, teachers=12, prototypes=2048, width=256, seed=seed)
    pairs = pairs._replace(weight=(2**16 if name == "collapse" else 2**6) * pairs.weight)
    return rounded((*matrices, pairs), options, dtype)


def check_regimes(dtype, precision="highest", seeds=1):
    for name, seed in itertools.product(REGIMES, range(seeds)):
        matrices, options, _ = of_a_run(name, dtype, seed)
        torch.set_float32_matmul_precision(precision)
        found = results(matrices, options, "triton")
        torch.set_float32_matmul_precision("highest")
        computed = dtype if precision == "highest" else torch.float16
        drawn = drawn_from((matrices, options), autocast if computed == torch.float16 else None)
        assert_exact_in(name, found, drawn, computed, matrices[-1])


def check_needs():
    student, weight, teacher, teacher_weight, center, pairs = problem(torch.float32)
    g = lengths(dtype=torch.float32)
    options = *pairs._replace(weight=pairs.weight.float()), 0.5, 0.2
    rest = teacher, teacher_weight, g["teacher_weight_g"], center, *options
    for needs in ([False] * 3, [True, False, False], [False, True, False], [False, False, True], [True] * 3):
        trained = student, weight, g["student_weight_g"]
        ours, plain = (
            torch.ops.esvit_fast.prototype_cross_entropy(*trained, *rest, needs, b) for b in ("triton", "reference")
        )
        for a, b in zip(ours, plain, strict=True):
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)


def check_bits():
    """A row's results do not depend on others."""
    student, weight, teacher, teacher_weight, center, _ = problem(
        torch.float32, rows=80, teachers=70, prototypes=2100, width=8
    )
    alone = ops.Pairs(torch.tensor([3, 3, 0]), torch.tensor([1, 2, 0]), torch.tensor([0.5, 0.25, 1.0]))

    def run(x, z):
        x = x.clone().requires_grad_()
        loss, _ = ops.prototype_cross_entropy(
            x, weight, z, teacher_weight, center, alone, **TEMPERATURES, backend="triton"
        )
        return loss.detach(), torch.autograd.grad(loss, x)[0][:4]

    alone_in_the_batch = run(student[:4], teacher[:3])
    for batch in ((student, teacher), (student[:40], teacher[:40])):
        assert all(map(torch.equal, run(*batch), alone_in_the_batch))


def check_edges():
    *matrices, pairs = problem(torch.float32)
    signs = torch.tensor([1.0, -1.0]).repeat(5)[:9]  # what is paired with a teacher's row may weigh nothing in all
    pairs = ops.Pairs(pairs.student_row, torch.zeros_like(pairs.teacher_row), signs)
    ours, plain = (results((*matrices, pairs), TEMPERATURES, b) for b in ("triton", "reference"))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)
    with pytest.raises(ops.BackendError, match="D=600 is more than 512"):
        ops.prototype_cross_entropy(*problem(torch.float32, width=600), **TEMPERATURES, backend="triton")


def check_walls(seeds):
    """Nothing beside the inputs is read, nothing beside what is allocated is written, and all of that is."""
    for seed in seeds:
        (*matrices, pairs), options, _ = rounded(*drawn(seed), torch.float32)
        plain = results((*matrices, pairs), options, "triton")
        options = {k: walled(v) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        inside = *(walled(x) for x in matrices), ops.Pairs(*map(walled, pairs))
        with walled_allocations() as walls:
            found = results(inside, options, "triton")
        assert len(walls) >= 8 and all(map(torch.equal, found, plain)), seed
        assert_walls(walls, seed)


@pytest.mark.parametrize(
    "call",
    [
        "check(range(8))",
        "check_regimes(torch.float32, seeds=2)",
        "check_regimes(torch.float16)",
        "check_regimes(torch.float32, 'medium')",
        "check_needs(); check_bits(); check_edges()",
        "check_walls([0, 1, 2, 5])",
    ],
)
def test_in_the_interpreter(call):
    run_in_the_interpreter("tests.ops.test_prototype_cross_entropy_triton", call)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_runs_triton(capability, dtype):
    shapes = {"student": (10880, 256), "student_weight": (65536, 256)}
    plan = ops.plan("prototype_cross_entropy", Facts("cuda", dtype, shapes, {}, capability, unproven=True))
    assert plan.backend == "triton"
    assert plan.config["splits"] * plan.config["tiles_of_split"] * plan.config["block_n"] == 65536
    wide = shapes | {"student": (10880, 768)}
    plan = ops.plan("prototype_cross_entropy", Facts("cuda", dtype, wide, {}, capability, unproven=True))
    assert plan.backend == "chunked" and plan.refused["triton"] == "D=768 is more than 512"


def test_splits_depend_on_the_prototypes_alone():
    from esvit_fast.kernels import _tables

    for prototypes in (1, 1000, 2100, 4096, 65536, 131072):
        config = _tables.prototype_cross_entropy(2, 256, prototypes)
        tiles = -(-prototypes // config["block_n"])
        assert (config["splits"] - 1) * config["tiles_of_split"] < tiles <= config["splits"] * config["tiles_of_split"]
        assert config["splits"] <= _tables.SPLITS
