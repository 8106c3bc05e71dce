"""What patching leaves alone, what a patched model can do, when it steps aside, and the report."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn

import esvit_fast
from esvit_fast.nn import patch_model, unpatch_model
from esvit_fast.nn.patching import redirect
from esvit_fast.nn.stand_in import stand_in_of
from tests import seeds

from .models import KINDS, TIMM, huggingface_swin, huggingface_swinv2, make, timm_model
from .parity import first, image, largest_error, results, shaken
from .stand_ins import esvit


@pytest.fixture(autouse=True)
def _warnings_are_fresh(monkeypatch):
    monkeypatch.setattr(redirect, "_warned", set())


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def patched(kind):
    model, x = make(kind)
    assert {row.kind for row in patch_model(model).patched} == {kind}
    return model, x


def stands_in(module):
    return next(value for value in vars(module).values() if isinstance(value, redirect.Redirect))


def block_of(model):
    """The last patched module, which is one with a shift."""
    return [module for module in model.modules() if isinstance(stand_in_of(module), redirect.Redirect)][-1]


def test_it_is_reached_from_the_package():
    assert esvit_fast.patch_model is patch_model
    assert esvit_fast.unpatch_model is unpatch_model


def test_patching_twice_changes_nothing(kind):
    model, _ = patched(kind)
    before = stands_in(block_of(model))
    again = patch_model(model)
    assert stands_in(block_of(model)) is before
    assert {(row.patched, row.why) for row in again} == {(True, "it was patched before")}


def test_parameters_and_hooks_stay_the_same_objects(kind):
    model, x = make(kind)
    seen = []
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda module, args, output: seen.append(module))
    model(x)
    expected, parameters = list(seen), list(model.parameters())
    patch_model(model)
    assert len(seen) == len(expected)
    model(x)
    assert seen == 2 * expected
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))


def test_a_copy_calls_itself(kind):
    model, x = patched(kind)
    twin = copy.deepcopy(model)
    assert stands_in(block_of(twin)).module is block_of(twin)
    expected = first(model(x)).clone()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(first(model(x)), expected)
    assert not torch.allclose(first(twin(x)), expected)
    unpatch_model(twin)
    assert stands_in(block_of(model)).module is block_of(model)


def test_a_patched_model_is_freed_by_its_last_reference(kind):
    """Also its copies and replicas, without the cycle collector: GPU memory must not wait for that."""
    kept = gc.isenabled()
    model, x = make(kind)
    plain = [weakref.ref(module) for module in copy.deepcopy(model).modules()]
    assert not any(ref() for ref in plain)
    patch_model(model)
    with torch.no_grad():
        model(x)
    made = [model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    made.append(block_of(model)._replicate_for_data_parallel())
    refs = [weakref.ref(module) for each in made for module in each.modules()]
    gc.collect()
    gc.disable()
    try:
        del model, made
        assert not [type(ref()).__name__ for ref in refs if ref() is not None]
    finally:
        if kept:
            gc.enable()


def test_what_is_left_of_a_freed_module_says_so():
    model, _ = patched("timm Swin")
    shallow = copy.copy(model.layers[0].blocks[0].mlp.fc1)
    x = torch.zeros(1, shallow.in_features)
    assert torch.equal(shallow(x), model.layers[0].blocks[0].mlp.fc1(x))
    del model
    gc.collect()
    with pytest.raises(ReferenceError, match="has been freed; keep its model, or copy it by deepcopy"):
        shallow(x)


def test_a_patched_model_can_be_pickled(kind):
    model, x = patched(kind)
    twin = pickle.loads(pickle.dumps(model))
    assert stands_in(block_of(twin)).module is block_of(twin)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(first(twin(x)), first(model(x)))
    assert torch.equal(first(loaded(x)), first(model(x)))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of those who compile a part of a graph
def test_its_blocks_compile_into_one_graph(kind):
    model, x = patched(kind)
    expected = results(model, x)
    torch._dynamo.reset()
    block_of(model).compile(fullgraph=True, backend="aot_eager")
    assert largest_error(results(model, x), expected, 1) < 1e-6


def test_a_block_that_falls_back_compiles_into_one_graph():
    block = block_of(patched("timm Swin")[0]).train()
    drop_attention(block, 0.5)
    x = torch.randn(1, 14, 14, 32)
    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.manual_seed(seeds.shifted(0))
    found = compiled(x)
    torch.manual_seed(seeds.shifted(0))
    with pytest.warns(UserWarning, match="attention weights are dropped"):
        assert torch.allclose(found, block(x))


@pytest.mark.parametrize("kind", ["timm Swin", "Hugging Face Swin"])
def test_checkpointed_activations(kind):
    model, x = make(kind)
    model.train()
    model.activation_checkpointing_enable() if kind.startswith("Hugging") else model.set_grad_checkpointing()
    torch.manual_seed(seeds.shifted(0))
    before = results(model, x)
    patch_model(model)
    torch.manual_seed(seeds.shifted(0))
    assert largest_error(results(model, x), before, 1) < 1e-5


def test_training_drops_paths_and_goes_back(kind):
    model, x = make(kind)
    expected = first(model(x))
    patch_model(model)
    model.train()
    results(model, x)
    model.eval()
    assert (first(model(x)) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_training_draws_the_numbers_that_the_original_draws():
    model, x = make("timm Swin v2 CR")
    model.train()
    torch.manual_seed(seeds.shifted(0))
    before = results(model, x)
    patch_model(model)
    torch.manual_seed(seeds.shifted(0))
    assert largest_error(results(model, x), before, 1) < 1e-5
    torch.manual_seed(seeds.shifted(1))
    assert largest_error(results(model, x), before, 1) > 1e-3  # dropout within the network that makes the bias


def test_autocast_gives_the_dtype_of_the_original(kind):
    model, x = make(kind)
    with torch.autocast("cpu", torch.bfloat16):
        expected = first(model(x))
        patch_model(model)
        found = first(model(x))
    assert found.dtype == expected.dtype
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_a_half_precision_model_stays_one(kind):
    model, x = make(kind)
    model.to(torch.bfloat16)
    expected = first(model(x.bfloat16()))
    patch_model(model)
    found = first(model(x.bfloat16()))
    assert found.dtype == expected.dtype == torch.bfloat16
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def drop_attention(model, p):
    for module in model.modules():
        for name in ("attn_drop", "dropout"):
            if isinstance(getattr(module, name, None), nn.Dropout):
                getattr(module, name).p = p
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = p


def test_dropped_attention_weights_are_the_originals(kind):
    model, x = make(kind)
    drop_attention(model, 0.5)
    model.train()
    torch.manual_seed(seeds.shifted(0))
    expected = first(model(x))
    patch_model(model)
    torch.manual_seed(seeds.shifted(0))
    with pytest.warns(UserWarning, match="attention weights are dropped while training; set the attention dropout"):
        torch.testing.assert_close(first(model(x)), expected, rtol=1e-4, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x)  # it has been said
        model.eval()
        found = first(model(x))
    unpatch_model(model)
    assert not torch.equal(first(model(x)), found)


# torchvision's attention is what is patched, so that its hooks are called anyway
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("torchvision")])
def test_a_hook_on_attention_is_called_by_the_original(kind):
    model, x = patched(kind)
    block, shapes = block_of(model), []
    attention = block.attention if kind.startswith("Hugging") else block.attn
    handle = attention.register_forward_hook(lambda module, args, output: shapes.append(args[0].shape[1]))
    with pytest.warns(UserWarning, match="has hooks or a forward of its own"):
        model(x)
    assert shapes == [49]
    handle.remove()
    model(x)
    assert shapes == [49]


UNPADDED = {
    "timm Swin": (3, 112, 112),
    "timm Swin v2 CR": (3, 112, 112),
    "torchvision Swin": (3, 112, 112),
    "Hugging Face Swin": (3, 112, 112),
    "Hugging Face Swin v2": (3, 112, 112),
    "Microsoft Swin": (16, 14, 21),
    "Swin for detection": (16, 14, 21),
    "EsViT Swin": (16, 14, 14),
}
"""Images that need no padding; without the kinds whose original takes the weights of qkv and never calls it."""


@pytest.mark.parametrize("kind", UNPADDED)
def test_hooks_on_projections_are_called(kind):
    model, _ = patched(kind)
    names = ("qkv", "q_proj", "k_proj", "v_proj", "query", "key", "value", "proj", "o_proj")
    parts = [part for name, part in block_of(model).named_modules() if name.split(".")[-1] in names]
    assert len(parts) == {"Hugging Face Swin": 4, "Hugging Face Swin v2": 3}.get(kind, 2)
    called = []
    for part in parts:
        part.register_forward_hook(lambda module, args, output: called.append(module))
    model(image(UNPADDED[kind]))
    assert called == parts


def test_a_hook_that_may_change_what_pads_hold_is_the_originals():
    model = timm_model(TIMM[0], strict_img_size=False)
    x = image((3, 92, 60))
    for module in model.modules():
        if hasattr(module, "qkv"):
            module.qkv.register_forward_hook(lambda module, args, output: output + 1)
    expected = model(x)
    patch_model(model)
    with pytest.warns(UserWarning, match="hooks may change what padded tokens are projected to"):
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


class Adapted(nn.Module):
    """A layer and what adapts it, in its place."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.down, self.up = nn.Linear(layer.in_features, 2, bias=False), nn.Linear(2, layer.out_features)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


