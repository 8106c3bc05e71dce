"""Small models of every library, and images for them."""

from __future__ import annotations

import timm
import torch
import transformers
from torch import nn
from torchvision.models import swin_transformer as tv

from .parity import image, shaken
from .stand_ins import DetectionBlock, esvit, microsoft

TIMM = ("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_224")


def timm_model(name, size=(112, 112), **options) -> nn.Module:
    """Two stages of two blocks."""
    small = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 7, "num_classes": 5}
    if name == "swinv2_cr_tiny_224":
        options = {"init_values": 1.0, **options}  # its branches start at zero
    return shaken(timm.create_model(name, img_size=size, **{**small, **options}))


def torchvision_model(second: bool, **options) -> nn.Module:
    """Two stages of two blocks; `second`: of v2."""
    block, merging = (
        (tv.SwinTransformerBlockV2, tv.PatchMergingV2) if second else (tv.SwinTransformerBlock, tv.PatchMerging)
    )
    small = {"num_classes": 5, "block": block, "downsample_layer": merging}
    return shaken(tv.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [7, 7], **small, **options))


def huggingface_model(model, config, **options) -> nn.Module:
    """Two stages of two layers."""
    small = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 7, "image_size": 224}
    return shaken(model(config(**{**small, **options})))


def huggingface_swin(**options) -> nn.Module:
    """Swin."""
    return huggingface_model(transformers.SwinModel, transformers.SwinConfig, **options)


def huggingface_swinv2(**options) -> nn.Module:
    """Swin v2."""
    return huggingface_model(transformers.Swinv2Model, transformers.Swinv2Config, **options)


KINDS = {
    "timm Swin": (lambda: timm_model(TIMM[0]), (3, 112, 112)),
    "timm Swin v2": (lambda: timm_model(TIMM[1]), (3, 112, 112)),
    "timm Swin v2 CR": (lambda: timm_model(TIMM[2]), (3, 112, 112)),
    "torchvision Swin": (lambda: torchvision_model(False), (3, 112, 92)),
    "torchvision Swin v2": (lambda: torchvision_model(True), (3, 112, 92)),
    "Hugging Face Swin": (huggingface_swin, (3, 112, 92)),
    "Hugging Face Swin v2": (huggingface_swinv2, (3, 112, 92)),
    "Microsoft Swin": (lambda: shaken(microsoft()), (16, 14, 21)),
    "Microsoft Swin v2": (lambda: shaken(microsoft(cosine=True)), (16, 14, 21)),
    "Swin for detection": (lambda: shaken(microsoft(block=DetectionBlock)), (16, 13, 9)),
    "EsViT Swin": (lambda: shaken(esvit()), (16, 13, 13)),
}
"""How the report calls them: what builds one, and the size of an image."""


def make(kind: str) -> tuple[nn.Module, torch.Tensor]:
    """A model and an image for it."""
    build, size = KINDS[kind]
    return build(), image(size, batch=2)
