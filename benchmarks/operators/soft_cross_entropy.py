"""The loss of given logits: time and memory of everyone who can compute it, beside the least bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.measuring.contest import Passes, contest
from benchmarks.measuring.exactness import error_ratio
from benchmarks.measuring.planned import backend_refusal
from benchmarks.measuring.records import record
from benchmarks.measuring.words import operator_table
from benchmarks.registry import CASE, Benchmark, case_problems, register
from esvit_fast import ops, reference

TEMPERATURES = {"student_temp": 0.1, "teacher_temp": 0.04}


@dataclass(frozen=True)
class Case:
    """The view task: of each image `views` rows of the student, of which the teacher sees the first two."""

    name: str
    views: int
    prototypes: int

    def shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Of the operator's logits."""
        return {
            "student_logits": (self.views * batch, self.prototypes),
            "teacher_logits": (2 * batch, self.prototypes),
        }


CASES = {
    case.name: case
    for case in (
        Case("10 views, 65,536 prototypes", 10, 65536),
        Case("10 views, 4,096 prototypes", 10, 4096),
        Case("2 views, 65,536 prototypes", 2, 65536),
    )
}
"""The published head with two views of 224 pixels and eight of 96, that of small recipes, and the first two views."""


@dataclass(frozen=True)
class Inputs:
    """What everyone is given; rows are ordered by view, then image."""

    student: Tensor
    teacher: Tensor
    center: Tensor
    pairs: ops.Pairs


def inputs(case: Case, batch: int, dtype: torch.dtype, device: str) -> Inputs:
    """Logits of the size that a trained head gives, and all pairs of a view with the teacher's other views."""
    g = torch.Generator().manual_seed(0)
    student, teacher = (0.5 * torch.randn(*s, generator=g) for s in case.shapes(batch).values())
    pairs = [(v, q) for v in range(case.views) for q in range(2) if v != q]
    image = torch.arange(batch)
    rows = [torch.cat([view * batch + image for view in views]).to(device) for views in zip(*pairs, strict=True)]
    weight = torch.full((len(pairs) * batch,), 1 / (len(pairs) * batch), device=device)
    center = 0.01 * torch.randn(case.prototypes, generator=g)
    return Inputs(
        student.to(device, dtype).requires_grad_(),
        teacher.to(device, dtype),
        center.to(device),
        ops.Pairs(*rows, weight),
    )


Loss = Callable[[Inputs], Tensor]


def oracle(x: Inputs) -> Tensor:
    """The oracle under torch's autograd."""
    return reference.soft_cross_entropy(x.student, x.teacher, x.center, *x.pairs, **TEMPERATURES)[0]


def _compiled() -> Loss:
    torch._dynamo.reset()
    return torch.compile(oracle, dynamic=False)


def _ours(backend: str) -> Callable[[], Loss]:
    def run(x: Inputs) -> Tensor:
        return ops.soft_cross_entropy(x.student, x.teacher, x.center, x.pairs, **TEMPERATURES, backend=backend)[0]

    return lambda: run


@dataclass(frozen=True)
class Contestant:
    """One way to compute the loss: how it is made, and the backend that it needs."""

    make: Callable[[], Loss]
    backend: str | None = None


MODES = ("forward", "training")
CONTESTANTS = {
    "torch eager": Contestant(lambda: oracle),
    "torch.compile": Contestant(_compiled),
    **{f"esvit_fast {backend}": Contestant(_ours(backend), backend) for backend in ("cpu", "triton", "cuda")},
}
"""The first is what the gate measures all others by."""


def refusal(name: str, case: Case, dtype: torch.dtype, device: str) -> str | None:
    """Why someone cannot take part, or None."""
    backend = CONTESTANTS[name].backend
    if backend is None:
        return None
    return backend_refusal("soft_cross_entropy", backend, device, dtype, case.shapes(1), {"pairs": 1})


def results(run: Loss, x: Inputs) -> list[Tensor]:
    """Loss and gradient."""
    loss = run(x)
    return [loss.detach(), *torch.autograd.grad(loss, [x.student])]


def gate(name: str, case: Case, dtype: torch.dtype, device: str) -> float:
    """Errors against float64, in units of what is allowed. Two images are enough."""
    x = inputs(case, 2, dtype, device)
    return error_ratio(results(CONTESTANTS[name].make(), x), partial(results, oracle), x)


def least(case: Case, batch: int, dtype: torch.dtype) -> dict[str, dict[str, int]]:
    """What any implementation moves: both logits and the center read; in training, the student's gradient written."""
    student, teacher = (rows * width for rows, width in case.shapes(batch).values())
    read = (student + teacher) * dtype.itemsize + 4 * case.prototypes
    return {
        "forward": {"bytes": read, "flop": 0},
        "training": {"bytes": read + student * dtype.itemsize, "flop": 0},
    }


def measure(case: Case, names: Sequence[str], batch: int, dtype: torch.dtype, device: str, rounds: int) -> dict:
    """A record of one case; of a GPU's times, launches are no part."""
    x = inputs(case, batch, dtype, device)

    def passes(name: str) -> Passes:
        run = CONTESTANTS[name].make()
        return Passes({"forward": partial(torch.no_grad()(run), x), "training": partial(results, run, x)})

    rows = contest(
        names,
        refusal=lambda name: refusal(name, case, dtype, device),
        gate=lambda name: gate(name, case, dtype, device),
        passes=passes,
        device=device,
        rounds=rounds,
        hidden=True,
        resident=True,
    )
    return record(identity(case, batch, dtype), rows, rounds, device, least=least(case, batch, dtype))


def identity(case: Case, batch: int, dtype: torch.dtype) -> dict:
    """What tells a record from those of other cases."""
    shape = {"batch": batch, "views": case.views, "prototypes": case.prototypes}
    return {"op": "soft_cross_entropy", "case": case.name, "shape": shape, "dtype": str(dtype)}


def table(record: dict) -> str:
    """A record for people to read."""
    title = f"{record['case']}, logits given: {record['shape']['batch']} images, {record['dtype']}"
    return operator_table(title, record, MODES)


def smallest(device: str, backend: str, dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    """Few rows of logits, of which one is in no pair."""
    student, teacher = (torch.randn(n, 1304, device=device, dtype=dtype, requires_grad=n > 3) for n in (5, 3))
    rows, center = torch.arange(4, device=device), torch.zeros(1304, device=device)
    pairs = ops.Pairs(rows, rows % 3, torch.full((4,), 0.25, device=device))
    given = student, teacher, center, pairs
    yield lambda: ops.soft_cross_entropy(*given, **TEMPERATURES, backend=backend)[0].backward()


register(
    Benchmark(
        "soft_cross_entropy",
        "The loss of given logits",
        __doc__,
        case_problems(CASES, identity, measure),
        table,
        modes=MODES,
        contestants=tuple(CONTESTANTS),
        arguments={"--case": CASE},
        quick={"batch": 1, "case": "4,096", "contestants": ["torch eager", "esvit_fast cpu"]},
        smallest=smallest,
        row_per_case=True,
    )
)
