"""Backbones by name."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path

from torch import nn

from .swin import SwinTransformer
from .weights import load_backbone

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
        options: further arguments of the model's class, such as image_size or in_channels.

    Raises:
        ValueError: there is no such model or option, or the weights are of another architecture.
    """
    if name not in _MODELS:
        near = difflib.get_close_matches(name, _MODELS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(list_models())}"
        raise ValueError(f"name={name!r} is not a model{hint}")
    _check(options)
    if pretrained is True:
        raise ValueError(
            "pretrained=True names no weights, and none come with this library; pass the folder of a run or a "
            ".safetensors file"
        )
    model = SwinTransformer(**{**_MODELS[name], **options}, num_classes=num_classes, drop_path_rate=drop_path_rate)
    if pretrained:
        load_backbone(model, pretrained)
    return model


_ELSEWHERE = {
    "img_size": "is called image_size here; a model takes images of any size, and this one is what it is made for",
    "in_chans": "is called in_channels here",
    "features_only": "is no option, as every model has its maps: forward_features(x) gives the last, [B, H, W, C], and "
    "forward_last_blocks(x, n) those of the last blocks",
    "global_pool": "is no option: with num_classes=0 a model returns its features pooled by their mean",
    "drop_rate": "is no option; drop_path_rate is",
    "checkpoint_path": "is called pretrained here",
    "embed_dim": "is called dim here",
    "strict_img_size": "is no option: a model takes images of any size",
}
"""Options of timm, and what is said of them."""


def _check(options: dict[str, object]) -> None:
    """Refuse what no model takes.

    Raises:
        ValueError: with the name that it has here, or the nearest one.
    """
    known = list(inspect.signature(SwinTransformer).parameters)
    for name, value in options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"is no option of a model; did you mean {near[0]!r}?" if near else f"is none of {', '.join(known)}"
            raise ValueError(f"{name}={value!r} {_ELSEWHERE.get(name, hint)}")
