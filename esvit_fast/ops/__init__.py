"""Public operators, registered with torch: each has a schema, shapes, autograd, and the backend that `plan` picks."""

from ._core.pairs import Pairs, Statistics
from ._core.plan import ORDER, BackendError, Facts, Plan, backend, implementations, operators, plan
from .linear.op import linear
from .multicrop_augment.op import augment_parameters, multicrop_augment
from .prototype_cross_entropy.op import prototype_cross_entropy
from .region_match.op import Matches, region_match
from .soft_cross_entropy.op import soft_cross_entropy
from .window_attention.op import window_attention

__all__ = [
    "ORDER",
    "BackendError",
    "Facts",
    "Matches",
    "Pairs",
    "Plan",
    "Statistics",
    "augment_parameters",
    "backend",
    "implementations",
    "linear",
    "multicrop_augment",
    "operators",
    "plan",
    "prototype_cross_entropy",
    "region_match",
    "soft_cross_entropy",
    "window_attention",
]
