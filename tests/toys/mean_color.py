"""A method of one file: predict the mean color of the other view."""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

from torch import nn

from esvit_fast.config import MethodSettings, register_settings
from esvit_fast.config.rules import Cure, Range
from esvit_fast.methods import Method, StepOutput, register_method


@register_settings
@dataclass(frozen=True)
class MeanColorSettings(MethodSettings):
    """What is predicted of colors."""

    name: str = "mean_color"
    sharpness: Annotated[float, Range(above=0), Cure()] = 2.0
    """Factor of what is predicted."""


class Share(NamedTuple):
    share: float


@register_method
class MeanColor(Method):
    Settings, Point = MeanColorSettings, Share

    def __init__(self, settings, backbone):
        super().__init__()
        self.backbone, self.color = backbone, nn.Linear(backbone.num_features, 3)
        self.sharpness = settings.sharpness

    @classmethod
    def build(cls, settings, backbone, all_reduce):
        return cls(settings, backbone)

    @classmethod
    def schedule(cls, config, epoch_samples, total_samples):
        return lambda samples: Share(1 - samples / total_samples)

    def backbones(self):
        return [self.backbone]

    def forward(self, crops, point):
        features = self.backbone(crops[0])
        error = (self.color(features) - self.sharpness * crops[1].mean((2, 3))).square().mean()
        return StepOutput(error, {"color_error": error.detach()}, features.detach())
