"""EsViT (arXiv 2106.09785): a student, a teacher that follows it, and heads for views and regions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from ..nn import ProjectionHead
from .esvit_settings import EsViTSettings
from .esvit_signs import SIGNS
from .losses.esvit import EsViTLoss, EsViTStatistics, Projection
from .method import Curves, Method, StepOutput
from .registry import register_method
from .schedules import cosine


class MultiCropNetwork(nn.Module):
    """A backbone with a head for views and one for regions; a task whose head is None is left out.

    Args:
        backbone: has `forward_regions(images) -> (view [B, C], regions [B, N, C])`.
        head: maps view features to a bottleneck.
        head_dense: the same for regions.
    """

    def __init__(self, backbone: nn.Module, head: ProjectionHead | None, head_dense: ProjectionHead | None):
        super().__init__()
        self.backbone, self.head, self.head_dense = backbone, head, head_dense

    def forward(self, crops: Sequence[Tensor]) -> Projection:
        """Views [B, 3, side, side] of any sizes; neighbours of equal size share one pass through the backbone."""
        views, regions, tokens = [], [], []
        for _, group in groupby(crops, key=lambda crop: crop.shape[-2:]):
            group = list(group)
            view, region = self.backbone.forward_regions(torch.cat(group))
            views.append(view)
            regions.append(region.flatten(0, 1))
            tokens += [region.shape[1]] * len(group)
        pooled = torch.cat(views)
        found = {"pooled": pooled.detach()}
        if self.head is not None:
            found |= _projected("view", self.head, pooled)
        if self.head_dense is not None:
            features = torch.cat(regions)
            found |= _projected("region", self.head_dense, features) | {"features": features.detach()}
        return Projection(tuple(tokens), **found)


def _projected(task: str, head: ProjectionHead, rows: Tensor) -> dict[str, Tensor]:
    layer = head.last_layer
    return {
        task: head.bottleneck(rows),
        f"{task}_prototypes": layer.weight_v,
        f"{task}_weight_g": layer.weight_g,
    }


class EsViT(nn.Module):
    """Self-distillation of views and regions.

    The loss of a step is ``method(crops, teacher_temp)``; after the optimiser's step, `update_centers` and
    `update_teacher` finish it. With ``view_weight=1, region_weight=0`` this is DINO (arXiv 2104.14294).

    Args:
        backbone: has `forward_regions` and `num_features`. It becomes the student's; the teacher gets a copy
            without stochastic depth.
        out_dim: prototypes K of each head.
        view_weight, region_weight: weights of the two tasks; a task of weight 0 has no head.
        hidden_dim, bottleneck_dim, head_batch_norm, norm_last_layer: as in `nn.ProjectionHead`.
        student_temp, center_momentum, match_dtype, centering, koleo_weight, all_reduce: as in `EsViTLoss`.
        teacher_views: how many of the crops, from the first, the teacher sees.
    """

    def __init__(
        self,
        backbone: nn.Module,
        out_dim: int = 65536,
        view_weight: float = 0.5,
        region_weight: float = 0.5,
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        head_batch_norm: bool = False,
        norm_last_layer: bool = False,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
        match_dtype: torch.dtype | None = None,
        centering: str = "mean",
        koleo_weight: float = 0.0,
        all_reduce: Callable[[Tensor], object] | None = None,
        teacher_views: int = 2,
    ):
        super().__init__()

        def head(weight: float) -> ProjectionHead | None:
            if weight == 0:
                return None
            return ProjectionHead(
                backbone.num_features, out_dim, hidden_dim, bottleneck_dim, head_batch_norm, norm_last_layer
            )

        self.teacher_views = teacher_views
        self.student = MultiCropNetwork(backbone, head(view_weight), head(region_weight))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        for module in self.teacher.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0
        self.loss = EsViTLoss(
            out_dim,
            view_weight,
            region_weight,
            student_temp,
            center_momentum,
            match_dtype,
            centering,
            koleo_weight,
            all_reduce,
        )

    def forward(self, crops: Sequence[Tensor], teacher_temp: float) -> tuple[Tensor, EsViTStatistics]:
        """Loss, a scalar, and statistics of a batch.

        Args:
            crops: views of the same B images, each [B, 3, side, side], the teacher's first.
            teacher_temp: temperature of the teacher's softmax.
        """
        with torch.no_grad():
            teacher = self.teacher(crops[: self.teacher_views])
        return self.loss(self.student(crops), teacher, teacher_temp)

    def freeze_last_layer(self, frozen: bool) -> None:
        """Stop or resume learning the student's prototypes; no gradient is computed for frozen ones."""
        for head in (self.student.head, self.student.head_dense):
            if head is not None:
                head.freeze_last_layer(frozen)

    @torch.no_grad()
    def update_teacher(self, momentum: float | Tensor) -> None:
        """Let the teacher's parameters follow: ``teacher = momentum * teacher + (1 - momentum) * student``.

        `momentum` may be a scalar on the device, which nothing waits for.
        """
        teacher, student = list(self.teacher.parameters()), list(self.student.parameters())
        if isinstance(momentum, Tensor):
            torch._foreach_mul_(teacher, momentum)
            torch._foreach_add_(teacher, torch._foreach_mul(student, 1 - momentum))
        else:
            torch._foreach_lerp_(teacher, student, 1 - momentum)

    def update_centers(self, skip: Tensor | None = None) -> None:
        """Move both centres; see `EsViTLoss.update_centers`."""
        self.loss.update_centers(skip)


