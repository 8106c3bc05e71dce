"""The command line: what it prints, and that a user's mistake is one line that says what to do."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from types import FunctionType

import pytest
import torch
from PIL import Image

from esvit_fast.cli import pretrain
from esvit_fast.cli.main import COMMANDS, main
from esvit_fast.config import recipe_names, save_config
from esvit_fast.data import WorkerDied
from esvit_fast.models import create_model, list_models
from esvit_fast.ops._core.proven import PROVEN
from esvit_fast.training import Outcome
from tests.training.runs import small, start

from .calls import call, fails, images


@pytest.fixture
def recipe(tmp_path):
    save_config(small(epochs=0.5), tmp_path / "recipe.yaml")
    return tmp_path / "recipe.yaml"


def test_help_names_every_command(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for command in COMMANDS:
        assert f"  {command} " in out
    assert call(capsys)[0] == 2


@pytest.mark.parametrize(
    "command", ["demo", "doctor", "models", "recipes", "data", "plan", "pretrain", "resume", "eval", "report"]
)
def test_every_command_has_help(capsys, command):
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"usage: esvit-fast {command}" in out


def test_version(capsys):
    assert call(capsys, "--version")[1].strip() == "0.1.0"


def test_lists(capsys):
    out = call(capsys, "models")[1]
    assert all(name in out for name in list_models())
    assert "27.5 M" in out
    out = call(capsys, "recipes")[1]
    assert all(name in out for name in recipe_names())
    assert {"swin_tiny_w7", "cifar10_swin_nano", "sample"} <= set(recipe_names())


def test_doctor(capsys, monkeypatch):
    code, out, _ = call(capsys, "doctor")
    assert code == 0
    assert torch.__version__.split("+")[0] in out
    assert "window_attention" in out and "reference" in out
    assert "triton: not yet" in out and "has no kernels for one" in out
    monkeypatch.setitem(PROVEN, ("region_match", "triton"), frozenset({(9, 0), (8, 0)}))
    assert "triton: sm_80, sm_90" in call(capsys, "doctor")[1]
    monkeypatch.setenv("ESVIT_FAST_BACKEND", "triton")
    code, out, err = call(capsys, "doctor")
    assert code == 1
    assert "ESVIT_FAST_BACKEND=triton cannot be honoured" in err
    assert "this version has no triton implementation" in " ".join(out.split())


@pytest.mark.slow
def test_plan(capsys, recipe):
    code, out, _ = call(capsys, "plan", "--recipe", recipe, "--no-measure", "--json", "--train.seed", "3")
    found = json.loads(out)
    assert code == 0 and found["remedy"] is None and found["time"] is None
    assert found["step"]["peak"] == sum(found["step"]["parts"].values())
    assert found["command"] == f"esvit-fast pretrain --recipe {recipe} --train.seed 3 --out runs/a"
    code, out, _ = call(capsys, "plan", "--recipe", recipe, "--no-measure", "--memory", "0.001")
    assert code == 1 and "not one image fits" in out and "It does not fit" in out
    assert "--memory=-1 must be a positive number" in fails(capsys, "plan", "--recipe", recipe, "--memory", "-1")
    assert "--memory=1e+300 must be a positive number" in fails(capsys, "plan", "--recipe", recipe, "--memory", "1e300")
    assert "--world-size=0 must be at least 1" in fails(capsys, "plan", "--recipe", recipe, "--world-size", "0")
    assert "is not divisible by world_size=3" in fails(capsys, "plan", "--recipe", recipe, "--world-size", "3")
    assert "is neither a file nor a recipe" in fails(capsys, "plan", "--recipe", "swin_tiny_w8")
    assert "--recipe is missing; recipes: " in fails(capsys, "plan")
    assert "--gpu='h101' is not in the table; did you mean 'h100'?" in fails(
        capsys, "plan", "--recipe", recipe, "--gpu", "h101"
    )


def test_plan_for_a_gpu_that_is_not_here(capsys, recipe):
    arguments = ("plan", "--recipe", recipe, "--gpu", "H100", "--world-size", "8", "--train.precision", "auto")
    code, out, err = call(capsys, *arguments)
    assert code == 0 and err.splitlines() == ["counting memory and arithmetic …"]  # also where nobody looks
    out = " ".join(out.split())
    assert "8 x NVIDIA H100 SXM, bf16, 8 images a step in micro-batches of 1" in out
    assert "speed about " in out and "estimated from arithmetic and bytes, not measured" in out
    assert "NVIDIA H100 data sheet" in out and "CPU" not in out
    found = json.loads(call(capsys, *arguments, "--json")[1])
    assert found["device"] == "NVIDIA H100 SXM" and "not measured" in found["estimate"] and "work" not in found["step"]
    out = call(capsys, "plan", "--recipe", recipe, "--no-measure", "--world-size", "8")[1]
    assert "This is a plan for CPUs, as no GPU is here; --gpu h100" in out


def test_pretrain_and_resume(capsys, recipe, tmp_path):
    out = tmp_path / "run"
    code, _, err = call(capsys, "pretrain", "--recipe", recipe, "--out", out, "--train.seed", "3")
    assert code == 0
    assert "3 steps of 8 images" in err and "done: 3 steps" in err
    assert (out / "model.safetensors").exists() and "seed: 3" in (out / "config.yaml").read_text()
    assert "already holds a run; continue it with `esvit-fast resume" in fails(
        capsys, "pretrain", "--recipe", recipe, "--out", out
    )
    code, _, err = call(capsys, "resume", out)
    assert code == 0 and "from step 3" in err


SLOW = "warning: train.precision=fp16 is slow on CPUs, which mostly compute in float32; pass --train.precision fp32\n"


@pytest.mark.parametrize(("precision", "times"), [("fp16", 1), ("fp32", 0)])
def test_float16_on_a_cpu_is_said_to_be_slow_once(capsys, recipe, tmp_path, precision, times):
    out = tmp_path / "run"
    settings = "--recipe", recipe, "--train.precision", precision, "--train.device", "cpu"
    code, _, err = call(capsys, "pretrain", *settings, "--out", out)
    assert code == 0 and err.count(SLOW) == times
    assert call(capsys, "resume", out)[2].count(SLOW) == times  # where it can still be changed
    assert "warning" not in call(capsys, "resume", out, "--train.precision", "bf16")[2]
    err = call(capsys, "plan", *settings, "--world-size", "3")[2]  # before it is tried
    assert err.startswith(times * SLOW + "esvit-fast: error: ")


def test_mistakes_of_names(capsys, run, recipe, tmp_path):
    assert "command='pretain' is not known; did you mean 'pretrain'?" in fails(capsys, "pretain")
    assert "--recipe is missing; recipes: " in fails(capsys, "pretrain")
    assert "did you mean 'swin_tiny_w7'?" in fails(capsys, "pretrain", "--recipe", "swin_tiny", "--out", tmp_path / "x")
    recipe.write_text(recipe.read_text().replace("batch_size", "batchsize"))
    message = fails(capsys, "pretrain", "--recipe", recipe, "--out", tmp_path / "x")
    assert "unknown key 'batchsize'; did you mean 'batch_size'?" in message
    assert "holds no run (no config.yaml)" in fails(capsys, "resume", tmp_path)
    assert "holds no run (no config.yaml)" in fails(capsys, "report", tmp_path)


def test_mistakes_of_data(capsys, run, recipe, tmp_path):
    (tmp_path / "empty").mkdir()
    pretrain = ("pretrain", "--recipe", recipe, "--out", tmp_path / "x", "--data")
    assert "empty" in fails(capsys, *pretrain, tmp_path / "empty")
    assert "does not exist" in fails(capsys, *pretrain, tmp_path / "nowhere")
    message = fails(capsys, *pretrain, images(tmp_path / "few"))
    assert "--train.batch-size=8 is larger than the data, which has 6 images" in message
    assert not (tmp_path / "x").exists()
    message = fails(capsys, "eval", "knn", run, "--data", tmp_path / "few")
    assert "has no classes, which eval knn needs" in message


def test_mistakes_of_settings(capsys, recipe, tmp_path):
    pretrain = ("pretrain", "--recipe", recipe, "--out", tmp_path / "x")
    message = fails(capsys, *pretrain, "--train.warmup-epochs", "3")
    assert "--train.warmup-epochs=3.0 is longer than --train.epochs=0.5" in message
    assert "name='swin_nano_w5' is not a model; did you mean 'swin_nano_w4'?" in fails(
        capsys, *pretrain, "--model.name", "swin_nano_w5"
    )
    message = fails(capsys, *pretrain, "--train.batch-sise", "3")
    assert "--train.batch-sise is no option of `esvit-fast pretrain`; did you mean '--train.batch-size'?" in message


def test_mistakes_of_machine_and_disk(capsys, run, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for command in (("eval", "knn"), ("report",)):
        message = fails(capsys, *command, run, "--device", "cuda")
        assert message.startswith("esvit-fast: error: --device='cuda' needs an NVIDIA GPU")
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = fails(capsys, "pretrain", "--recipe", recipe, "--out", tmp_path / "x")
    assert "WORLD_SIZE=2 without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT" in message


def test_a_truncated_checkpoint_is_refused_and_the_previous_one_used(capsys, tmp_path, caplog):
    start(tmp_path / "run", small(epochs=1))
    file = tmp_path / "run" / "checkpoints" / "step_6" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    code, _, err = call(capsys, "resume", tmp_path / "run")
    assert code == 0 and "from step 3" in err
    assert "step_6" in caplog.text


def test_huge_images_are_refused_before_decoding(capsys, recipe, tmp_path, caplog):
    folder = images(tmp_path / "images", each=10)
    for i in range(2):
        Image.new("1", (9000, 9000)).save(folder / f"huge{i}.png")
    arguments = ("pretrain", "--recipe", recipe, "--out", tmp_path / "x", "--data", folder)
    code, _, message = call(capsys, *arguments, "--data.max-corrupt-share", "0.05", "--train.epochs", "5")
    assert code == 2
    assert "has 9000x9000 pixels, more than max_megapixels=64" in caplog.text
    assert "--data.max-corrupt-share=0.05 is exceeded" in message and "huge" in message


def test_weights_are_those_of_the_teacher(run):
    model = create_model("swin_nano_w4", pretrained=run)
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 192)


def test_the_loss_of_another_rank_is_no_answer_of_this_package(capsys, monkeypatch):
    def wait(argv):
        raise RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer")

    ours = FunctionType(
        wait.__code__, {"__name__": "esvit_fast.methods.losses.esvit"}
    )  # sums over ranks are waited for
    monkeypatch.setattr("esvit_fast.cli.listing.models", ours)
    monkeypatch.setenv("WORLD_SIZE", "2")

    code, _, error = call(capsys, "models")
    assert code == 1 and "another rank has ended" in error and "gloo" not in error, "who called goes on"

    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr("os._exit", leave)
    monkeypatch.setattr("sys.argv", ["esvit-fast", "models"])
    with pytest.raises(SystemExit, match="1"):
        main()


@pytest.mark.parametrize("ranks", [True, False], ids=["a rank", "alone"])
def test_a_rank_ends_before_its_interpreter_does(ranks):
    program = """
