"""Problems for both cross-entropies that hypothesis draws, one kind of each operator's inputs at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from esvit_fast import ops
from esvit_fast.ops import Pairs
from esvit_fast.ops.prototype_cross_entropy import chunked
from tests import seeds

from .problems import BACKENDS

KINDS = ("logits", "prototypes", "lengths")
"""Rows are logits; or rows of the bottleneck, with prototypes as they are, or of given lengths."""
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
BITWISE = ("cpu",)
"""Backends in which a row's bits do not depend on where it stands nor on what stands beside it. Products of matrices in
torch, and so the oracle, do not promise that, nor do NumPy's, and so Triton's interpreter."""


@dataclass(frozen=True, repr=False)
class Problem:
    """Arguments of an operator; `weights` are those of the last layer by name, none where rows are logits."""

    student: Tensor
    teacher: Tensor
    center: Tensor
    pairs: Pairs
    weights: dict[str, Tensor]
    student_temp: float
    teacher_temp: float
    seed: int = 0

    def __repr__(self) -> str:
        shapes = {name: tuple(x.shape) for name, x in self.weights.items()}
        sizes = len(self.student), len(self.teacher), self.prototypes, self.student.shape[1], len(self.pairs.weight)
        return f"Problem({sizes}, {shapes}, {self.dtype}, {self.temps}, seed={self.seed})"

    def _repr_pretty_(self, printer, cycle) -> None:
        printer.text(repr(self))

    @property
    def temps(self) -> dict[str, float]:
        return {"student_temp": self.student_temp, "teacher_temp": self.teacher_temp}

    @property
    def dtype(self) -> torch.dtype:
        return self.student.dtype

    @property
    def exact(self) -> torch.dtype:
        """What is computed in."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def share(self) -> float:
        """What all pairs weigh."""
        return self.pairs.weight.abs().sum().item()

    @property
    def prototypes(self) -> int:
        return len(self.center)

    def logits(self) -> tuple[Tensor, Tensor]:
        """Of student and teacher, in float64."""
        rows, made = (self.student.double(), self.teacher.double()), []
        if not self.weights:
            return rows
        for x, name in zip(rows, ("student_weight", "teacher_weight"), strict=True):
            weight, g = self.weights[name].double(), self.weights.get(f"{name}_g")
            made.append(x @ (weight if g is None else F.normalize(weight, dim=1) * g.double().view(-1, 1)).T)
        return tuple(made)

    def order(self, count: int, salt: int = 1) -> Tensor:
        """A permutation."""
        return torch.randperm(count, generator=seeds.generator(1000 * salt + self.seed))

    def slack(self) -> float:
        """What rounding may do to a loss of pairs that weigh 1: scores are rounded relative to their size."""
        student, teacher = self.logits()
        size = student.abs().max() / self.student_temp + (teacher - self.center).abs().max() / self.teacher_temp
        return 8 * torch.finfo(self.exact).eps * (1 + size.item())


def make(kind: str, dtype: torch.dtype, sizes: Sequence[int], temps: Sequence[float], seed: int) -> Problem:
    """A problem of rows, teachers, prototypes, width and pairs; logits of about 1, prototypes not short."""
    rows, teachers, prototypes, width, pairs = sizes
    g = seeds.generator(seed)
    exact = torch.promote_types(dtype, torch.float32)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def directions() -> Tensor:
        return F.normalize(normal(prototypes, width), dim=1) * (0.5 + torch.rand(prototypes, 1, generator=g))

    weights = {}
    if kind != "logits":
        weights |= {"student_weight": directions(), "teacher_weight": directions()}
    if kind == "lengths":
        weights["student_weight_g"] = 0.5 + torch.rand(prototypes, 1, generator=g)
        weights["teacher_weight_g"] = 0.5 + torch.rand(prototypes, generator=g)
    of_row = prototypes if kind == "logits" else width
    chosen = Pairs(
        torch.randint(rows, (pairs,), generator=g),
        torch.randint(teachers, (pairs,), generator=g),
        torch.rand(pairs, generator=g).to(exact) + 0.1,
    )
    student, teacher = normal(rows, of_row).to(dtype), normal(teachers, of_row).to(dtype)
    weights = {name: x.to(dtype) for name, x in weights.items()}
    return Problem(student, teacher, normal(prototypes).to(exact), chosen, weights, *temps, seed)


