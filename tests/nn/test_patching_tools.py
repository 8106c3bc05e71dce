"""What others do to models: a patched one gives what its original gives, or fails as that does."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.models import create_feature_extractor
from torch import nn
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

import esvit_fast
from esvit_fast.nn import patch_model, unpatch_model
from esvit_fast.nn.patching import redirect

from .models import KINDS, make
from .parity import first, image

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of transformers, whose attributes torch looks at
    pytest.mark.filterwarnings("ignore:.*torch.fx traces it"),
    pytest.mark.filterwarnings("ignore:.*reverse-mode derivatives only"),
]
SCRIPTED = ("timm Swin", "timm Swin v2", "timm Swin v2 CR", "torchvision Swin", "torchvision Swin v2")
TRACED = (*SCRIPTED, "Hugging Face Swin", "Hugging Face Swin v2")
EXPORTED = ("timm Swin", "torchvision Swin v2", "Hugging Face Swin")


class First(nn.Module):
    """A model that returns one tensor, as tracers want it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return first(self.model(x))


def larger(x):
    return torch.cat([x, x.flip(0), x[:1]])


def layers(model):
    return [module for module in model.modules() if type(module) is nn.Linear]


# each takes a model and images, and gives a tensor


def traced(model, x):
    return torch.jit.trace(First(model), x)(larger(x))


@torch.no_grad()
def traced_and_frozen(model, x):
    frozen = torch.jit.freeze(torch.jit.trace(First(model).eval(), x))
    return frozen(larger(x))


def scripted(model, x):
    return first(torch.jit.script(model)(x))


def scripted_as_a_part(model, x):
    whole = nn.Sequential(model, nn.Identity())
    script = torch.jit.script(whole)
    assert whole[0] is model
    return first(script(x))


def weights_into_a_script(model, x):
    script = torch.jit.script(model)
    script.load_state_dict({name: 0.9 * value for name, value in script.state_dict().items()})
    return first(script(x))


def exported(model, x, strict=False):
    shapes = ({0: Dim("batch", min=1, max=64)},)
    program = torch.export.export(First(model), (x,), dynamic_shapes=shapes, strict=strict)
    assert "esvit_fast" not in str(program.graph)
    return program.module()(larger(x))


def exported_strictly(model, x):
    return exported(model, x, strict=True)


def fx(model, x):
    return first(torch.fx.symbolic_trace(model)(x))


def extracted(model, x):
    return create_feature_extractor(model, {"layers.0": "a", "layers.1": "b"})(x)["b"]


def dispatched(model, x):
    return make_fx(First(model))(x)(x)


def replicated(model, x):
    """What `nn.DataParallel` does, whose replicas share all but tensors and children."""
    modules = list(model.modules())
    place = {module: i for i, module in enumerate(modules)}
    replicas = [module._replicate_for_data_parallel() for module in modules]
    for replica, module in zip(replicas, modules, strict=True):
        for name, child in module.named_children():
            setattr(replica, name, replicas[place[child]])
        for name, tensor in module._parameters.items():
            setattr(replica, name, None if tensor is None else 0.9 * tensor)
        replica._buffers.update((name, tensor.clone()) for name, tensor in module.named_buffers(recurse=False))
    return first(replicas[0](x))


def with_other_weights(model, x):
    weights = {name: 0.9 * value for name, value in model.named_parameters()}
    return first(torch.func.functional_call(model, weights, (x,)))


def an_ensemble(model, x):
    weights = {name: torch.stack([value, 0.9 * value]).detach() for name, value in model.named_parameters()}
    return torch.func.vmap(lambda each: first(torch.func.functional_call(model, each, (x,))))(weights)


def forward_derivative(model, x):
    return torch.func.jvp(lambda image: first(model(image)), (x,), (0.1 * x,))[1]


def channels_last(model, x):
    model = model.to(memory_format=torch.channels_last)
    return first(model(x.to(memory_format=torch.channels_last) if x.ndim == 4 else x))


@torch.inference_mode()
def inference(model, x):
    return first(model(x))


def hooked(model, x):
    called = []
    for layer in layers(model):
        layer.register_forward_hook(lambda module, args, output: called.append(module) or 1.1 * output)
    found = first(model(x))
    return torch.cat([found.flatten(), torch.tensor([len(called)])])


def quantized(model, x):
    found = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    count = sum(isinstance(module, torch.ao.nn.quantized.dynamic.Linear) for module in found.modules())
    assert count >= len(layers(model)) > 0 == len(layers(found))
    return first(found(x))


def pruned(model, x):
    for layer in layers(model):
        prune.l1_unstructured(layer, "weight", 0.3)
    return first(model(x))


class Halved(nn.Module):
    def forward(self, weight):
        return 0.5 * weight


def parametrized(model, x):
    for layer in layers(model):
        parametrize.register_parametrization(layer, "weight", Halved())
    return first(model(x))


