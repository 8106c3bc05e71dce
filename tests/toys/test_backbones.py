"""A backbone is one file outside of the package: it is trained, resumed, divided, compiled, planned and evaluated."""

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esvit_fast.cli.main import main
from esvit_fast.models import Backbone, create_model, list_models, register_backbone
from esvit_fast.models.registry import BACKBONES
from esvit_fast.plugins import VARIABLE
from esvit_fast.registry import missing_of
from esvit_fast.training import Trainer, pretrain
from esvit_fast.training.planning.dry_step import noise
from esvit_fast.training.step import compiled, trainer

from ..cli.calls import call, fails
from ..training.runs import CPU, Silent, as_rank, on_ranks, small, start, trained_weights

HERE = Path(__file__).parent
PLUGINS = ",".join(str(HERE / f"{name}.py") for name in ("convnet", "vit"))
TOYS = ("toy_convnet", "toy_vit")


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    monkeypatch.setenv(VARIABLE, PLUGINS)


def of(name, **train):
    config = small(learning_rate=1e-3, **train)
    return replace(config, model=replace(config.model, name=name, drop_path_rate=0.0))


def with_plugins(*args):
    os.environ[VARIABLE] = PLUGINS
    as_rank(*args)


@pytest.mark.parametrize("name", TOYS)
def test_it_keeps_the_contract(name):
    assert name in list_models() and "swin_tiny_w7" in list_models()
    assert list_models("toy_*") == ["toy_convnet", "toy_vit"]
    model = create_model(name)
    images = torch.zeros(2, 3, 32, 24)
    view, regions = model.forward_regions(images)
    rows, columns = model.region_grid(32, 24)
    assert view.shape == model(images).shape == (2, model.num_features) and regions.shape[1] == rows * columns


class Stopping(Silent):
    def step(self, step, record):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("name", TOYS)
def test_a_run_resumes_to_the_same_bits_and_is_evaluated_and_reported(tmp_path, capsys, name):
    start(tmp_path / "whole", of(name))
    assert pretrain(of(name), tmp_path / "parts", CPU, Stopping()).step == 5
    assert call(capsys, "resume", tmp_path / "parts")[0] == 0
    whole, parts = (trained_weights(tmp_path / run) for run in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[key]) for key, tensor in whole.items())
    assert call(capsys, "eval", "knn", tmp_path / "whole", "--json")[0] == 0
    blocks = 0 if name == "toy_convnet" else 1
    code, out, err = call(capsys, "eval", "linear", tmp_path / "whole", "--blocks", blocks, "--json")
    assert code == 0 and json.loads(out), err
    assert call(capsys, "eval", "correspondence", tmp_path / "whole")[0] == 0
    code, _, err = call(capsys, "report", tmp_path / "whole")
    assert code == 0, err
    assert "Heads of the trained model" not in (tmp_path / "whole" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", TOYS)
def test_two_ranks_divide_its_weights(tmp_path, name):
    config = of(name, epochs=1, shard=True)
    start(tmp_path / "one", config)
    processes = on_ranks(2, tmp_path / "two", config, with_plugins)
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    whole, divided = (trained_weights(tmp_path / run) for run in ("one", "two"))
    for key, tensor in whole.items():
        if key.endswith("in_proj_bias"):
            continue  # that of keys has no gradient but rounding
        torch.testing.assert_close(divided[key], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, n=key: f"{n}: {m}")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("name", TOYS)
def test_its_stages_are_compiled(monkeypatch, name):
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(trainer, "compile_parts", lambda parts: compiled.compile_parts(parts, backend))
    torch._dynamo.reset()
    losses = []
    for compile in (False, True):
        torch.manual_seed(5)
        losses.append(
            Trainer(of(name, compile=compile), 48, CPU).train_step([noise(of(name), 8)]).values["loss"].item()
        )
    torch._dynamo.reset()
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and made


@pytest.mark.parametrize("name", TOYS)
def test_it_is_planned_and_listed(capsys, name):
    model = ("--model.name", name, "--model.drop-path-rate", 0)
    code, out, _ = call(capsys, "plan", "--recipe", "sample", "--data", "sample:256", *model, "--no-measure")
    assert (code == 0 and "GiB" in out) or "MiB" in out
    code, out, _ = call(capsys, "models")
    assert code == 0 and re.search(rf"^ {name} .* 32 ", out, re.MULTILINE)


def test_what_it_has_from_the_contract_alone_it_lacks():
    asked = ("forward_last_blocks", "attention_maps", "forward_regions", "nothing_like_it")
    assert missing_of(create_model("toy_convnet"), Backbone, asked) == [*asked[:2], asked[3]]
    assert missing_of(create_model("toy_vit"), Backbone, asked) == [asked[1], asked[3]]
    assert missing_of(create_model("swin_nano_w4"), Backbone, asked) == [asked[3]]


def test_what_it_lacks_is_named(tmp_path, capsys, monkeypatch):
    @register_backbone(name="half_a_backbone")
    class Half(Backbone):
        num_features = 8

        def __init__(self, **options):
            super().__init__()

    try:
        with pytest.raises(
            TypeError, match=r"'half_a_backbone' has no image_size and no forward and no forward_regions"
        ):
            create_model("half_a_backbone")
        with pytest.raises(ValueError, match="'half_a_backbone' is registered twice"):
            register_backbone(Half, name="half_a_backbone")
    finally:
        del BACKBONES._things["half_a_backbone"]
    with pytest.raises(ValueError, match=r"name='toy_vitt' is not a model; did you mean 'toy_vit'\?"):
        create_model("toy_vitt")
    with pytest.raises(ValueError, match=r"drop_path_rate=0.1 is none of the options of toy_convnet, which has none"):
        create_model("toy_convnet", drop_path_rate=0.1)
    with pytest.raises(ValueError, match="blocks=1, but ToyConvNet has no blocks"):
        create_model("toy_convnet").forward_last_blocks(torch.zeros(1, 3, 32, 32), 1)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone.py"))
    assert re.search(f"{VARIABLE}=.*gone.py is no file; correct it", fails(capsys, "models"))
    monkeypatch.setenv(VARIABLE, "no_such_module_anywhere")
    assert "no_such_module_anywhere cannot be imported: No module named" in fails(capsys, "models")
    assert main(["recipes"]) == 0  # which need none
