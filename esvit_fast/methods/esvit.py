"""EsViT (arXiv 2106.09785): a student, a teacher that follows it, and heads for views and regions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from ..nn import ProjectionHead
from .losses.esvit import EsViTLoss, EsViTStatistics, Projection


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
