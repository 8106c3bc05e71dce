"""The oracles: each operator once, in plain torch of any floating-point dtype, differentiable where the operator is.

They are the float64 truth in tests, the implementation where no kernel can run, and the baseline in benchmarks.
"""

from .linear import linear
from .multicrop_augment import multicrop_augment
from .prototype_cross_entropy import prototype_cross_entropy
from .region_match import region_match
from .soft_cross_entropy import soft_cross_entropy
from .window_attention import dense_bias, merge_windows, window_attention, window_attention_weights

__all__ = [
    "dense_bias",
    "linear",
    "merge_windows",
    "multicrop_augment",
    "prototype_cross_entropy",
    "region_match",
    "soft_cross_entropy",
    "window_attention",
    "window_attention_weights",
]
