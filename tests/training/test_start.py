"""Whether a run begins or goes on: on the same folder, under torchrun's restarts, with other settings."""

import json
from dataclasses import replace

import pytest
import torch

from esvit_fast.config import ConfigError, TrainConfig, load_config
from esvit_fast.parallel.ranks import accumulation_steps, micro_batch
from esvit_fast.runs.metrics import read_metrics
from esvit_fast.training import Ranks, pretrain, resume
from esvit_fast.training import run as training_run
from esvit_fast.training.planning.planner import plan_run

from .runs import CPU, Silent, small, start, with_data


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of three steps that a launch of torchrun began."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "launch-1")
    start(tmp_path / "run", small(epochs=0.5))
    return tmp_path / "run"


def again(run, monkeypatch, restarts, launch="launch-1", config=None, **options):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", launch)
    return pretrain(config or small(epochs=0.5), run, CPU, Silent(), **options)


def test_a_restart_of_the_same_launch_goes_on(run, monkeypatch):
    assert json.loads((run / "environment.json").read_text())["launch"] == "launch-1"
    assert again(run, monkeypatch, 1).step == 3


@pytest.mark.parametrize(("restarts", "launch"), [(0, "launch-1"), (1, "launch-2"), (1, "none")])
def test_a_run_of_somebody_else_is_not_gone_on_with(run, monkeypatch, restarts, launch):
    with pytest.raises(ValueError, match=r"already holds a run; continue it with .*, pass --resume, or choose another"):
        again(run, monkeypatch, restarts, launch)
    assert again(run, monkeypatch, restarts, launch, or_resume=True).step == 3


def test_launches_without_a_name_own_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    start(tmp_path / "run", small(epochs=0.5))
    with pytest.raises(ValueError, match="already holds a run"):
        again(tmp_path / "run", monkeypatch, 1, "none")


def test_of_two_launches_that_begin_at_once_one_is_refused(tmp_path, monkeypatch):
    run, prepare = tmp_path / "run", training_run._inputs

    def slowly(*args):
        monkeypatch.setattr(training_run, "_inputs", prepare)
        start(run, small(epochs=0.5, seed=1))  # the other is faster
        return prepare(*args)

    monkeypatch.setattr(training_run, "_inputs", slowly)
    with pytest.raises(ValueError, match="already holds a run"):
        start(run, small(epochs=0.5))
    assert load_config(run / "config.yaml").train.seed == 1


def test_or_resume_begins_what_is_not_there(tmp_path):
    assert pretrain(small(epochs=0.5), tmp_path / "run", CPU, Silent(), or_resume=True).step == 3


def test_other_settings_are_refused_with_the_difference(run, monkeypatch):
    config = replace(small(epochs=0.5, seed=3), model=replace(small().model, drop_path_rate=0.2))
    message = r"began with other settings: model\.drop_path_rate=0\.1 would become 0\.2, train\.seed=0 would become 3; "
    before = (run / "config.yaml").read_bytes()
    for call in (lambda: again(run, monkeypatch, 1, config=config), lambda: resume(run, CPU, Silent(), config)):
        with pytest.raises(ConfigError, match=message):
            call()
    assert (run / "config.yaml").read_bytes() == before


def test_what_cures_a_run_may_change_on_purpose_and_is_told(tmp_path, monkeypatch):
    run, config = tmp_path / "run", small(epochs=0.5, precision="bf16")
    start(run, config)
    train = replace(config.train, epochs=1, learning_rate=1e-3, precision="fp16", micro_batch_size=4)
    cured = replace(config, train=train, method=replace(config.method, centering="sinkhorn"))
    with pytest.raises(ConfigError, match=r"train\.epochs=0\.5 would become 1.*; pass them to `esvit-fast"):
        again(run, monkeypatch, 1, config=cured, or_resume=True)
    assert resume(run, CPU, Silent(), cured).step == 6
    assert load_config(run / "config.yaml") == cured
    records = read_metrics(run / "metrics.jsonl")
    (told,) = (record for record in records if record["kind"] == "settings")
    assert told["step"] == 3 and told["changed"] == {
        "method.centering": ["mean", "sinkhorn"],
        "train.epochs": ["0.5", "1"],
        "train.learning_rate": ["0.03", "0.001"],
        "train.precision": ["bf16", "fp16"],
    }
    assert [record["step"] for record in records if record["kind"] == "train"] == [1, 2, 3, 4, 5, 6]


