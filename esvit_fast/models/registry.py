"""Backbones by name."""

from __future__ import annotations

import difflib
from pathlib import Path

from torch import nn

from .checkpoint import load_backbone
from .swin import SwinTransformer

_SIZES = {
    "tiny": {"dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "large": {"dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}
_MODELS = {
    "swin_nano_w4": {
        "image_size": 32,
        "patch_size": 2,
        "dim": 48,
        "depths": (2, 4, 2),
        "num_heads": (3, 6, 12),
        "window_size": 4,
        "init_std": None,
    },
    **{
        f"swin_{size}_w{window}": {**shape, "window_size": window}
        for window in (7, 14)
        for size, shape in _SIZES.items()
        if (size, window) != ("large", 14)
    },
}


def list_models() -> list[str]:
    """Names that `create_model` accepts."""
    return sorted(_MODELS)


def create_model(
    name: str, *, num_classes: int = 0, drop_path_rate: float = 0.0, pretrained: str | Path | None = None, **options
) -> nn.Module:
    """Build a backbone.

    Args:
        name: one of `list_models`.
        num_classes: 0: the model returns pooled features [B, num_features]; otherwise logits.
        drop_path_rate: stochastic depth of the last block.
        pretrained: a run directory or a .safetensors file with weights of this architecture.
        options: further arguments of the model's class, such as image_size.

    Raises:
        ValueError: there is no such model, or the weights are of another architecture.
    """
    if name not in _MODELS:
        near = difflib.get_close_matches(name, _MODELS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(list_models())}"
        raise ValueError(f"name={name!r} is not a model{hint}")
    model = SwinTransformer(**{**_MODELS[name], **options}, num_classes=num_classes, drop_path_rate=drop_path_rate)
    if pretrained is not None:
        load_backbone(model, pretrained)
    return model
