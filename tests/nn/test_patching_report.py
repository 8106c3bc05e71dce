"""The report, and what is left alone and why."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models import swin_transformer as tv

import esvit_fast
from esvit_fast.nn import SwinBlock, patch_model, unpatch_model
from esvit_fast.nn.patching import Report, Row, Runs
from esvit_fast.ops._core import native
from esvit_fast.ops._core import plan as _plan

from .models import TIMM, timm_model
from .parity import attributes
from .stand_ins import EsViTBlock, MicrosoftBlock, esvit, microsoft

FLOAT = "cpu in float32"


def test_the_report_is_a_table():
    model = timm_model(TIMM[0], depths=(1, 1))
    model.layers[1].blocks[0]._attn = print
    report = patch_model(model)
    why = "its _attn has been replaced by builtin_function_or_method already; undo that first"
    assert report.rows == (
        Row("layers.0.blocks.0", "timm Swin", True, "_attn runs on the operator", "cpu"),
        Row("layers.1.blocks.0", "timm Swin", False, why),
    )
    assert report.runs == (Runs("window_attention", "cpu", FLOAT), Runs("linear", "cpu", FLOAT, "", report.linears))
    assert len(report) == 2 and list(report) == list(report.rows)
    assert str(report).splitlines() == [
        f"SwinTransformer: 1 of 2 window attentions run on esvit_fast, {report.linears} linear layers too on a CPU",
        "module             kind       patched  backend  why",
        "layers.0.blocks.0  timm Swin  yes      cpu      _attn runs on the operator",
        f"layers.1.blocks.0  timm Swin  no       -        {why}",
        "window_attention (1 module, cpu in float32): cpu kernels",
        f"linear ({report.linears} modules, cpu in float32): cpu kernels",
    ]
    assert report._repr_html_().count("<tr>") == 3
    assert "&lt;" in Report("A<B", ())._repr_html_()


def test_the_report_says_what_will_run(monkeypatch):
    model = timm_model(TIMM[0], depths=(1, 1))
    patch_model(model.bfloat16())
    (attention, linears) = patch_model(model).runs
    assert (attention.backend, attention.on, attention.count) == ("cpu", "cpu in bfloat16", 2)
    assert (linears.backend, linears.on) == ("reference", "cpu in bfloat16")
    assert "only float32 on a CPU has kernels" in linears.why
    monkeypatch.setattr(native, "CPU_MISSING", "the library is not here")
    monkeypatch.setattr(_plan, "_warned", set())
    report = patch_model(model.float())
    why = "cpu: the library is not here"
    assert report.runs[0] == Runs("window_attention", "reference", FLOAT, why, 2)
    assert report.runs[1] == Runs("linear", "reference", FLOAT, why, report.linears)
    assert {row.backend for row in report} == {"reference"} and report.gains_nothing
    assert report.summary.endswith("; patching gains nothing: plain torch computes it all")
    assert f"window_attention (2 modules, {FLOAT}): plain torch; {why}" in str(report)
    assert f"(2 modules, {FLOAT}): plain torch; {why}</p>" in report._repr_html_()
    with esvit_fast.backend("triton"):
        assert {row.backend for row in patch_model(model)} == {"none"}


def test_the_report_says_what_else_changes():
    rows = patch_model(esvit()).patched
    assert {row.why for row in rows} == {"forward runs on the operator; it returns None in place of attention weights"}


def test_unpatching_says_what_it_undid():
    model = timm_model(TIMM[2])
    contents = attributes(model)
    patch_model(model)
    report = unpatch_model(model)
    assert len(report) == 4 and not report.patched
    assert report.rows[0] == Row(
        "stages.0.blocks.0", "timm Swin v2 CR", False, "_shifted_window_attn is the original again"
    )
    assert attributes(model) == contents
    assert len(unpatch_model(model)) == 0


def test_nothing_found_is_no_error():
    report = patch_model(torchvision.models.resnet18())
    assert len(report) == 0
    assert str(report) == "ResNet: no window attention of a known kind"
    assert report._repr_html_() == "<p>ResNet: no window attention of a known kind</p>"


@pytest.mark.parametrize("function", [patch_model, unpatch_model])
@pytest.mark.parametrize("model", [None, "swin_t", nn.Module])
def test_what_is_no_module_is_refused(function, model):
    with pytest.raises(TypeError, match=r"model is .* of type .*; it must be a torch.nn.Module"):
        function(model)


def only(model):
    (row,) = patch_model(model)
    assert not row.patched
    return row.why


def test_windows_of_three_axes_are_left_alone():
    attn = torchvision.models.video.swin_transformer.ShiftedWindowAttention3d(16, [2, 7, 7], [1, 3, 3], 2)
    assert only(attn) == "its windows have three axes, those of the operator two"


def test_our_own_models_run_on_the_operator_as_they_are():
    assert only(SwinBlock(16, 2, 7, 3)) == "it runs on the operator as it is"


def test_a_subclass_with_its_own_method_is_left_alone():
    class Other(tv.ShiftedWindowAttention):
        def forward(self, x):
            return x

    assert only(Other(16, [7, 7], [0, 0], 2)) == "Other overrides forward of ShiftedWindowAttention"


def test_a_subclass_with_other_parts_is_left_alone():
    class Other(tv.ShiftedWindowAttentionV2):
        def get_relative_position_bias(self):
            return 2 * super().get_relative_position_bias()

    assert only(Other(16, [7, 7], [0, 0], 2)).startswith("it computes something else: outputs differ by 0.")


def test_a_block_that_only_looks_like_one_is_left_alone():
    class Scaled(MicrosoftBlock):
        def forward(self, x):
            return 0.5 * super().forward(x)

    assert only(Scaled(16, (14, 14), 2)).startswith("it computes something else")


def test_a_block_that_returns_something_else_is_left_alone():
    class Wrapped(EsViTBlock):
        def forward(self, x):
            return list(super().forward(x))

    assert only(Wrapped(16, (14, 14), 2)) == "it returns a list, which the original of its kind does not"


def test_a_block_that_cannot_run_is_left_alone():
    block = MicrosoftBlock(16, (14, 14), 2, 7, 3)
    block.attn.scale = "7"
    assert only(block).startswith("trying it failed: TypeError: ")


def test_attention_in_an_unknown_block_is_left_alone():
    row = patch_model(nn.Sequential(microsoft().blocks[0].attn)).rows[0]
    assert row == Row("0", "Attention", False, "it is in no block of a known kind")


def test_sequential_attention_is_left_alone():
    block = timm.models.swin_transformer_v2_cr.SwinTransformerV2CrBlock(16, 2, (14, 14), (7, 7), sequential_attn=True)
    assert only(block) == "sequential_attn=True is not windowed attention at once"


def test_a_model_without_weights_is_left_alone():
    with torch.device("meta"):
        attn = tv.ShiftedWindowAttention(16, [7, 7], [0, 0], 2)
    assert only(attn) == "it has no weights yet (meta device); patch it once they are loaded"