def test_settings_that_compute_the_same_may_change_and_are_kept(run):
    config = with_data(small(epochs=0.5, micro_batch_size=4, checkpoint_every_steps=1), workers=1)
    config = replace(config, model=replace(config.model, checkpoint_stages=(0,)))
    resume(run, CPU, Silent(), config)
    assert load_config(run / "config.yaml") == config


def test_a_folder_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match=r"cannot be a folder: '.*file' is a file; choose another"):
            start(out, small())
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    monkeypatch.setattr("esvit_fast.training.run.open_source", None)  # it is not come to
    with pytest.raises(ValueError, match=r"cannot be written: no permission in '.*'; choose another folder"):
        start(tmp_path / "a" / "run", small())
    assert not (tmp_path / "a").exists()


def test_a_run_on_some_ranks_only_needs_a_shared_folder(run, monkeypatch):
    monkeypatch.setattr("esvit_fast.training.start.gather", lambda items: [*items, False])
    with pytest.raises(ValueError, match="holds a run on 1 of 2 ranks; it must be a folder that all share"):
        resume(run, CPU, Silent())


@pytest.mark.parametrize(
    ("world_size", "steps", "micro", "expected"),
    [(1, 1, 0, 1), (8, 1, 0, 1), (2, 4, 0, 4), (1, 1, 64, 8), (8, 1, 64, 1), (32, 1, 64, 1), (4, 1, 60, 4)],
)
def test_the_batch_is_the_same_on_any_number_of_ranks(world_size, steps, micro, expected):
    train = TrainConfig(batch_size=512, accumulation_steps=steps, micro_batch_size=micro)
    assert accumulation_steps(train, world_size) == expected
    assert train.batch_size % (world_size * expected) == 0
    assert not micro or train.batch_size // (world_size * expected) <= micro


@pytest.mark.parametrize(
    ("batch", "world_size", "steps", "micro", "ways"),
    [
        (512, 3, 1, 0, "start 2 or 4 ranks, or pass --train.batch-size 510 or 513"),
        (512, 3, 1, 64, "start 2 or 4 ranks, or pass --train.batch-size 510 or 513"),
        (7, 2, 1, 0, "start 1 or 7 ranks, or pass --train.batch-size 6 or 8"),
        (8, 16, 1, 0, "start 8 ranks, or pass --train.batch-size 16"),
        (512, 8, 128, 0, "start 4 ranks, or pass --train.accumulation-steps 64, or pass --train.batch-size 1024"),
    ],
)
def test_ranks_that_do_not_divide_the_batch(batch, world_size, steps, micro, ways, tmp_path, monkeypatch):
    train = TrainConfig(batch_size=batch, accumulation_steps=steps, micro_batch_size=micro)
    monkeypatch.setattr("esvit_fast.training.run.open_source", None)  # it is not come to
    with pytest.raises(ConfigError) as raised:
        pretrain(replace(small(), train=train), tmp_path / "run", Ranks(0, world_size, torch.device("cpu")), Silent())
    assert str(raised.value) == (
        f"train.batch_size={batch} is not divisible by world_size={world_size} x accumulation_steps={steps}; {ways}"
    )


@pytest.mark.parametrize(
    ("world_size", "settings", "why", "size"),
    [
        (1, {"accumulation_steps": 8}, "train.accumulation_steps=8", "batch"),
        (8, {"micro_batch_size": 4}, "train.accumulation_steps=1", "batch"),
        (2, {"micro_batch_size": 1}, "train.micro_batch_size=1", "micro-batch"),
    ],
)
def test_koleo_needs_two_images_at_a_time(world_size, settings, why, size, tmp_path, monkeypatch):
    config, ranks = small(**settings), Ranks(0, world_size, torch.device("cpu"))
    config = replace(config, method=replace(config.method, koleo_weight=0.1))
    monkeypatch.setattr("esvit_fast.training.run.open_source", None)  # it is not come to
    for run in (lambda: pretrain(config, tmp_path / "run", ranks, Silent()), lambda: plan_run(config, ranks)):
        with pytest.raises(ConfigError) as raised:
            run()
        assert str(raised.value) == (
            f"method.koleo_weight=0.1 needs 2 images at a time, but train.batch_size=8 leaves 1 with {why} on "
            f"{world_size} ranks; raise the {size} size or set the weight to 0"
        )
    plain = replace(config, method=replace(config.method, koleo_weight=0.0))
    assert micro_batch(plain, world_size) == 1
