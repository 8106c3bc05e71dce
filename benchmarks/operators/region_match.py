"""Matching the regions of a batch's views: time of everyone who can compute it, beside the least bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring.contest import Passes, contest
from benchmarks.measuring.exactness import doubles, error_ratio, worst
from benchmarks.measuring.planned import backend_refusal
from benchmarks.measuring.records import record
from benchmarks.measuring.words import operator_table
from benchmarks.registry import CASE, Benchmark, case_problems, register
from esvit_fast import ops, reference


@dataclass(frozen=True)
class Case:
    """Of each image, `student` regions of all views, matched among `teacher` regions of each of `views` views."""

    name: str
    student: int
    teacher: int
    views: int = 2
    channels: int = 768

    def shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Of the operator's arguments."""
        student = (batch, self.student, self.channels)
        return {"student": student, "teacher": (batch, self.views, self.teacher, self.channels)}


CASES = {
    case.name: case
    for case in (
        Case("swin_t, 2 x 224 and 8 x 96", 2 * 49 + 8 * 9, 49),
        Case("swin_t, 2 x 224", 2 * 49, 49),
    )
}
"""Regions of 32 x 32 pixels, of the views that the operator is called with in a training step."""
Maps = tuple[Tensor, Tensor]
Found = tuple[Tensor, Tensor, Tensor]
"""Index, similarity and margin of each region's match, [B, views, regions] each."""


def published(student: Tensor, teacher: Tensor) -> Found:
    """As the published code has it: one view of the teacher after the other, and all similarities held."""
    student, found = F.normalize(student.float(), dim=-1), []
    for view in F.normalize(teacher.float(), dim=-1).unbind(1):
        similarity, index = (student @ view.transpose(-2, -1)).topk(2, dim=-1)
        found.append((index[..., 0], similarity[..., 0], similarity[..., 0] - similarity[..., 1]))
    return tuple(torch.stack(each, 1) for each in zip(*found, strict=True))


def _compiled() -> Callable[[Tensor, Tensor], Found]:
    torch._dynamo.reset()
    return torch.compile(reference.region_match, dynamic=False)


@dataclass(frozen=True)
class Contestant:
    """One way to match regions: how it is made, and the backend that it needs."""

    make: Callable[[], Callable[[Tensor, Tensor], Found]]
    backend: str | None = None


MODES = ("forward",)
CONTESTANTS = {
    "torch eager": Contestant(lambda: reference.region_match),
    "as published": Contestant(lambda: published),
    "torch.compile": Contestant(_compiled),
    **{
        f"esvit_fast {backend}": Contestant(lambda backend=backend: partial(ops.region_match, backend=backend), backend)
        for backend in ("cpu", "triton")
    },
}
"""The first is what the gate measures all others by."""


def inputs(case: Case, batch: int, dtype: torch.dtype, device: str) -> Maps:
    """Regions that have something in common, those of the student near one of the teacher's; the same for everyone."""
    g, shapes = torch.Generator().manual_seed(0), case.shapes(batch)
    teacher = torch.randn(case.channels, generator=g) + torch.randn(*shapes["teacher"], generator=g)
    near = torch.randint(case.views * case.teacher, (batch, case.student, 1), generator=g)
    student = teacher.flatten(1, 2).gather(1, near.expand(shapes["student"]))
    student = student + torch.randn(*shapes["student"], generator=g)
    return student.to(device, dtype), teacher.to(device, dtype)


def refusal(name: str, case: Case, dtype: torch.dtype, device: str) -> str | None:
    """Why someone cannot take part, or None."""
    backend = CONTESTANTS[name].backend
    if backend is None:
        return None
    return backend_refusal("region_match", backend, device, dtype, case.shapes(1), {"match_dtype": None})


ALLOWED = 2e-6
"""Of the errors of similarity and margin."""


def choice(index: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    """1, less how much less similar the chosen regions are than the best, by float64."""
    wide, far = F.normalize(student.double(), dim=-1), F.normalize(teacher.double(), dim=-1)
    similar = wide.unsqueeze(1) @ far.transpose(-2, -1)
    return 1 + similar.gather(-1, index.unsqueeze(-1)).squeeze(-1) - similar.amax(-1)


def gate(name: str, case: Case, dtype: torch.dtype, device: str) -> float:
    """Errors against float64, in units of what is allowed; at most 1 passes. Two images are enough.

    What a match is for, the choice, is held to the rule of `exactness`: regions that are alike but for rounding may
    change places. Similarity and margin, which are statistics of a run, are held to 2e-6, as in the operator's tests.
    """
    given = inputs(case, 2, dtype, device)
    index, *statistics = CONTESTANTS[name].make()(*given)
    exact = reference.region_match(*doubles(given))[1:]

    def plain(drawn: Maps) -> list[Tensor]:
        rounded = torch.promote_types(drawn[0].dtype, torch.float32)
        return [choice(reference.region_match(*drawn)[0], *drawn).to(rounded)]

    off = ((found - true).abs().max().item() / ALLOWED for found, true in zip(statistics, exact, strict=True))
    return worst([error_ratio([choice(index, *given).float()], plain, given), *off])


def least(case: Case, batch: int, dtype: torch.dtype) -> dict[str, dict[str, int]]:
    """What any implementation moves and multiplies: both maps read; index, similarity and margin written."""
    matches = batch * case.views * case.student
    read = batch * (case.student + case.views * case.teacher) * case.channels * dtype.itemsize
    return {"forward": {"bytes": read + 16 * matches, "flop": 2 * matches * case.teacher * case.channels}}


def measure(case: Case, names: Sequence[str], batch: int, dtype: torch.dtype, device: str, rounds: int) -> dict:
    """A record of one case; of a GPU's times, launches are no part."""
    given = inputs(case, batch, dtype, device)
    rows = contest(
        names,
        refusal=lambda name: refusal(name, case, dtype, device),
        gate=lambda name: gate(name, case, dtype, device),
        passes=lambda name: Passes({"forward": partial(CONTESTANTS[name].make(), *given)}),
        device=device,
        rounds=rounds,
        hidden=True,
        resident=True,
    )
    return record(identity(case, batch, dtype), rows, rounds, device, least=least(case, batch, dtype))


def identity(case: Case, batch: int, dtype: torch.dtype) -> dict:
    """What tells a record from those of other cases."""
    shape = {"batch": batch, "student": case.student, "teacher": case.teacher, "views": case.views}
    shape |= {"channels": case.channels}
    return {"op": "region_match", "case": case.name, "shape": shape, "dtype": str(dtype)}


def table(record: dict) -> str:
    """A record for people to read."""
    shape = record["shape"]
    size = f"{shape['student']} regions in {shape['views']} x {shape['teacher']}, {shape['channels']} channels"
    return operator_table(f"{record['case']}: {shape['batch']} images, {size}, {record['dtype']}", record, MODES)


def smallest(device: str, backend: str, dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    """More regions than a block has."""
    student, teacher = (torch.randn(1, n, 40, device=device, dtype=dtype) for n in (33, 18))
    yield lambda: ops.region_match(student, teacher, backend=backend)


register(
    Benchmark(
        "region_match",
        "Matching of regions",
        __doc__,
        case_problems(CASES, identity, measure),
        table,
        modes=MODES,
        contestants=tuple(CONTESTANTS),
        arguments={"--case": CASE},
        quick={"batch": 1, "contestants": ["torch eager", "as published", "esvit_fast cpu"]},
        smallest=smallest,
        row_per_case=True,
    )
)
