"""EsViT's loss: matching views and matching regions between a student and a teacher (arXiv 2106.09785, section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...ops import Pairs, Statistics, prototype_cross_entropy, region_match, soft_cross_entropy
from .koleo import koleo


@dataclass(frozen=True)
class Projection:
    """What a network with heads makes of several views of B images. Rows are ordered by view, then image, then region.

    Attributes:
        tokens: regions of each view, (N_0, …, N_{V-1}).
        view: [V B, D] bottleneck rows of the view head, or its logits [V B, K] where prototypes is None; None without
            a view task.
        view_prototypes: [K, D] or None.
        view_weight_g: [K, 1] or [K], lengths that the prototypes are scaled to; None: as they are.
        region: the same of the region head, [sum_v N_v B, D] or [sum_v N_v B, K]; None without a region task.
        region_prototypes, region_weight_g: likewise.
        features: [sum_v N_v B, C], the backbone's regions, by which they are matched; None without a region task.
        pooled: [V B, C], the backbone's views, detached, for statistics; None leaves those out.
    """

    tokens: tuple[int, ...]
    view: Tensor | None = None
    view_prototypes: Tensor | None = None
    view_weight_g: Tensor | None = None
    region: Tensor | None = None
    region_prototypes: Tensor | None = None
    region_weight_g: Tensor | None = None
    features: Tensor | None = None
    pooled: Tensor | None = None


class MatchStatistics(NamedTuple):
    """What the matches of regions look like; scalars.

    Attributes:
        similarity: mean cosine similarity of matched regions.
        margin: how much less similar the second best is, on average.
        repeated: share of regions whose match another region of the same view has, too.
    """

    similarity: Tensor
    margin: Tensor
    repeated: Tensor


class EsViTStatistics(NamedTuple):
    """Losses of the two tasks (unweighted, not differentiable) and what their teachers' assignments look like.

    Attributes:
        view_loss, region_loss: mean cross-entropy in nats; None where a task has no weight.
        view, region: `ops.Statistics`, likewise.
        match: `MatchStatistics`; None without a region task.
        koleo_loss: mean of `koleo` over the views that the teacher sees; None where it has no weight.
        features: [B, C], the student backbone's features of the first view; None where they are not given.
    """

    view_loss: Tensor | None
    region_loss: Tensor | None
    view: Statistics | None
    region: Statistics | None
    match: MatchStatistics | None
    koleo_loss: Tensor | None = None
    features: Tensor | None = None


class EsViTLoss(nn.Module):
    """Cross-entropy of every student view, and every student region, with the teacher's other views.

    Each region of a student view is paired with the most similar region of the teacher's view of the same image.
    Pairs of one view with itself are left out. The loss is
    ``view_weight * mean over view pairs + region_weight * mean over view pairs of the mean over student regions``.

    With ``centering="mean"``, as published, a centre is subtracted from the teacher's logits. The centres are buffers.
    A forward pass only adds up the teacher's rows, of which logits are linear; `update_centers` moves them, once per
    optimiser step, which makes gradient accumulation exact. With ``"sinkhorn"`` (arXiv 2006.09882, section 3.1) the
    teacher's assignments of each forward pass are balanced instead, so that every prototype receives the same share.

    ``koleo_weight * mean over the views that the teacher sees of koleo(student's view rows)`` may be added. It keeps
    small runs from collapse. DINOv2 has it on the backbone's features instead, summed over views.
    Neighbours are sought within the rows of one forward pass of one rank, so that its value depends on how a batch is
    divided.

    Args:
        out_dim: prototypes K.
        view_weight, region_weight: of the two tasks; with (1, 0) the loss is DINO's.
        student_temp: temperature of the student's softmax.
        center_momentum: share of a centre that an update keeps.
        match_dtype: as in `ops.region_match`.
        centering: "mean" or "sinkhorn".
        koleo_weight: of `methods.koleo`; it needs the view task.
        all_reduce: sums a tensor over all ranks, in place; what it returns is waited for, if it has a `wait`. None: a
            single process.
    """

    def __init__(
        self,
        out_dim: int,
        view_weight: float = 0.5,
        region_weight: float = 0.5,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
        match_dtype: torch.dtype | None = None,
        centering: str = "mean",
        koleo_weight: float = 0.0,
        all_reduce: Callable[[Tensor], object] | None = None,
    ):
        super().__init__()
        if centering not in ("mean", "sinkhorn"):
            raise ValueError(f"centering={centering!r} must be mean or sinkhorn")
        if view_weight < 0 or region_weight < 0 or view_weight + region_weight == 0:
            raise ValueError(
                f"view_weight={view_weight} and region_weight={region_weight} must not be negative nor both 0"
            )
        if koleo_weight < 0 or (koleo_weight > 0 and view_weight == 0):
            raise ValueError(f"koleo_weight={koleo_weight} must not be negative, nor be used with view_weight=0")
        self.weights = {"view": view_weight, "region": region_weight}
        self.student_temp, self.center_momentum, self.match_dtype = student_temp, center_momentum, match_dtype
        self.koleo_weight = koleo_weight
        self.centering, self.all_reduce = centering, all_reduce or (lambda tensor: None)
        self.tasks = [task for task, weight in self.weights.items() if weight > 0]
        for task in self.tasks:
            self.register_buffer(f"{task}_center", torch.zeros(out_dim))
        self._reduced = None
        self.forget()

    def forward(self, student: Projection, teacher: Projection, teacher_temp: float) -> tuple[Tensor, EsViTStatistics]:
        """Loss, a scalar differentiable in the student's rows and prototypes, and statistics.

        Args:
            student: of all V views.
            teacher: of the first views of the same images, in the same order.
            teacher_temp: temperature of the teacher's softmax.

        Raises:
            ValueError: there are fewer than two views, or the two do not fit together.
        """
        views, teachers = len(student.tokens), len(teacher.tokens)
        if views < 2 or not 1 <= teachers <= views:
            raise ValueError(
                f"views: the student has {views}, the teacher {teachers}; pass at least 2, of which it sees the first"
            )
        batch = self._batch(student, teacher)
        terms, losses, statistics, match, spread = [], {}, {}, None, None
        with torch.autocast(getattr(student, self.tasks[0]).device.type, enabled=False):
            for task in self.tasks:
                if task == "view":
                    pairs = view_pairs(batch, views, teachers, student.view)
                else:
                    pairs, match = region_pairs(batch, student, teacher, self.match_dtype)
                # the operators' gradients are made with the loss: weighted before, they need no pass of their own
                weight = self.weights[task]
                pairs = pairs._replace(weight=weight * pairs.weight)
                loss, found = self._task(task, student, teacher, pairs, teacher_temp)
                terms.append(loss)
                losses[task], statistics[task] = loss.detach() / weight, found._replace(kl=found.kl / weight)
            if self.koleo_weight:
                spread = torch.stack([koleo(rows) for rows in student.view.split(batch)[:teachers]]).mean()
                terms.append(self.koleo_weight * spread)
                spread = spread.detach()
        return sum(terms), EsViTStatistics(
            losses.get("view"),
            losses.get("region"),
            statistics.get("view"),
            statistics.get("region"),
            match,
            spread,
            None if student.pooled is None else student.pooled[:batch],
        )

    def _batch(self, student: Projection, teacher: Projection) -> int:
        """The number of images, on which the rows of all tasks agree."""
        batch = None
        for task in self.tasks:
            for name, projection in (("student", student), ("teacher", teacher)):
                rows = getattr(projection, task)
                if rows is None:
                    raise ValueError(f"{name}.{task} is None, but {task}_weight={self.weights[task]}; pass its rows")
                each = len(projection.tokens) if task == "view" else sum(projection.tokens)
                batch = len(rows) // each if batch is None else batch
                if len(rows) != batch * each:
                    raise ValueError(f"{name}.{task} has {len(rows)} rows; {batch} images must have {each} each")
        return batch

    def _task(self, task: str, student: Projection, teacher: Projection, pairs: Pairs, teacher_temp: float):
        rows, prototypes, weight_g = _of_task(student, task)
        rows_t, prototypes_t, weight_g_t = (None if x is None else x.detach() for x in _of_task(teacher, task))
        temperatures = {"student_temp": self.student_temp, "teacher_temp": teacher_temp}
        if self.centering == "sinkhorn":
            bias = sinkhorn_bias(rows_t, prototypes_t, weight_g_t, temp=teacher_temp, all_reduce=self.all_reduce)
            center = -teacher_temp * bias
        else:
            center = self._note_center(task, rows_t, prototypes_t, weight_g_t)
        if prototypes is None:
            return soft_cross_entropy(rows, rows_t, center, pairs, **temperatures)
        lengths = {"student_weight_g": weight_g, "teacher_weight_g": weight_g_t}
        return prototype_cross_entropy(rows, prototypes, rows_t, prototypes_t, center, pairs, **lengths, **temperatures)

    @torch.no_grad()
    def _note_center(self, task: str, rows: Tensor, prototypes: Tensor | None, weight_g: Tensor | None) -> Tensor:
        """Add rows to the running sum; the centre as it is."""
        if self._reduced is not None:
            raise RuntimeError("reduce_centers was called; call update_centers or forget before the next forward pass")
        center = getattr(self, f"{task}_center")
        total, count = rows.to(center.dtype).sum(0), center.new_full((1,), len(rows))
        if task in self._noted:
            total, count = total + self._noted[task].total, count + self._noted[task].count
        self._noted[task] = _Noted(total, count, prototypes, weight_g)
        return center

    @torch.no_grad()
    def reduce_centers(self) -> None:
        """Begin to sum over ranks what `update_centers` needs; after the last forward pass of a step, it runs beside
        the backward pass. Without it, that begins and waits.

        Logits are linear in the rows, so their mean is the logit of the mean row: what is reduced is as wide as the
        bottleneck, at once for both tasks.
        """
        if self._reduced is None and self._noted:
            flat = torch.cat([x for n in self._noted.values() for x in (n.total, n.count)])
            self._reduced = flat, self.all_reduce(flat)

    @torch.no_grad()
    def update_centers(self, skip: Tensor | None = None) -> None:
        """Move the centres towards the mean of the teacher's logits since the last call, and forget those.

        All ranks must call it, with the same teacher, and before that is updated: logits are made now. Where `skip`,
        a bool on the device that nothing waits for, the centres stay as they are.
        """
        self.reduce_centers()
        noted, reduced = self._noted, self._reduced
        self.forget()
        if reduced is None:
            return
        sums = iter(reduced[0].split([len(x) for n in noted.values() for x in (n.total, n.count)]))
        for task, n in noted.items():
            mean = next(sums) / next(sums)
            center, logits = getattr(self, f"{task}_center"), _logits(mean, n.prototypes, n.weight_g)
            if skip is not None:
                logits = torch.where(skip, center, logits)
            center.lerp_(logits, 1 - self.center_momentum)

    def forget(self) -> None:
        """Drop what has been summed for the centres since their last update, as when a step is not taken."""
        if self._reduced is not None:
            _wait(self._reduced[1])
        self._noted: dict[str, _Noted] = {}
        self._reduced: tuple[Tensor, object] | None = None


def _wait(work: object) -> None:
    """Wait for what a reduction has begun, if it says how."""
    if hasattr(work, "wait"):
        work.wait()


class _Noted(NamedTuple):
    """The teacher's rows since the last update of a centre: their sum, how many, and what makes logits of them."""

    total: Tensor
    count: Tensor
    prototypes: Tensor | None
    weight_g: Tensor | None


@torch.no_grad()
def sinkhorn_bias(
    rows: Tensor,
    prototypes: Tensor | None = None,
    weight_g: Tensor | None = None,
    *,
    temp: float = 1.0,
    all_reduce: Callable[[Tensor], object] = lambda tensor: None,
    iterations: int = 3,
    chunk: int = 2**23,
) -> Tensor:
    """Logarithm of the factor of each prototype that balances assignments (Sinkhorn-Knopp): [K].

    ``softmax(logits / temp + bias)`` are the balanced assignments: after some iterations their mean over all rows of
    all ranks is nearly uniform. Logits are made, used and forgotten for some prototypes at a time, twice an iteration.
    Sums over ranks are formed from exponentials in float64, which hold scores up to 700.

    Args:
        rows: [M, D], whose logits are those with the prototypes; or logits [M, K].
        prototypes, weight_g: as in `Projection`; None: rows are logits.
        temp: temperature.
        all_reduce: as in `EsViTLoss`.
        chunk: elements of logits that are held at a time.
    """
    count = rows.shape[1] if prototypes is None else len(prototypes)
    size = max(1, chunk // len(rows))
    parts = [slice(first, first + size) for first in range(0, count, size)]
    row = rows.new_zeros(len(rows), 1)

    def scores(part: slice) -> Tensor:
        if prototypes is None:
            return rows[:, part] / temp
        return _logits(rows, prototypes[part], None if weight_g is None else weight_g[part]) / temp

    for _ in range(iterations):
        totals = [(scores(part) + row).logsumexp(0).double().exp() for part in parts]
        total = torch.cat(totals)
        _wait(all_reduce(total))
        bias, reached = -total.log().to(rows.dtype), torch.full_like(row, -torch.inf)
        for part in parts:
            reached = torch.logaddexp(reached, (scores(part) + bias[part]).logsumexp(1, keepdim=True))
        row = -reached
    return bias - bias.mean()


def view_pairs(batch: int, views: int, teachers: int, like: Tensor) -> Pairs:
    """Pair every student view with every teacher view but its own, on the device of `like`; the weights sum to 1."""
    device = like.device
    teacher, student = torch.arange(teachers, device=device)[:, None], torch.arange(views - 1, device=device)
    student = student + (student >= teacher)  # [teachers, views - 1]: all but the teacher's own
    image = torch.arange(batch, device=device)
    student_row, teacher_row = (v[..., None] * batch + image for v in (student, teacher.expand_as(student)))
    weight = _constant(student_row.numel(), 1 / student_row.numel(), like)
    return Pairs(student_row.flatten(), teacher_row.flatten(), weight)


def region_pairs(
    batch: int, student: Projection, teacher: Projection, match_dtype: torch.dtype | None
) -> tuple[Pairs, MatchStatistics]:
    """Pair every student region with its best match in every other teacher view; the weights sum to 1.

    Each pair of views has the same weight, shared equally by the student's regions.
    """
    device, parts, found = student.features.device, [], []
    pairs_of_views = sum(v != q for q in range(len(teacher.tokens)) for v in range(len(student.tokens)))
    for tokens, views, rows, maps in _groups(batch, student):
        for _, teachers, rows_t, maps_t in _groups(batch, teacher):
            matches = region_match(maps.transpose(0, 1).flatten(1, 2), maps_t.transpose(0, 1), match_dtype=match_dtype)
            index, similarity, margin = (x.unflatten(2, (len(views), tokens)) for x in matches)
            target = index + rows_t[..., 0].T[..., None, None]  # [B, teachers, views, tokens]
            for i, q in enumerate(teachers):
                own = views.index(q) if q in views else None
                if own is not None and len(views) == 1:
                    continue
                pairs = [_all_but(own, x) for x in (rows, target[:, i].transpose(0, 1))]  # [views, B, tokens]
                weight = _constant(pairs[0].numel(), 1 / (pairs_of_views * batch * tokens), student.features)
                parts.append((*(x.flatten() for x in pairs), weight))
                taken = torch.zeros(len(pairs[0]), len(teacher.features), dtype=similarity.dtype, device=device)
                taken.scatter_(1, pairs[1].flatten(1), 1.0)
                sums = (_all_but(own, x[:, i].transpose(0, 1)).sum() for x in (similarity, margin))
                means = *sums, pairs[0].numel() - taken.sum()
                found.append(torch.stack(means) * weight[0])
    return Pairs(*(torch.cat(x) for x in zip(*parts, strict=True))), MatchStatistics(*sum(found))


def _groups(batch: int, projection: Projection) -> Iterator[tuple[int, list[int], Tensor, Tensor]]:
    """Neighbouring views of one size: tokens, numbers of the views, rows [views, B, tokens] and maps [..., C]."""
    first, device = 0, projection.features.device
    for tokens, group in groupby(range(len(projection.tokens)), key=lambda v: projection.tokens[v]):
        views = list(group)
        shape = len(views), batch, tokens
        count = math.prod(shape)
        rows = torch.arange(first, first + count, device=device).view(shape)
        yield tokens, views, rows, projection.features[first : first + count].view(*shape, -1)
        first += count


def _of_task(projection: Projection, task: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Rows, prototypes and their lengths."""
    return tuple(getattr(projection, f"{task}{what}") for what in ("", "_prototypes", "_weight_g"))


def _logits(rows: Tensor, prototypes: Tensor | None, weight_g: Tensor | None) -> Tensor:
    """[..., D] -> [..., K]; logits as they are without prototypes."""
    if prototypes is None:
        return rows
    logits = rows @ prototypes.to(rows.dtype).T
    if weight_g is None:
        return logits
    return logits * (weight_g.flatten() / torch.linalg.vector_norm(prototypes, dim=1)).to(rows.dtype)


def _constant(length: int, value: float, like: Tensor) -> Tensor:
    return torch.full((length,), value, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))


def _all_but(index: int | None, x: Tensor) -> Tensor:
    """Without the slice at an index, if there is one; found without numbers that a device would have to be sent."""
    return x if index is None else torch.cat([x[:index], x[index + 1 :]])
