"""The loss over prototypes with its last layer: time and memory of everyone who can compute it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring import (
    costs,
    fitting,
    interleaved,
    judged,
    lacking,
    on_gpu,
    provenance,
    resident_growth,
    worst_ratio,
)
from esvit_fast import ops, reference
from esvit_fast.ops._plan import implementations

TOKENS = {"swin": (49, 49, *[9] * 8), "vit": (196, 196, *[36] * 8)}
"""Regions of two views of 224 and eight of 96 pixels."""
TEMPERATURES = {"student_temp": 0.1, "teacher_temp": 0.04}


@dataclass(frozen=True)
class Case:
    """The region task of EsViT: `batch` images, `prototypes` of width `width`, and views as in `TOKENS`."""

    batch: int
    prototypes: int
    tokens: str = "swin"
    width: int = 256


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
    device, parts = x.student.device, []
    batch = len(x.student) // sum(x.tokens)
    starts = [batch * sum(x.tokens[:v]) for v in range(len(x.tokens))]
    for (q, v), index in x.matched.items():
        image = torch.arange(batch, device=device)[:, None]
        row = starts[v] + image * x.tokens[v] + torch.arange(x.tokens[v], device=device)
        target = starts[q] + image * x.tokens[q] + index
        weight = torch.full((row.numel(),), 1 / (len(x.matched) * row.numel()), device=device)
        parts.append((row.flatten(), target.flatten(), weight))
    return ops.Pairs(*map(torch.cat, zip(*parts, strict=True)))


def mean_cross_entropy(log_p: Tensor, target: Tensor) -> Tensor:
    """Of rows [..., K], in plain torch."""
    return -(target * log_p).sum(-1).mean()


def published(x: Inputs, mean: Callable[[Tensor, Tensor], Tensor] = mean_cross_entropy) -> Tensor:
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
        terms.append(mean(student[v].log_softmax(-1), target))
    return sum(terms) / len(terms)


def oracle(x: Inputs) -> Tensor:
    """The oracle under torch's autograd."""
    rest = x.teacher, x.teacher_weight, torch.ones_like(x.weight_g), x.center, *pairs(x)
    return reference.prototype_cross_entropy(*x.trained, *rest, **TEMPERATURES)[0]


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


def _liger(x: Inputs) -> Callable[[Inputs], Tensor]:
    """As published, with Liger's divergence; it has no operator that is given rows of a bottleneck and pairs."""
    from liger_kernel.transformers import LigerKLDIVLoss

    divergence = LigerKLDIVLoss(reduction="batchmean")

    def mean(log_p: Tensor, target: Tensor) -> Tensor:
        # the divergence lacks the entropy of the target, which has no gradient
        entropy = torch.special.entr(target.float()).sum(-1).mean()
        return divergence(log_p.flatten(0, 1), target.flatten(0, 1)) + entropy

    return lambda x: published(x, mean)


CONTESTANTS: dict[str, Callable[[Inputs], Callable[[Inputs], Tensor]]] = {
    "torch eager": lambda x: oracle,
    "as published": lambda x: published,
    "torch.compile": _compiled,
    "liger": _liger,
    "esvit_fast chunked": lambda x: _ours("chunked"),
    "esvit_fast cpu": lambda x: _ours("cpu"),
    "esvit_fast triton": lambda x: _ours("triton"),
    "esvit_fast cuda": lambda x: _ours("cuda"),
}
"""The first is what the gate measures all others by."""


def refusal(name: str, device: str) -> str | None:
    """Why someone cannot take part, or None."""
    if name == "liger":
        return lacking("liger_kernel", device)
    library, _, backend = name.partition(" ")
    if library != "esvit_fast":
        return None
    if backend not in implementations("prototype_cross_entropy"):
        return f"this version has no {backend} implementation"
    if backend != "chunked" and on_gpu(device) == (backend == "cpu"):
        return f"the rows are on {device}"
    return None


def results(run: Callable[[Inputs], Tensor], x: Inputs) -> list[Tensor]:
    """Loss and all gradients."""
    loss = run(x)
    return [loss.detach(), *torch.autograd.grad(loss, x.trained)]


def gate(name: str, case: Case, dtype: torch.dtype, device: str) -> float:
    """Errors against float64, in units of what is allowed. One image, and no more than 4,096 prototypes, are enough."""
    small = Case(1, min(case.prototypes, 4096), case.tokens, case.width)
    x, exact = inputs(small, dtype, device), inputs(small, dtype, device)
    exact = Inputs(*(v.detach().double() if isinstance(v, Tensor) else v for v in vars(exact).values()))
    for tensor in exact.trained:
        tensor.requires_grad_()
    return worst_ratio(results(CONTESTANTS[name](x), x), results(oracle, x), results(oracle, exact))


def measure(case: Case, names: Sequence[str], dtype: torch.dtype, device: str, rounds: int) -> dict:
    """A record of one case."""
    x, rows, training = inputs(case, dtype, device), {}, {}
    for name in names:
        reason = refusal(name, device)
        if reason is not None:
            rows[name] = {"gate": "absent", "why": reason}
            continue
        rows[name] = judged(lambda name=name: gate(name, case, dtype, device))
        if rows[name]["gate"] == "pass":
            run = CONTESTANTS[name](x)
            training[name] = lambda run=run: results(run, x)
    training = fitting(training, rows, device)
    for name, times in interleaved(training, rounds, device).items():
        rows[name]["training"] = times
    for name, run in training.items():
        rows[name] |= costs(run, device)
        if not on_gpu(device):
            rows[name]["resident_bytes"] = resident_growth(run)
    record = {"op": "prototype_cross_entropy", "case": f"{case.tokens} region task", "shape": vars(case)}
    return record | {"dtype": str(dtype), "rounds": rounds, "contestants": rows} | provenance(device)


def table(record: dict) -> str:
    """A record for people to read; whoever failed the gate has no times."""
    rows, shape = record["contestants"], record["shape"]
    lines = [
        f"{record['case']}: {shape['batch']} images, K={shape['prototypes']}, D={shape['width']}, {record['dtype']}",
        f"  {'':16} {'training':>11} {'times':>7} {'allocated':>10} {'resident':>9}  gate",
    ]
    first = rows["torch eager"].get("training", {}).get("p50")
    for name, row in rows.items():
        if "training" not in row:
            lines.append(f"  {name:16} {row['gate']}: {row.get('why') or row['error']}")
            continue
        times = f"{first / row['training']['p50']:6.2f}x" if first else ""
        resident = f"{row['resident_bytes'] / 2**20:5.0f} MiB" if "resident_bytes" in row else ""
        lines.append(
            f"  {name:16} {row['training']['p50']:8.1f} ms {times:>7} {row['peak_bytes'] / 2**20:6.0f} MiB "
            f"{resident:>9}  {row['error']:.2f} of what is allowed"
        )
    return "\n".join(lines)