class EsViTPoint(NamedTuple):
    """What a step needs to know of EsViT's schedules."""

    teacher_temp: float
    teacher_momentum: float | Tensor
    freeze_last_layer: bool


@register_method
class EsViTMethod(EsViT, Method):
    """`EsViT` as a run pretrains with it."""

    Settings = EsViTSettings
    Point = EsViTPoint
    on_device = ("teacher_momentum",)
    kept = "teacher.backbone"
    signs = SIGNS
    _frozen: bool | None = None

    @classmethod
    def build(cls, settings: Any, backbone: nn.Module, all_reduce: Callable[[Tensor], object] | None) -> EsViTMethod:
        return cls(
            backbone,
            settings.out_dim,
            settings.view_weight,
            settings.region_weight,
            hidden_dim=settings.head_hidden_dim,
            bottleneck_dim=settings.head_bottleneck_dim,
            head_batch_norm=settings.head_batch_norm,
            norm_last_layer=settings.norm_last_layer,
            student_temp=settings.student_temp,
            center_momentum=settings.center_momentum,
            match_dtype=getattr(torch, settings.match_dtype) if settings.match_dtype else None,
            centering=settings.centering,
            koleo_weight=settings.koleo_weight,
            all_reduce=all_reduce,
        )

    @classmethod
    def schedule(cls, config: Any, epoch_samples: int, total_samples: int) -> Callable[[int], EsViTPoint]:
        """The published rules (DINO, arXiv 2104.14294, section 3, and its code, which EsViT shares).

        Momentum follows a cosine to 1 over the run. An epoch's teacher temperature is one of
        ``linspace(start, final, ceil(warmup_epochs))``; ``teacher_temp_schedule="sample"`` makes it linear in samples.
        """
        settings, frozen = config.method, config.train.freeze_last_layer_epochs * epoch_samples

        def point(samples: int) -> EsViTPoint:
            return EsViTPoint(
                _teacher_temp(settings, samples, epoch_samples),
                cosine(settings.teacher_momentum, 1.0, samples / total_samples),
                samples < frozen,
            )

        return point

    @classmethod
    def min_images(cls, settings: Any) -> tuple[int, str, str]:
        """Koleo compares images, while a head's batch norm has rows of several views of one."""
        asked = f"method.koleo_weight={settings.koleo_weight:g}"
        return (2, asked, "set the weight to 0") if settings.koleo_weight else (1, "", "")

    @classmethod
    def smaller(cls, settings: Any) -> Iterator[tuple[str, int]]:
        """Fewer prototypes, down to 4,096."""
        out_dim = settings.out_dim
        while out_dim >= 8192:
            out_dim //= 2
            yield "out_dim", out_dim

    @classmethod
    def compares_images(cls, settings: Any) -> bool:
        return settings.koleo_weight > 0

    @classmethod
    def title(cls, settings: Any) -> str:
        weights = {"view": settings.view_weight, "region": settings.region_weight}
        tasks = [name for name, weight in weights.items() if weight]
        return f"EsViT's {' and '.join(tasks)} task{'s' * (len(tasks) > 1)}"

    @classmethod
    def outcome(cls, settings: Any) -> tuple[Curves, ...]:
        uniform = math.log(settings.out_dim)
        mark = f"ln K = {uniform:.2f}", uniform
        entropies = (
            ("teacher_entropy", "view"),
            ("region_teacher_entropy", "region"),
            ("marginal_entropy", "mean of the batch"),
        )
        return (
            Curves(
                "Loss",
                (("loss", "total"), ("view_loss", "view"), ("region_loss", "region")),
                "nats",
                mark,
                "A loss that stays at ln K has not started to learn, or has collapsed to the uniform answer.",
            ),
            Curves(
                "Entropy of the teacher",
                entropies,
                "nats",
                mark,
                "Healthy: single answers are sharp (low) while the mean of the batch stays spread (high).",
            ),
        )

    @classmethod
    def course(cls, settings: Any) -> tuple[Curves, ...]:
        return (
            Curves("Teacher temperature", (("teacher_temp", "temperature"),)),
            Curves("Teacher momentum", (("teacher_momentum", "momentum"),)),
        )

    @property
    def trained(self) -> nn.Module:
        return self.student

    def backbones(self) -> Sequence[nn.Module]:
        return self.student.backbone, self.teacher.backbone

    def parts(self) -> Mapping[str, nn.Module]:
        return {"student": self.student, "teacher": self.teacher, "loss": self.loss}

    def forward(self, crops: Sequence[Tensor], point: EsViTPoint) -> StepOutput:
        loss, statistics = super().forward(crops, point.teacher_temp)
        return StepOutput(loss, _values(statistics), statistics.features)

    def prepare(self, point: EsViTPoint) -> bool:
        self.forget()  # what a step left that an exception ended
        if point.freeze_last_layer == self._frozen:
            return False
        self._frozen = point.freeze_last_layer
        self.freeze_last_layer(point.freeze_last_layer)
        return True

    def reduce(self) -> None:
        self.loss.reduce_centers()

    def after_step(self, point: EsViTPoint, skip: Tensor | None = None) -> None:
        if self.loss.centering == "mean":  # others have no centres
            with self.gathered():
                self.update_centers(skip)
        self.update_teacher(point.teacher_momentum if skip is None else torch.where(skip, 1.0, point.teacher_momentum))

    def forget(self) -> None:
        self.loss.forget()

    def watched(self) -> Mapping[str, Tensor]:
        """`center_norm`, `region_center_norm`: norms of the centres, less their mean, which changes no assignment."""
        if self.loss.centering != "mean":
            return {}
        centers = {prefix: getattr(self.loss, f"{task}_center") for prefix, task in _TASKS if task in self.loss.tasks}
        return {
            f"{prefix}center_norm": torch.linalg.vector_norm(center - center.mean())
            for prefix, center in centers.items()
        }