@st.composite
def problems(draw, kinds=KINDS, dtypes=DTYPES, widest: int = 40) -> Problem:
    """Of any shape up to 40; now and then of more prototypes than a block has."""
    some = st.integers(1, 40)
    prototypes = draw(st.one_of(some, some, some, st.sampled_from([127, 129, 1025])))
    sizes = draw(some), draw(some), min(prototypes, widest) if widest < 40 else prototypes, draw(some), draw(some)
    temps = draw(st.floats(0.1, 2)), draw(st.floats(0.04, 2))
    return make(draw(st.sampled_from(kinds)), draw(st.sampled_from(dtypes)), sizes, temps, draw(st.integers(0, 999)))


def run(p: Problem, backend: str) -> dict[str, Tensor]:
    """Loss, statistics, and the gradient of all that is trained, by name."""
    trained = {name: x for name, x in p.weights.items() if name.startswith("student")} | {"student": p.student}
    trained = {name: x.detach().requires_grad_() for name, x in trained.items()}
    weights = p.weights | {name: x for name, x in trained.items() if name != "student"}
    if not weights:
        loss, statistics = ops.soft_cross_entropy(
            trained["student"], p.teacher, p.center, p.pairs, **p.temps, backend=backend
        )
    else:
        loss, statistics = ops.prototype_cross_entropy(
            student=trained["student"], teacher=p.teacher, center=p.center, pairs=p.pairs, **weights, **p.temps,
            backend=backend,
        )  # fmt: skip
    grads = torch.autograd.grad(loss, list(trained.values()))
    return {"loss": loss.detach(), "statistics": torch.stack(statistics)} | dict(zip(trained, grads, strict=True))


def change(p: Problem, **fields) -> Problem:
    """Another problem, with some fields, or some of the weights, replaced."""
    weights = {name: fields.pop(name) for name in list(fields) if name in p.weights}
    return replace(p, **fields, weights=p.weights | weights)


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], p: Problem, slack: float | None = None) -> None:
    """Equal but for rounding: of sums, and of gradients to their dtype."""
    slack = p.slack() if slack is None else slack
    for name, ours, theirs in ((name, found[name], x) for name, x in expected.items()):
        size, step, least = p.share, 0.0, 0.0
        if name == "statistics":
            ours, theirs, size = ours[:4], theirs[:4], size + 10  # but how many prototypes are in use
        elif name != "loss":
            size, step, least = 3 * p.share / p.student_temp, torch.finfo(ours.dtype).eps, 1e-7
            least *= ours.dtype == torch.float16
        ours, theirs = ours.double(), theirs.double()
        excess = (ours - theirs).abs() - slack * (size + theirs.abs().max()) - step * theirs.abs() - least
        assert ours.shape == theirs.shape and (excess <= 0).all(), (name, excess.max(), ours, theirs)


def assert_same(found: Tensor, expected: Tensor, p: Problem, backend: str, name: str = "student") -> None:
    """Of the same bits; in the oracle but for rounding, as a loss of given logits, which is summed over all rows."""
    if backend in BITWISE and (p.weights or name != "loss"):
        assert torch.equal(found, expected), (name, found, expected)
    elif found.numel():
        assert_close({name: found}, {name: expected}, p)


PROPERTIES: list[tuple[Callable, dict]] = []
"""What holds for every problem, and what those are drawn from: for Triton's interpreter."""


def for_every_problem(examples: int = 25, interpreted: bool = True, **drawn):
    """A property(p, backend) becomes a test of every backend that runs here, on problems that are drawn.

    Chunks are of a few rows, and of prototypes: given logits have none.
    """

    def decorate(prop):
        if interpreted:
            PROPERTIES.append((prop, drawn))

        @wraps(prop)
        def test(p, backend):
            assume(p.weights or backend != "chunked")
            with patch.object(chunked, "SCORES", 4000):
                prop(p, backend)

        test = settings(max_examples=examples, deadline=None)(given(p=problems(**drawn))(test))
        return pytest.mark.parametrize("backend", BACKENDS + ["chunked"] * (drawn.get("kinds") != ("logits",)))(test)

    return decorate
