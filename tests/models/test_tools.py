"""What others do to our own models: tracing, exporting, scripting, derivatives."""

from __future__ import annotations

import copy
import io
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.export import Dim

import esvit_fast
from tests.nn.parity import image, shaken

SMALL = {"dim": 24, "depths": (2, 2), "num_heads": (3, 6)}


@pytest.fixture(scope="module")
def model():
    return shaken(esvit_fast.create_model("swin_nano_w4", **SMALL))


@pytest.fixture(scope="module")
def images():
    """Sides that need padding."""
    return image((3, 40, 36), batch=2)


def larger(x):
    return torch.cat([x, x.flip(0), x[:1]])


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_runs_with_another_batch_where_the_library_is_not(model, images, tmp_path):
    traced = torch.jit.trace(model, images)
    close(traced(larger(images)), model(larger(images)))
    close(torch.jit.freeze(traced)(images), model(images))
    traced.save(tmp_path / "traced.pt")
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys, torch; sys.modules['esvit_fast'] = None; "
        "torch.save(torch.jit.load('traced.pt')(torch.load('images.pt')), 'features.pt')"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True, timeout=120)
    close(torch.load(tmp_path / "features.pt"), model(images))


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_export_is_plain_torch(model, images, strict):
    shapes = ({0: Dim("batch", min=1, max=64)},)
    program = torch.export.export(model, (images,), dynamic_shapes=shapes, strict=strict)
    assert "esvit_fast" not in str(program.graph)
    close(program.module()(larger(images)), model(larger(images)))


def test_an_export_keeps_the_operators_if_a_backend_is_forced(model, images):
    with esvit_fast.backend("reference"):
        program = torch.export.export(model, (images,))
    assert "esvit_fast.window_attention" in str(program.graph)
    close(program.module()(images), model(images))


def test_an_export_for_any_size_keeps_the_operator(model, images):
    program = torch.export.export(model, (images,), dynamic_shapes=({2: Dim.AUTO, 3: Dim.AUTO},))
    other = image((3, 33, 70), batch=2)
    close(program.module()(other), model(other))


def test_a_compiled_model_has_the_operators(model, images):
    """Within torch.compile, torch.compiler.is_exporting is true."""
    names = []

    def backend(graph, inputs):
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch._dynamo.reset()
    close(torch.compile(model, backend=backend, fullgraph=True)(images), model(images))
    assert sum("esvit_fast.window_attention" in name for name in names) == 4


def test_fx_keeps_the_fast_path(model, images):
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(images), model(images))
    names = [node.name for node in traced.graph.nodes]
    assert sum(name.startswith("_attend") for name in names) == 4 and sum(n.startswith("linear") for n in names) > 8


@pytest.mark.parametrize("within", [nn.Identity, lambda model: nn.Sequential(model, nn.Identity())])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_is_refused_in_a_sentence(model, within):
    whole = model if within is nn.Identity else within(model)
    with pytest.raises(NotImplementedError, match=r"^SwinTransformer cannot be scripted; torch.jit.trace\(.*torch$"):
        torch.jit.script(whole)
    with pytest.raises(NotImplementedError, match="^WindowAttention cannot be scripted"):
        torch.jit.script(model.layers[0].blocks[0].attn)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # of torch, which scripts its own derivatives
def test_transforms_of_torch_func(model, images):
    double = copy.deepcopy(model).double()
    x = images[:1].double()
    along = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    step = 1e-6
    _, slope = torch.func.jvp(double, (x,), (along,))
    with torch.no_grad():
        torch.testing.assert_close(
            slope, (double(x + step * along) - double(x - step * along)) / (2 * step), rtol=1e-6, atol=1e-7
        )
    weights = {name: torch.stack([value, 0.9 * value]).detach() for name, value in model.named_parameters()}
    both = torch.func.vmap(lambda each: torch.func.functional_call(model, each, (images,)))(weights)
    for i in (0, 1):
        close(both[i], torch.func.functional_call(model, {n: v[i] for n, v in weights.items()}, (images,)))


def test_a_model_is_saved_whole(model, images):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(images), model(images))
