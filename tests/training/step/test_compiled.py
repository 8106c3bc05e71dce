"""Stages as programs of torch.compile: the same numbers, names and draws."""

from dataclasses import replace

import pytest
import torch

from esvit_fast.data import open_source
from esvit_fast.models import create_model
from esvit_fast.training import Trainer
from esvit_fast.training.monitoring.online_knn import OnlineKnn
from esvit_fast.training.planning.dry_step import noise
from esvit_fast.training.step import compiled, trainer

from ..runs import CPU, small

# torch looks at gradients of what is no leaf, and hides its own warning, which an error cannot be
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture
def traced(monkeypatch):
    """Programs whose operators torch runs as they are, which needs no C++ compiler; and how many were made."""
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(trainer, "compile_parts", lambda parts: compiled.compile_parts(parts, backend))
    torch._dynamo.reset()
    yield made
    torch._dynamo.reset()


def trained(config, steps=3):
    made = Trainer(config, 48, CPU)
    torch.manual_seed(5)
    return made, [made.train_step([noise(config, 8)]).values["loss"].item() for _ in range(steps)]


@pytest.mark.parametrize("stages", [(), (0, 2)])
def test_a_run_is_the_same(traced, stages):
    config = small(learning_rate=1e-3)
    model, evaluated = replace(config.model, checkpoint_stages=stages), replace(config.eval, knn_every_epochs=1)
    config = replace(config, model=model, eval=evaluated)
    plain, losses = trained(config)
    assert not traced
    fused, compiled_losses = trained(replace(config, train=replace(config.train, compile=True)))
    assert compiled_losses == pytest.approx(losses, rel=1e-5)
    # three stages, of the teacher and of the student's two sizes of crops
    assert len(traced) == 3 * 3
    ours, theirs = (made.state()[0] for made in (fused, plain))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        if "qkv.bias" not in name:  # that of keys has no gradient but rounding
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=2e-5)
    # evaluation makes no program
    accuracy = OnlineKnn(config, open_source(config.data.source), CPU)(fused.plain_teacher())
    assert 0 <= accuracy["top1"] <= 100 and len(traced) == 3 * 3
    plain = fused.plain_teacher().state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in fused.teacher.state_dict().items())


@pytest.mark.slow
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="Inductor writes vectors where torch has none"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules
def test_inductor_fuses_a_stage_and_draws_what_torch_draws(monkeypatch, tmp_path):
    # what it keeps for other runs may be for other vectors (ATEN_CPU_CAPABILITY), and then is wrong
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    model = create_model("swin_nano_w4", drop_path_rate=0.5).train()
    model.layers = model.layers[:1]
    stage = model.layers[0]
    x = torch.randn(4, 8, 8, stage.blocks[0].norm1.normalized_shape[0])

    def run():
        torch.manual_seed(1)
        model.zero_grad()
        out = stage(x)
        out.square().sum().backward()
        return out, [p.grad for p in stage.parameters()]

    plain = run()
    compiled.compile_parts(model.layers)
    fused = run()
    torch.testing.assert_close(fused[0], plain[0], rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(fused[1], plain[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
