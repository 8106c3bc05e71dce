"""Whole models, as they come and patched."""

from __future__ import annotations

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer

from benchmarks.systems import whole_model

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script")  # torch's own


def test_a_whole_model_is_patched_in_all_its_blocks():
    models = whole_model.contestants(
        SwinTransformer(
            img_size=64,
            window_size=4,
            embed_dim=16,
            depths=(2, 2),
            num_heads=(1, 2),
            num_classes=5,
            drop_path_rate=0.0,
        )
    )
    assert list(models) == ["timm", "timm fused", "timm compiled", "esvit_fast"]
    del models["timm compiled"]
    images = torch.randn(1, 3, 64, 64)
    for results in zip(*(whole_model.results(model, images) for model in models.values()), strict=True):
        for found in results[1:]:
            torch.testing.assert_close(found, results[0], rtol=1e-3, atol=1e-4 * results[0].abs().max().item())
