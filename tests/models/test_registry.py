"""Models by name: what other libraries call an option is answered with a sentence."""

import inspect

import pytest

from esvit_fast.models import create_model, list_models
from esvit_fast.models.registry import _ELSEWHERE
from esvit_fast.models.swin import SwinTransformer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": True}, "pretrained=True names no weights.* pass the folder of a run or a .safetensors file"),
        ({"features_only": True}, r"features_only=True is no option, .*forward_features\(x\) gives the last"),
        ({"in_chans": 1}, "in_chans=1 is called in_channels here"),
        ({"img_size": 384}, "img_size=384 is called image_size here"),
        ({"global_pool": ""}, "global_pool='' is no option"),
        ({"drop_path": 0.1}, "drop_path=0.1 is no option of a model; did you mean 'drop_path_rate'?"),
        ({"zzzzz": None}, "zzzzz=None is none of image_size, patch_size, "),
        ({"pretrained": "nowhere"}, "pretrained='nowhere' is neither a run directory nor a .safetensors file"),
    ],
    ids=str,
)
def test_a_wrong_option_is_answered_in_a_line(options, message):
    with pytest.raises(ValueError, match=f"^{message.replace('?', '[?]')}") as caught:
        create_model("swin_nano_w4", **options)
    assert "\n" not in str(caught.value)


def test_what_is_said_of_options_names_those_that_are_there():
    known = inspect.signature(SwinTransformer).parameters
    assert not known.keys() & _ELSEWHERE.keys()
    for text in _ELSEWHERE.values():
        if "is called " in text and "pretrained" not in text:
            assert text.split("is called ")[1].split()[0] in known


def test_options_that_are_there_are_taken():
    model = create_model("swin_nano_w4", image_size=64, in_channels=1, pretrained=False)
    assert model.image_size == 64 and model.patch_embed.proj.in_channels == 1
    assert "swin_tiny_w7" in list_models()
