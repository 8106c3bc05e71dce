"""Settings of EsViT, without torch: the defaults are the published Swin-T/7 recipe (arXiv 2106.09785)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..config.method import MethodSettings, register_settings
from ..config.rules import Cure, Range


@register_settings
@dataclass(frozen=True)
class EsViTSettings(MethodSettings):
    """The two tasks of EsViT and their heads."""

    name: str = "esvit"
    """The method of pretraining."""
    out_dim: Annotated[int, Range(above=0)] = 65536
    """Prototypes of each head."""
    view_weight: Annotated[float, Range(least=0), Cure(zero=False)] = 0.5
    """Weight of the view task; 1 with region_weight 0 is DINO."""
    region_weight: Annotated[float, Range(least=0), Cure(zero=False)] = 0.5
    """Weight of the region task; 0 leaves out its head and its matching."""
    head_hidden_dim: Annotated[int, Range(above=0)] = 2048
    head_bottleneck_dim: Annotated[int, Range(above=0)] = 256
    head_batch_norm: bool = False
    norm_last_layer: bool = False
    """Freeze the prototypes' magnitudes weight_g at 1."""
    student_temp: Annotated[float, Range(above=0), Cure()] = 0.1
    teacher_temp: Annotated[float, Range(above=0), Cure()] = 0.07
    teacher_temp_start: Annotated[float, Range(above=0), Cure()] = 0.04
    teacher_temp_warmup_epochs: Annotated[float, Range(least=0), Cure()] = 30.0
    teacher_temp_schedule: Annotated[Literal["epoch", "sample"], Cure()] = "epoch"
    """Advance the temperature once per epoch, as published, or with every sample."""
    teacher_momentum: Annotated[float, Range(least=0, most=1), Cure()] = 0.996
    """Start of the cosine that ends at 1."""
    centering: Annotated[Literal["mean", "sinkhorn"], Cure()] = "mean"
    """Subtract the teacher's mean logits, as published, or balance its assignments over the prototypes."""
    center_momentum: Annotated[float, Range(least=0, most=1), Cure()] = 0.9
    koleo_weight: Annotated[float, Range(least=0), Cure()] = 0.0
    """Weight of a term that keeps the student's views of different images apart, in the bottleneck of the view head."""
    match_dtype: Annotated[Literal["float32", "float16", "bfloat16"] | None, Cure()] = None
    """Round region similarities to this dtype, as the published code does under autocast (it picks wrong regions)."""

    def why_wrong(self) -> str | None:
        """Tasks that are needed, and left out."""
        if self.koleo_weight and self.view_weight == 0:
            return (
                f"method.koleo_weight={self.koleo_weight:g} needs the view task, but method.view_weight=0; set one of "
                "them"
            )
        if self.view_weight == self.region_weight == 0:
            return (
                f"method.view_weight={self.view_weight} and method.region_weight={self.region_weight} must not both be "
                "0; DINO is view_weight=1, region_weight=0"
            )
        return None