import atexit, sys
from esvit_fast.cli.main import main
class Held:
    def __del__(self):
        print("taken apart")
held = Held()
atexit.register(print, "farewell")
sys.argv = ["esvit-fast", "recipes"]
main()
"""
    environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}
    environment |= {"WORLD_SIZE": "1"} if ranks else {}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "swin_tiny_w7" in done.stdout and done.stderr == ""
    assert done.stdout.endswith("farewell\n" if ranks else "farewell\ntaken apart\n")


@pytest.mark.parametrize(
    ("error", "leaves"),
    [
        (WorkerDied("a worker process was killed"), False),
        (RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer"), False),
        (ValueError("train.epochs=0 must be more"), True),
        (None, True),
    ],
)
def test_a_farewell_is_said_only_where_all_are_there(monkeypatch, tmp_path, error, leaves):
    said = []
    monkeypatch.setattr("esvit_fast.training.teardown_distributed", lambda: said.append(1))

    def work(ranks, reporter):
        if error:
            raise error
        return Outcome(1, 1, None, 0.1)

    with nullcontext() if error is None else pytest.raises(type(error)):
        pretrain.run(work, tmp_path, "cpu")
    assert bool(said) == leaves


def test_what_was_printed_is_not_lost_when_the_program_ends_at_once():
    code = "from esvit_fast.cli import main; print('first'); main._leave()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "first\n")