def parametrized_for_good(model, x):
    found = layers(model)
    for layer in found:
        parametrize.register_parametrization(layer, "weight", Halved())
    for layer in found:
        parametrize.remove_parametrizations(layer, "weight")
    assert layers(model) == found
    return first(model(x))


class Doubling(torch.Tensor):
    """A weight that has a matrix product of its own, as packed ones have."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is nn.functional.linear:
            named = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **(kwargs or {})}
            named["weight"] = 2 * named["weight"].as_subclass(torch.Tensor)
            return super().__torch_function__(function, types, (), named)
        return super().__torch_function__(function, types, args, kwargs or {})


def packed(model, x):
    for layer in layers(model):
        layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Doubling), requires_grad=False)
    return first(model(x)).as_subclass(torch.Tensor)


def without_a_head(model, x):
    model.reset_classifier(0)
    return first(model(x))


def with_another_head(model, x):
    torch.manual_seed(0)
    model.head = nn.Sequential(nn.Identity())
    return first(model(x))


def at_another_size(model, x):
    model.set_input_size((96, 64), window_size=(5, 4))
    return first(model(image((3, 96, 64))))


EVERYWHERE = (
    replicated,
    with_other_weights,
    an_ensemble,
    channels_last,
    inference,
    parametrized,
    parametrized_for_good,
    packed,
    dispatched,
)
CASES = [
    *((operation, kind) for operation in EVERYWHERE for kind in KINDS),
    *((forward_derivative, kind) for kind in KINDS if kind != "Hugging Face Swin"),  # torch's own kernel has none
    *((operation, kind) for operation in (traced, traced_and_frozen) for kind in TRACED),
    *((operation, kind) for operation in (scripted, scripted_as_a_part, weights_into_a_script) for kind in SCRIPTED),
    *(pytest.param(exported, kind, marks=pytest.mark.slow) for kind in EXPORTED),
    *((fx, kind) for kind in SCRIPTED),
    *((hooked, kind) for kind in ("timm Swin", "torchvision Swin", "Hugging Face Swin", "EsViT Swin")),
    (quantized, "timm Swin"),  # in other kinds too many roundings to 8 bits move to compare numbers
    *((pruned, kind) for kind in ("timm Swin", "Hugging Face Swin", "Microsoft Swin")),
    *((operation, kind) for operation in (extracted, at_another_size) for kind in SCRIPTED[:2]),
    *((operation, "timm Swin") for operation in (without_a_head, with_another_head)),
    pytest.param(exported_strictly, "timm Swin", marks=pytest.mark.slow),
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of those who resize tables and interpolate
@pytest.mark.parametrize(("operation", "kind"), CASES, ids=lambda x: getattr(x, "__name__", x))
def test_it_does_what_the_original_does(operation, kind):
    model, x = make(kind)
    other = copy.deepcopy(model)
    assert patch_model(other).patched
    expected, found = operation(model, x).detach(), operation(other, x).detach()
    # rounding may move what is rounded to 8 bits by a step, of 1 in 255
    tolerance = 1 / 255 if operation is quantized else 2e-5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=tolerance * float(expected.abs().max()))


def test_fx_says_what_is_lost(monkeypatch):
    monkeypatch.setattr(redirect, "_warned", set())
    model, _ = make("timm Swin")
    patch_model(model)
    with pytest.warns(UserWarning, match="runs its original attention because torch.fx traces it, and what it makes"):
        torch.fx.symbolic_trace(model)


@pytest.mark.parametrize("kind", SCRIPTED[:3])  # on maps that need no padding
def test_its_arithmetic_is_counted(kind):
    model, x = make(kind)
    counts = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            first(model(x)).sum().backward()
        counts.append(counter.get_total_flops())
        patch_model(model)
    # scores of each block are computed once more in the backward pass
    assert counts[0] < counts[1] < 1.2 * counts[0]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    unpatch_model(model)
    with torch.no_grad(), FlopCounterMode(display=False) as original:
        model(x)
    assert counter.get_total_flops() == original.get_total_flops()


def test_operators_stay_if_a_backend_is_forced():
    model, x = make("timm Swin")
    patch_model(model)
    with esvit_fast.backend("reference"), torch.no_grad():
        graph = torch.jit.trace(model, x).inlined_graph
    assert str(graph).count("esvit_fast::window_attention") == 4


def test_what_others_have_wrapped_is_not_unpatched():
    model, x = make("torchvision Swin")
    patch_model(model)
    expected = model(x)
    block = model.features[1][0].attn
    forward = block.forward
    block.forward = lambda *args: forward(*args)
    (row,) = unpatch_model(model).patched
    assert row.why == "its forward has been replaced by function since; undo that first"
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    block.forward = forward
    assert len(unpatch_model(model)) == 1
