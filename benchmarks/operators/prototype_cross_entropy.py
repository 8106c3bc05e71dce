"""The loss over prototypes with its last layer: time and memory of everyone who can compute it."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring.contest import Passes, contest
from benchmarks.measuring.exactness import error_ratio
from benchmarks.measuring.gpu import on_gpu
from benchmarks.measuring.memory import free_bytes
from benchmarks.measuring.records import record
from benchmarks.measuring.words import without_times
from benchmarks.operators import prototype_cross_entropy_liger as liger
from benchmarks.registry import Benchmark, Problem, register
from esvit_fast import ops, reference

TOKENS = {"swin": (49, 49, *[9] * 8), "vit16": (196, 196, *[36] * 8), "vit8": (784, 784, *[144] * 8)}
"""Regions of two views of 224 and eight of 96 pixels; of ViT with patches of 16 and of 8."""
TEMPERATURES = {"student_temp": 0.1, "teacher_temp": 0.04}


@dataclass(frozen=True)
class Case:
    """The region task of EsViT: `batch` images, `prototypes` of width `width`, and views as in `TOKENS`."""

    batch: int
    prototypes: int
    tokens: str = "swin"
    width: int = 256

    @property
    def rows(self) -> tuple[int, int, int]:
        """Rows of the student, rows of the teacher, and pairs."""
        tokens = TOKENS[self.tokens]
        return self.batch * sum(tokens), self.batch * sum(tokens[:2]), self.batch * (2 * sum(tokens) - sum(tokens[:2]))


@dataclass(frozen=True)
class Inputs:
    """What everyone is given; `matched` is, for each pair of views, the teacher's region of each student region."""

    student: Tensor
    weight: Tensor
    weight_g: Tensor
    teacher: Tensor
    teacher_weight: Tensor
    center: Tensor
    matched: dict[tuple[int, int], Tensor]
    tokens: tuple[int, ...]

    @property
    def trained(self) -> tuple[Tensor, Tensor, Tensor]:
        """What gets gradients."""
        return self.student, self.weight, self.weight_g

    def views(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Student rows and teacher rows of each pair of views."""
        batch = len(self.student) // sum(self.tokens)
        starts = [batch * sum(self.tokens[:v]) for v in range(len(self.tokens))]
        for (q, v), index in self.matched.items():
            image = torch.arange(batch, device=index.device)[:, None]
            row = starts[v] + image * self.tokens[v] + torch.arange(self.tokens[v], device=index.device)
            yield row.flatten(), (starts[q] + image * self.tokens[q] + index).flatten()


def inputs(case: Case, dtype: torch.dtype, device: str) -> Inputs:
    """Rows of unit length, and matches at random."""
    g, tokens = torch.Generator().manual_seed(0), TOKENS[case.tokens]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    def unit(rows: int) -> Tensor:
        return F.normalize(normal(rows, case.width), dim=-1).to(device, dtype)

    weight = 0.03 * normal(case.prototypes, case.width)
    matched = {
        (q, v): torch.randint(tokens[q], (case.batch, tokens[v]), generator=g).to(device)
        for q in range(2)
        for v in range(len(tokens))
        if v != q
    }
    return Inputs(
        unit(case.batch * sum(tokens)).requires_grad_(),
        weight.to(device, dtype).requires_grad_(),
        torch.ones(case.prototypes, 1, device=device, dtype=dtype).requires_grad_(),
        unit(case.batch * sum(tokens[:2])),
        (weight + 0.003 * normal(*weight.shape)).to(device, dtype),
        (0.01 * normal(case.prototypes)).to(device, dtype),
        matched,
        tokens,
    )


def pairs(x: Inputs) -> ops.Pairs:
    """The matches as a list."""
    parts = []
    for row, target in x.views():
        parts.append((row, target, torch.full((len(row),), 1 / (len(x.matched) * len(row)), device=row.device)))
    return ops.Pairs(*map(torch.cat, zip(*parts, strict=True)))


def published(x: Inputs) -> Tensor:
    """Logits of all rows, and for each pair of views the teacher's rows gathered prototype by prototype."""
    batch = len(x.student) // sum(x.tokens)

    def logits(rows: Tensor, weight: Tensor, weight_g: Tensor) -> Tensor:
        return rows @ torch._weight_norm(weight, weight_g, 0).T

    student = logits(x.student, x.weight, x.weight_g) / TEMPERATURES["student_temp"]
    teacher = logits(x.teacher, x.teacher_weight, torch.ones_like(x.weight_g)) - x.center
    teacher = (teacher / TEMPERATURES["teacher_temp"]).softmax(-1)
    student, teacher = (
        [part.unflatten(0, (batch, -1)) for part in rows.split([batch * n for n in tokens])]
        for rows, tokens in ((student, x.tokens), (teacher, x.tokens[:2]))
    )
    terms = []
    for (q, v), index in x.matched.items():
        target = teacher[q].gather(1, index.unsqueeze(-1).expand(-1, -1, teacher[q].shape[-1]))
        terms.append(-(target * student[v].log_softmax(-1)).sum(-1).mean())
    return sum(terms) / len(terms)


def _oracle(x: Inputs) -> tuple[Tensor, Tensor]:
    rest = x.teacher, x.teacher_weight, torch.ones_like(x.weight_g), x.center, *pairs(x)
    loss, statistics = reference.prototype_cross_entropy(*x.trained, *rest, **TEMPERATURES)
    return loss, statistics[2]


def oracle(x: Inputs) -> Tensor:
    """The oracle under torch's autograd."""
    return _oracle(x)[0]


def _ours(backend: str) -> Callable[[Inputs], Tensor]:
    def run(x: Inputs) -> Tensor:
        lengths = {"student_weight_g": x.weight_g, "teacher_weight_g": torch.ones_like(x.weight_g)}
        rest = x.teacher, x.teacher_weight, x.center, pairs(x)
        options = TEMPERATURES | lengths
        return ops.prototype_cross_entropy(x.student, x.weight, *rest, **options, backend=backend)[0]

    return run


def _compiled(x: Inputs) -> Callable[[Inputs], Tensor]:
    torch._dynamo.reset()
    return torch.compile(oracle, dynamic=False)


def peer(divergence: Callable[[float], liger.Divergence]) -> Callable[[Inputs], Callable[[Inputs], Tensor]]:
    """A divergence of rows one to one, on pairs: those of views with as many regions weigh the same."""
    sharper = TEMPERATURES["student_temp"] / TEMPERATURES["teacher_temp"]

    def make(x: Inputs) -> Callable[[Inputs], Tensor]:
        loss = divergence(TEMPERATURES["student_temp"])

        def run(x: Inputs) -> Tensor:
            groups: dict[int, list[tuple[Tensor, Tensor]]] = {}
            for row, target in x.views():
                groups.setdefault(len(row), []).append((row, target))
            each = (
                (len(group) / len(x.matched), *map(torch.cat, zip(*group, strict=True))) for group in groups.values()
            )
            return liger.one_to_one(loss, x.trained, x.teacher, x.teacher_weight, x.center, each, sharper)

        return run

    return make


@dataclass(frozen=True)
class Contestant:
    """One way to compute the loss and its gradients.

    Attributes:
        make: inputs to a function of inputs.
        held: case and bytes of an element to about the bytes that it holds at most, but for its inputs.
        refuse: device to why it cannot take part there, or None.
        divergence: it gives the Kullback-Leibler divergence; the gradients are the same.
        note: what it does otherwise than the first.
    """

    make: Callable[[Inputs], Callable[[Inputs], Tensor]]
    held: Callable[[Case, int], float]
    refuse: Callable[[str], str | None] = lambda device: None
    divergence: bool = False
    note: str = ""


def _scores(students: float, teachers: float, of_pairs: float = 0, exact: bool = True) -> Callable[[Case, int], float]:
    """Held by who has so many matrices of the scores of all student rows, of all teacher rows, and of pairs."""

    def held(case: Case, itemsize: int) -> float:
        rows = sum(n * count for n, count in zip((students, teachers, of_pairs), case.rows, strict=True))
        return (4 if exact else itemsize) * case.prototypes * (rows + 6 * case.width)

    return held


def _few(rows: int, prototypes: int, least: int = 0) -> Callable[[Case, int], float]:
    """Held by who has no scores: so many float32 matrices as wide as the bottleneck, of all rows and of prototypes."""
    return lambda case, itemsize: least + 4 * case.width * (rows * sum(case.rows[:2]) + prototypes * case.prototypes)


def _chunked(case: Case, itemsize: int) -> float:
    """Held beside three matrices of the scores of a chunk of rows."""
    return _few(4, 4)(case, itemsize) + 3 * min(64 << 20, 4 * case.rows[0] * case.prototypes)


def _liger(held: Callable[[int, int, int, int], int]) -> Callable[[Case, int], float]:
    return lambda case, itemsize: held(case.rows[2], case.prototypes, case.width, itemsize)


def _must_be(gpu: bool) -> Callable[[str], str | None]:
    return lambda device: None if on_gpu(device) == gpu else f"the rows are on {device}"


HARD = "it takes one hard label a row: no probabilities of a teacher, no centre, no pairs of rows"
_NOTE = "rows are gathered pair by pair; its loss lacks the teacher's entropy; scores in the rows' dtype"
CONTESTANTS = {
    "torch eager": Contestant(lambda x: oracle, _scores(4, 1)),
    "as published": Contestant(lambda x: published, _scores(1, 1, 2, exact=False)),
    "torch.compile": Contestant(_compiled, _scores(3, 1)),
    "esvit_fast cpu": Contestant(lambda x: _ours("cpu"), _few(8, 3, 80 << 20), _must_be(gpu=False)),
    "esvit_fast chunked": Contestant(lambda x: _ours("chunked"), _chunked),
    "esvit_fast triton": Contestant(lambda x: _ours("triton"), _few(16, 5), _must_be(gpu=True)),
    "liger chunked": Contestant(
        peer(liger.chunked), _liger(liger.held_chunked), lambda device: liger.MISSING, divergence=True, note=_NOTE
    ),
    "liger fused JSD": Contestant(
        peer(liger.fused),
        _liger(liger.held_fused),
        lambda device: liger.MISSING or (None if on_gpu(device) else "its kernels are for a GPU"),
        divergence=True,
        note=_NOTE.replace("the rows' dtype", "float32, their gradients in the rows' dtype"),
    ),
    "liger fused CE": Contestant(lambda x: oracle, _few(0, 0), lambda device: HARD),
    "cut cross-entropy": Contestant(lambda x: oracle, _few(0, 0), lambda device: HARD),
}
"""The first is what the gate measures all others by; the last two are named for why they cannot take part."""
SPARE = 0.5
"""Of the memory that is free: estimates are of tensors alone; fragments and copies in libraries may take as much."""


def refusal(name: str, case: Case, dtype: torch.dtype, device: str, most: float | None = None) -> str | None:
    """Why someone cannot take part, or None; `most` bytes may be held, or `SPARE` of what is free."""
    contestant = CONTESTANTS[name]
    if reason := contestant.refuse(device):
        return reason
    held, most = contestant.held(case, dtype.itemsize), SPARE * free_bytes(device) if most is None else most
    if held > most:
        return f"it would hold about {held / 2**30:.1f} GiB, and {most / 2**30:.1f} GiB are allowed"
    return None


def results(run: Callable[[Inputs], Tensor], x: Inputs) -> list[Tensor]:
    """Loss and all gradients."""
    loss = run(x)
    return [loss.detach(), *torch.autograd.grad(loss, x.trained)]


def gate(name: str, case: Case, dtype: torch.dtype, device: str) -> float:
    """Errors against float64, in units of what is allowed. One image, and no more than 4,096 prototypes, are enough."""
    small = Case(1, min(case.prototypes, 4096), case.tokens, case.width)
    x, contestant = inputs(small, dtype, device), CONTESTANTS[name]

    def plainly(given: Inputs) -> list[Tensor]:
        found = results(oracle, given)
        return [_oracle(given)[1], *found[1:]] if contestant.divergence else found

    return error_ratio(results(contestant.make(x), x), plainly, x)


def measure(
    case: Case, names: Sequence[str], dtype: torch.dtype, device: str, rounds: int, most: float | None = None
) -> dict:
    """A record of one case; whoever would hold more than `most` bytes is left out, as in `refusal`."""
    x = inputs(case, dtype, device)
    rows = contest(
        names,
        refusal=lambda name: refusal(name, case, dtype, device, most),
        gate=lambda name: gate(name, case, dtype, device),
        passes=lambda name: Passes({"training": partial(results, CONTESTANTS[name].make(x), x)}),
        device=device,
        rounds=rounds,
        resident=True,
    )
    for name, row in rows.items():
        if CONTESTANTS[name].note and row["gate"] != "absent":
            row["note"] = CONTESTANTS[name].note
    return record(identity(case, dtype), rows, rounds, device)


def identity(case: Case, dtype: torch.dtype) -> dict:
    """What tells a record from those of other cases."""
    named = {"op": "prototype_cross_entropy", "case": f"{case.tokens} region task", "shape": vars(case)}
    return named | {"dtype": str(dtype)}


def table(record: dict) -> str:
    """A record for people to read; whoever failed the gate has no times."""
    rows, shape = record["contestants"], record["shape"]
    lines = [
        f"{record['case']}: {shape['batch']} images, K={shape['prototypes']}, D={shape['width']}, {record['dtype']}",
        f"  {'':17} {'training':>11} {'times':>7} {'allocated':>10} {'resident':>9}  gate",
    ]
    first = rows.get("torch eager", {}).get("training", {}).get("p50")
    for name, row in rows.items():
        if "training" not in row:
            lines.append(f"  {name:17} {without_times(row)}")
            continue
        times = f"{first / row['training']['p50']:6.2f}x" if first else ""
        resident = f"{row['resident_bytes'] / 2**20:5.0f} MiB" if "resident_bytes" in row else ""
        lines.append(
            f"  {name:17} {row['training']['p50']:8.1f} ms {times:>7} {row['peak_bytes'] / 2**20:6.0f} MiB "
            f"{resident:>9}  {row['error']:.2f} of what is allowed"
        )
    return "\n".join(lines + [f"  {name}: {row['note']}" for name, row in rows.items() if "note" in row])


def _problems(args: argparse.Namespace) -> Iterator[Problem]:
    dtype, most = getattr(torch, args.dtype), args.memory and args.memory * 2**30
    for tokens, batch, prototypes in itertools.product(args.tokens, args.batch, args.prototypes):
        case = Case(batch, prototypes, tokens)
        settings = {"dtype": dtype, "device": args.device, "rounds": args.rounds, "most": most}
        yield Problem(identity(case, dtype), partial(measure, case, **settings))


def smallest(device: str, backend: str, dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    """Few rows, teachers and prototypes, with lengths."""
    student, teacher = (torch.randn(n, 32, device=device, dtype=dtype, requires_grad=n > 3) for n in (5, 3))
    weight, teacher_weight = (torch.randn(130, 32, device=device, requires_grad=i == 0) for i in range(2))
    lengths, center = torch.ones(130, 1, device=device), torch.zeros(130, device=device)
    rows = torch.arange(5, device=device)
    given = student, weight, teacher, teacher_weight, center
    given += (ops.Pairs(rows, rows % 3, torch.full((5,), 0.2, device=device)),)
    options = {"student_weight_g": lengths.clone().requires_grad_(), "teacher_weight_g": lengths}
    yield lambda: ops.prototype_cross_entropy(*given, **options, **TEMPERATURES, backend=backend)[0].backward()


register(
    Benchmark(
        "prototype_cross_entropy",
        "The loss over prototypes, with its last layer",
        __doc__,
        _problems,
        table,
        modes=("training",),
        contestants=tuple(CONTESTANTS),
        arguments={
            "--batch": {"type": int, "nargs": "+", "default": [64 if torch.cuda.is_available() else 8]},
            "--prototypes": {"nargs": "+", "type": int, "default": [65536]},
            "--tokens": {"nargs": "+", "choices": [*TOKENS], "default": ["swin"]},
            "--memory": {"type": float, "help": "GiB that one may hold; without it a part of what is free"},
        },
        quick={"batch": [1], "prototypes": [4096], "contestants": ["torch eager", "as published", "esvit_fast cpu"]},
        smallest=smallest,
    )
)