_TASKS = ("", "view"), ("region_", "region")


def _values(statistics: EsViTStatistics) -> dict[str, Tensor]:
    values = {"view_loss": statistics.view_loss, "region_loss": statistics.region_loss}
    for prefix, task in _TASKS:
        found = getattr(statistics, task)
        values |= {f"{prefix}{name}": value for name, value in (found._asdict() if found else {}).items()}
    values |= {
        f"match_{name}": value for name, value in (statistics.match._asdict() if statistics.match else {}).items()
    }
    values |= {"koleo_loss": statistics.koleo_loss}
    return {name: value.detach().float() for name, value in values.items() if value is not None}


def _teacher_temp(settings: Any, samples: int, epoch_samples: int) -> float:
    if settings.teacher_temp_schedule == "sample":
        position, end = float(samples), settings.teacher_temp_warmup_epochs * epoch_samples
    else:
        epoch, warmup = samples // epoch_samples, math.ceil(settings.teacher_temp_warmup_epochs)
        # a linspace of one value is its start
        position, end = (float(epoch), warmup - 1.0) if warmup > 1 else (float(epoch), float(warmup))
    if position >= end:
        return settings.teacher_temp
    return settings.teacher_temp_start + (settings.teacher_temp - settings.teacher_temp_start) * position / end
