"""Backbones by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from torch import nn

from ..errors import UserError
from ..registry import BrokenContract, Registry, missing_of
from .backbone import REQUIRED, Backbone
from .weights import load_backbone

Build = TypeVar("Build", bound=Callable[..., Backbone])

BACKBONES: Registry[Callable[..., Backbone]] = Registry("model")


def register_backbone(build: Build | None = None, *, name: str | None = None) -> Build | Callable[[Build], Build]:
    """Let `create_model` build a backbone: a decorator of a function or class, whose arguments are its options.

    Args:
        name: of the backbone; that of the function by default.
    """
    if build is None:
        return lambda build: register_backbone(build, name=name)
    return BACKBONES.register(build, name or build.__name__)


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` accepts, of those that fit a pattern such as "swin_*"."""
    return [name for name in BACKBONES if fnmatchcase(name, pattern)]


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
        UserError: there is no such model or option, or the weights are of another architecture.
        BrokenContract: the backbone, of a plug-in, lacks a part of `Backbone`.
    """
    build = BACKBONES.find(name)
    known = inspect.signature(build).parameters
    unused = {"num_classes": 0, "drop_path_rate": 0.0, "checkpoint_stages": ()}
    options |= {"num_classes": num_classes, "drop_path_rate": drop_path_rate}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        options = {key: value for key, value in options.items() if key in known or unused.get(key, ...) != value}
        _check(name, options, list(known))
    if pretrained is True:
        raise UserError(
            "pretrained=True names no weights, and none come with this library; pass the folder of a run or a "
            ".safetensors file"
        )
    model = build(**options)
    if missing := missing_of(model, Backbone, REQUIRED):
        raise BrokenContract(f"the model {name!r} has no {' and no '.join(missing)}; see esvit_fast.models.Backbone")
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


def _check(model: str, options: dict[str, object], known: list[str]) -> None:
    """Refuse what a model does not take.

    Raises:
        UserError: with the name that it has here, or the nearest one.
    """
    for name, value in options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"is no option of a model; did you mean {near[0]!r}?"
                if near
                else f"is none of {', '.join(known) or f'the options of {model}, which has none'}"
            )
            raise UserError(f"{name}={value!r} {_ELSEWHERE.get(name, hint)}")
