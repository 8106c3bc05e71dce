"""Backbones: names, shapes at any size, and ways to read features."""

import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import swin_tiny_patch4_window7_224

from esvit_fast.models import create_model, list_models
from tests import seeds

NAMES = [f"swin_{size}_w7" for size in ("tiny", "small", "base", "large")]
NAMES += [f"swin_{size}_w14" for size in ("tiny", "small", "base")] + ["swin_nano_w4"]


def nano(**options):
    torch.manual_seed(seeds.shifted(0))
    return create_model("swin_nano_w4", **options).eval()


def test_all_models_are_there():
    assert list_models() == sorted(NAMES)
    parameters = {"swin_tiny_w7": 27.52, "swin_small_w7": 48.84, "swin_base_w7": 86.74, "swin_nano_w4": 1.49}
    with torch.device("meta"):
        for name in NAMES:
            model = create_model(name)
            millions = sum(p.numel() for p in model.parameters()) / 1e6
            assert millions == pytest.approx(parameters.get(name, millions), abs=0.01)


@pytest.mark.parametrize(
    ("window", "expected"), [(7, [(7, 3), (7, 3), (7, 3), (7, 0)]), (14, [(14, 7), (14, 7), (14, 0), (7, 0)])]
)
def test_windows_are_clipped_to_the_native_map(window, expected):
    with torch.device("meta"):
        model = create_model(f"swin_tiny_w{window}")
    blocks = [stage.blocks[1].attn for stage in model.layers]
    assert [(b.window_size, b.shift_size) for b in blocks] == expected
    assert all(stage.blocks[0].attn.shift_size == 0 for stage in model.layers)


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (33, 20), (1, 1), (7, 50)])
def test_any_size_of_image(size):
    model, x = nano(), torch.randn(2, 3, *size)
    rows, columns = (-(-side // 8) for side in size)
    features = model.forward_features(x)
    assert features.shape == (2, rows, columns, 192)
    view, regions = model.forward_regions(x)
    assert torch.equal(regions, features.flatten(1, 2))
    torch.testing.assert_close(view, features.mean((1, 2)))
    torch.testing.assert_close(model(x), view)


def test_an_image_does_not_depend_on_its_batch():
    model, x = nano(), torch.randn(3, 3, 20, 28)
    torch.testing.assert_close(model(x), torch.cat([model(image[None]) for image in x]))


def test_equals_timm_where_timm_pads_nothing():
    torch.manual_seed(seeds.shifted(0))
    theirs, ours = (
        swin_tiny_patch4_window7_224(num_classes=10).eval(),
        create_model("swin_tiny_w7", num_classes=10).eval(),
    )
    renamed = {}
    for name, tensor in theirs.state_dict().items():
        # timm merges patches before a stage, Swin and EsViT after one; timm's LayerNorm has eps 1e-5
        if ".downsample." in name:
            stage = int(name.split(".")[1])
            name = name.replace(f"layers.{stage}", f"layers.{stage - 1}")
        renamed[name.replace("head.fc", "head")] = tensor
    missing, unexpected = ours.load_state_dict(renamed, strict=False)
    assert not missing and not unexpected
    for module in ours.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_intermediates_follow_timms_convention():
    model, x = nano(), torch.randn(2, 3, 32, 32)
    final, maps = model.forward_intermediates(x)
    assert [tuple(m.shape) for m in maps] == [(2, 48, 16, 16), (2, 96, 8, 8), (2, 192, 4, 4)]
    assert torch.equal(final, model.forward_features(x))
    torch.testing.assert_close(model.norm(maps[-1].permute(0, 2, 3, 1)), final)
    (last,) = model.forward_intermediates(x, indices=1, norm=True, output_fmt="NHWC", intermediates_only=True)
    assert torch.equal(last, final)
    first, second = model.forward_intermediates(x, indices=[0, -2], intermediates_only=True)
    assert torch.equal(first, maps[0]) and torch.equal(second, maps[1])
    calls = []
    model.layers[2].register_forward_hook(lambda *_: calls.append(2))
    model.layers[2].blocks[0].register_forward_hook(lambda *_: calls.append(2))
    model.forward_intermediates(x, indices=[0], stop_early=True)
    assert not calls
    with pytest.raises(ValueError, match="indices=\\[3\\] must name stages between -3 and 2"):
        model.forward_intermediates(x, indices=[3])
    with pytest.raises(ValueError, match="output_fmt='NLC' must be NCHW or NHWC"):
        model.forward_intermediates(x, output_fmt="NLC")


def test_last_blocks():
    model, x = nano(), torch.randn(2, 3, 32, 32)
    seen = []
    for stage in model.layers:
        for block in stage.blocks:
            block.register_forward_hook(lambda m, i, out: seen.append(out))
    pooled = model.forward_last_blocks(x, 3)
    assert [tuple(p.shape) for p in pooled] == [(2, 96), (2, 192), (2, 192)]
    torch.testing.assert_close(pooled[0], seen[-3].mean((1, 2)))
    torch.testing.assert_close(pooled[2], model(x))
    with pytest.raises(ValueError, match="blocks=9 must lie between 1 and 8"):
        model.forward_last_blocks(x, 9)


def test_attention_maps_hold_all_the_attention():
    maps = nano().attention_maps(torch.randn(2, 3, 64, 32))
    assert maps.shape == (2, 12, 8, 4)
    # every query's weights sum to 1, so a window receives 1 in the mean
    torch.testing.assert_close(F.avg_pool2d(maps, 4) * 16, torch.ones(2, 12, 2, 1))


def test_stochastic_depth_rises_and_is_off_in_evaluation():
    model = nano(drop_path_rate=0.3)
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for stage in model.layers for b in stage.blocks]
    assert rates == pytest.approx([0.3 * i / 7 for i in range(8)])
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_weights_of_a_file_are_loaded_strictly(tmp_path):
    from safetensors.torch import save_file

    source, x = nano(), torch.randn(1, 3, 32, 32)
    state = source.state_dict() | {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16)}
    save_file(state, tmp_path / "model.safetensors")
    torch.manual_seed(seeds.shifted(1))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert torch.equal(create_model("swin_nano_w4", pretrained=path).eval()(x), source(x))
    classifier = create_model("swin_nano_w4", num_classes=5, pretrained=tmp_path)
    assert classifier(x).shape == (1, 5)
    del state["norm.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 tensors differ, first norm\.bias \(model: \[192\], file: absent\)"):
        create_model("swin_nano_w4", pretrained=tmp_path)


def test_unknown_model():
    with pytest.raises(ValueError, match="name='swin_tiny' is not a model; did you mean 'swin_tiny_w7'?"):
        create_model("swin_tiny")