def test_an_adapter_around_a_projection_is_used():
    model = timm_model(TIMM[0], strict_img_size=False)
    for module in list(model.modules()):
        if hasattr(module, "qkv"):
            module.qkv, module.proj = Adapted(module.qkv), Adapted(module.proj)
    x = image((3, 92, 60))
    before = results(shaken(model), x)
    assert len(patch_model(model).patched) == 4
    assert largest_error(results(model, x), before, 1) < 1e-5


@pytest.mark.parametrize("build", [huggingface_swin, huggingface_swinv2])
def test_attention_weights_asked_for_come_from_the_original(build):
    model, x = build(attn_implementation="eager"), image((3, 112, 92))
    expected = model(x, output_attentions=True)
    patch_model(model)
    assert model(x).attentions is None
    with pytest.warns(UserWarning, match="its attention weights are asked for"):
        found = model(x, output_attentions=True)
    assert len(found.attentions) == len(expected.attentions) > 0
    for a, b in zip(found.attentions, expected.attentions, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_weights_that_a_block_always_returns_are_none():
    model = shaken(esvit())
    patch_model(model)
    assert model.blocks[0](torch.randn(1, 49, 16))[1] is None


def test_a_map_for_which_the_mask_was_not_made():
    block = timm_model(TIMM[0]).layers[0].blocks[1]
    patch_model(block)
    with pytest.warns(UserWarning, match="its mask is for 28 x 28 tokens, not 14 x 28; call set_input_size"):
        block(torch.randn(2, 14, 28, 16))


def test_a_window_that_shrank_fails_as_it_did():
    model = huggingface_swin()
    x = image((3, 20, 20))
    with pytest.raises(RuntimeError) as before:
        huggingface_swin()(x)
    patch_model(model)
    with pytest.raises(RuntimeError) as after, pytest.warns(UserWarning, match="its window has shrunk"):
        model(x)
    assert str(after.value) == str(before.value)


def test_patching_leaves_generators_gradients_and_modes_alone():
    model, x = make("Microsoft Swin")
    model.train()
    model(x).sum().backward()
    model.blocks[0].kept = model(x)
    gradients = [p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    assert len(patch_model(model).patched) == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(module.training for module in model.modules())
