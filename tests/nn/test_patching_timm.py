"""timm's Swin, Swin v2 and Swin v2 CR on the operator."""

from __future__ import annotations

import pytest
import timm

from esvit_fast.nn.patching import redirect

from .parity import check, image, shaken

NAMES = ("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_224")
SMALL = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 7, "num_classes": 5}
SIZES = ((224, 224), (256, 256), (92, 60), (20, 132))


def small(name, size, **options):
    if name == "swinv2_cr_tiny_224":
        # its initial norms are zero
        options = {"init_values": 1.0, **options}
    return shaken(timm.create_model(name, img_size=size, **{**SMALL, **options}))


@pytest.fixture(autouse=True)
def _each_test_is_warned_anew(monkeypatch):
    monkeypatch.setattr(redirect, "_warned", set())


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_stay_at_a_fixed_size(name, size):
    check(small(name, size), image((3, *size)), patched=4)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_stay_at_any_size(name, size):
    check(small(name, (112, 112), strict_img_size=False), image((3, *size)), patched=4)


@pytest.mark.parametrize("name", NAMES)
def test_windows_larger_than_the_map(name):
    model = small(name, (16, 24), always_partition=True)
    assert model.layers[0].blocks[1].shift_size == (3, 3) if hasattr(model, "layers") else True
    check(model, image((3, 16, 24)), patched=4)
