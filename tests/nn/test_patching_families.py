"""Parity of every family, at sizes that its models can run."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
import transformers
from torchvision.models import swin_transformer as tv
from transformers.models.clap.modeling_clap import ClapAudioEncoder
from transformers.models.donut.modeling_donut_swin import DonutSwinModel

from esvit_fast.nn import patch_model
from tests import seeds

from .models import TIMM, huggingface_model, huggingface_swin, huggingface_swinv2, timm_model, torchvision_model
from .parity import check, check_in_float64, image, shaken
from .stand_ins import DetectionBlock, esvit, microsoft

SIZES = ((224, 224), (256, 256), (92, 60), (20, 132))
"""Divisible; padded; padded and not square; a side smaller than a window."""


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", TIMM)
def test_timm_at_a_fixed_size(name, size):
    assert len(check(timm_model(name, size), image((3, *size)))) == 4


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", TIMM)
def test_timm_at_any_size(name, size):
    assert len(check(timm_model(name, strict_img_size=False), image((3, *size)))) == 4


@pytest.mark.parametrize("name", TIMM)
def test_timm_with_shifts_in_windows_larger_than_the_map(name):
    model = timm_model(name, (16, 24), always_partition=True)
    assert model.get_submodule("stages.0.blocks.1" if "cr" in name else "layers.0.blocks.1").shift_size == (3, 3)
    check(model, image((3, 16, 24)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of those who make the new bias table
@pytest.mark.parametrize("name", TIMM)
def test_timm_after_a_change_of_input_size(name):
    model = timm_model(name)
    model.set_input_size((96, 64), window_size=(5, 4))
    check(model, image((3, 96, 64)))


@pytest.mark.parametrize(
    ("name", "options"),
    [(TIMM[0], {"qkv_bias": False}), (TIMM[1], {"qkv_bias": False}), (TIMM[0], {"head_dim": 12})],
    ids=str,
)
def test_timm_with_other_projections(name, options):
    check(timm_model(name, strict_img_size=False, **options), image((3, 92, 60)))


def test_timm_v2_with_separate_biases():
    model = timm_model(TIMM[1], strict_img_size=False)
    for module in model.modules():
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True
    check(model, image((3, 92, 60)))


@pytest.mark.parametrize("size", [*SIZES, (93, 61)], ids=str)
@pytest.mark.parametrize("second", [False, True], ids=["v1", "v2"])
def test_torchvision(second, size):
    assert len(check(torchvision_model(second), image((3, *size)))) == 4


@pytest.mark.parametrize("second", [False, True], ids=["v1", "v2"])
def test_torchvision_without_biases(second):
    kind = tv.ShiftedWindowAttentionV2 if second else tv.ShiftedWindowAttention
    attn = shaken(kind(16, [7, 5], [3, 2], 2, qkv_bias=False, proj_bias=False))
    check(attn, image((13, 16, 16)))


@pytest.mark.parametrize("size", [*SIZES, (93, 61)], ids=str)
def test_huggingface_swin(size):
    model = huggingface_swin()
    assert len(check(model, image((3, *size)), lambda m, x: m(x, always_partition=True))) == 4


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_huggingface_swin_with_a_window_that_may_shrink(attention):
    options = {"attn_implementation": attention, "qkv_bias": False}
    model = huggingface_swin(**options)
    # eager rounds attention weights to float32, whatever it is given
    check(model, image((3, 61, 93)), exact=attention == "sdpa")


@pytest.mark.parametrize("size", [*SIZES, (93, 61)], ids=str)
def test_huggingface_swinv2(size):
    assert len(check(huggingface_swinv2(), image((3, *size)))) == 4


def test_huggingface_swinv2_with_windows_of_small_maps():
    model = huggingface_swinv2(image_size=20, qkv_bias=False)
    assert model.encoder.layers[0].blocks[1].window_size == 5
    check(model, image((3, 20, 20)))


def test_huggingface_kin():
    donut = huggingface_model(DonutSwinModel, transformers.DonutSwinConfig)
    assert len(check(donut, image((3, 92, 60)))) == 4
    maskformer = huggingface_model(transformers.MaskFormerSwinBackbone, transformers.MaskFormerSwinConfig)
    assert len(check(maskformer, image((3, 20, 132)), lambda m, x: m(x).feature_maps[-1])) == 4
    config = transformers.Swin2SRConfig(image_size=32, embed_dim=16, depths=[2], num_heads=[2], window_size=8)
    assert len(check(shaken(transformers.Swin2SRModel(config)), image((3, 24, 24)))) == 2
    config = transformers.ClapAudioConfig(depths=[2], num_attention_heads=[2], patch_embeds_hidden_size=16)
    encoder = shaken(ClapAudioEncoder(config))
    assert {row.name for row in check(encoder.layers, image((91, 16)), clap)} == {"0.blocks.0", "0.blocks.1"}


def clap(layers, x):
    for block in layers[0].blocks:
        (x,) = block(x, (7, 13), False, True)
    return x


@pytest.mark.parametrize("cosine", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("size", [(14, 21), (7, 14), (5, 5)], ids=str)
def test_microsoft(size, cosine):
    check(shaken(microsoft(size=size, cosine=cosine)), image((16, *size), batch=2))


@pytest.mark.parametrize("size", [(14, 21), (13, 9), (3, 5)], ids=str)
def test_detection(size):
    check(shaken(microsoft(block=DetectionBlock)), image((16, *size), batch=2))


@pytest.mark.parametrize("side", [14, 13, 3])
def test_esvit(side):
    check(shaken(esvit()), image((16, side, side), batch=2))


@pytest.mark.parametrize("options", [{"qkv_bias": False}, {"cosine": True, "qkv_bias": False}], ids=str)
def test_published_blocks_without_biases(options):
    check(shaken(microsoft(**options)), image((16, 14, 21)))


SHARP = {
    "timm v2": lambda: timm_model(TIMM[1], (32, 32), window_size=2, num_heads=(8, 16)),
    "timm v2 cr": lambda: timm_model(TIMM[2], (32, 32), window_size=2, num_heads=(8, 16)),
    "torchvision": lambda: shaken(tv.ShiftedWindowAttentionV2(16, [2, 2], [1, 1], 8)),
    "huggingface": lambda: huggingface_model(
        transformers.Swinv2Model, transformers.Swinv2Config, window_size=2, num_heads=[8, 16]
    ),
    "microsoft": lambda: shaken(microsoft(16, (8, 8), 2, 8, cosine=True)),
}


@pytest.mark.parametrize("name", SHARP)
def test_scores_that_reach_through_the_mask(name):
    """Cosines times 100 outweigh a mask of -100; tokens alone in their region show it, in heads of two channels."""
    model, generator = SHARP[name](), seeds.generator(0)
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            if "logit_scale" in part:
                parameter.fill_(9.0)  # above the limit of ln 100
            elif "qkv" in part or "query" in part or "key" in part:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    sizes = {"torchvision": (8, 8, 16), "microsoft": (16, 8, 8)}
    # in float32 what is so steep is rounding
    check_in_float64(model, image(sizes.get(name, (3, 32, 32))))


@pytest.mark.parametrize("build", [lambda: timm.create_model(TIMM[0]), torchvision.models.swin_t], ids=["timm", "tv"])
def test_a_real_model(build):
    model = shaken(build())
    x = image((3, 224, 224))
    with torch.no_grad():
        expected = model(x)
        assert len(patch_model(model).patched) == 12
        found = model(x)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
