"""Public operators, registered with torch: each has a schema, shapes, autograd, and the backend that `plan` picks."""

from ._pairs import Pairs, Statistics
from ._plan import ORDER, BackendError, Facts, Plan, backend, plan
from .linear import linear
from .multicrop_augment import augment_parameters, multicrop_augment
from .prototype_cross_entropy import prototype_cross_entropy
from .region_match import Matches, region_match
from .soft_cross_entropy import soft_cross_entropy
from .window_attention import window_attention

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
    "linear",
    "multicrop_augment",
    "plan",
    "prototype_cross_entropy",
    "region_match",
    "soft_cross_entropy",
    "window_attention",
]
