"""A run that collapses says so, where everybody looks, and stops if that is asked; its records go to loggers."""

import io
import math
import sys
import types
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from esvit_fast.runs.checkpoint import load_latest
from esvit_fast.runs.loggers import open_loggers
from esvit_fast.runs.metrics import read_metrics
from esvit_fast.training import Trainer, pretrain, resume
from esvit_fast.training.monitoring.diagnostics import Collapsed
from esvit_fast.training.monitoring.progress import BarReporter, LineReporter

from .runs import CPU, Silent, go_on, small, start

WARNING = {
    "kind": "warning", "step": 30, "samples": 240, "epoch": 5.0, "finding": "uniform collapse", "since": 10,
    "evidence": "view teacher entropy 2.77", "remedy": "lower method.teacher_temp=5 to 0.04",
}  # fmt: skip


def collapsing(**train):
    """A teacher without opinions, from the first step on."""
    config = small(epochs=4, **train)
    return replace(config, method=replace(config.method, teacher_temp=5.0, teacher_temp_start=5.0))


def with_epochs(config, epochs):
    return replace(config, train=replace(config.train, epochs=epochs))


def warnings(run):
    return [record for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "warning"]


class Service(types.ModuleType):
    """What W&B and trackio have in common."""

    Error = type("Error", (Exception,), {})

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = types.SimpleNamespace(name=name)
        self.settings, self.logged, self.alerts, self.finished = [], [], [], 0

    def init(self, **settings):
        self.settings.append(settings)
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def alert(self, title, text):
        self.alerts.append((title, text))

    def finish(self):
        self.finished += 1


@pytest.fixture(scope="module")
def told():
    """What W&B is told of the run `collapsed`."""
    return Service("wandb")


@pytest.fixture(scope="module")
def collapsed(tmp_path_factory, told):
    run, reporter = tmp_path_factory.mktemp("run") / "collapsed", Silent()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "wandb", told)
        pretrain(collapsing(loggers=("wandb",)), run, CPU, reporter)
    assert reporter.warnings == warnings(run)
    return run


def test_a_collapse_is_recorded_once_and_the_run_goes_on(collapsed):
    first = warnings(collapsed)[0]
    assert (first["finding"], first["step"], first["since"]) == ("uniform collapse", 22, 2)
    assert first["samples"] == 22 * 8 and "of ln K = 2.773" in first["evidence"]
    assert first["remedy"] == "lower method.teacher_temp=5 and method.teacher_temp_start=5 to 0.04"
    assert len({record["finding"] for record in warnings(collapsed)}) == len(warnings(collapsed))
    assert read_metrics(collapsed / "metrics.jsonl")[-1]["step"] == load_latest(collapsed / "checkpoints").step == 24


def test_a_run_that_is_asked_to_stops_with_what_it_has_learned_and_can_go_on(collapsed, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(Collapsed, match=r"stopped and saved at step 22 \(train\.stop_on_collapse\): uniform collapse"):
        start(run, collapsing(stop_on_collapse=True))
    assert load_latest(run / "checkpoints").step == 22
    assert go_on(run).step == 24
    assert warnings(run) == warnings(collapsed), "what was told is told once"


def test_what_starts_it_again_does_not_go_on_with_it(tmp_path, monkeypatch):
    run, config = tmp_path / "run", collapsing(stop_on_collapse=True)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "launch")
    for restarts, or_resume in ((0, False), (1, False), (0, True)):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        with pytest.raises(Collapsed, match="stopped and saved at step 22 .*: uniform collapse since step 2"):
            pretrain(config, run, CPU, Silent(), or_resume=or_resume)
    assert load_latest(run / "checkpoints").step == 22 and len(warnings(run)) == 1


def test_a_run_that_is_found_to_collapse_by_its_last_step_is_complete(tmp_path):
    outcome = start(tmp_path / "run", with_epochs(collapsing(stop_on_collapse=True), 22 / 6))
    assert (outcome.step, outcome.total_steps, outcome.signal) == (22, 22, None)
    assert warnings(tmp_path / "run")[0]["step"] == 22


def test_a_resumed_run_remembers_what_it_saw(collapsed, tmp_path):
    class Stopped(RuntimeError):
        pass

    class Stopping(Silent):
        def step(self, step, record):
            if step == 20:
                raise Stopped

    run = tmp_path / "run"
    with pytest.raises(Stopped):
        pretrain(collapsing(checkpoint_every_steps=7), run, CPU, Stopping())
    assert load_latest(run / "checkpoints").step == 14 and warnings(run) == []
    resume(run, CPU, Silent())
    assert warnings(run) == warnings(collapsed)


def test_the_first_step_is_logged_whatever_the_interval(tmp_path):
    start(tmp_path / "run", small(log_every_steps=5))
    assert [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1, 5, 10, 12]


def test_warnings_are_shown(capsys):
    LineReporter().warning(WARNING)
    said = "warning: uniform collapse since step 10: view teacher entropy 2.77; lower method.teacher_temp=5 to 0.04\n"
    assert capsys.readouterr().err == said
    screen = io.StringIO()
    BarReporter(Console(file=screen, force_terminal=True, color_system="standard", width=200)).warning(WARNING)
    assert f"\x1b[33m{said.strip()}\x1b[0m" in screen.getvalue()


@pytest.mark.parametrize(("precision", "device", "said"), [("fp16", "cpu", 1), ("fp16", "cuda", 0), ("bf16", "cpu", 0)])
def test_a_slow_precision_is_shown(capsys, precision, device, said):
    trainer = Trainer(small(precision=precision), 48, CPU)
    trainer.ranks = replace(CPU, device=torch.device(device))
    reporter = LineReporter()
    reporter.start(trainer)
    reporter.stop()
    assert capsys.readouterr().err.count("pass --train.precision fp32\n") == said
    screen = io.StringIO()
    reporter = BarReporter(Console(file=screen, force_terminal=True, color_system="standard", width=200))
    reporter.start(trainer)
    reporter.stop()
    assert screen.getvalue().count("\x1b[33mwarning: train.precision=fp16 is slow on CPUs") == said


def events(folder):
    """Scalars by name, [(step, value)], and names of texts."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder)).Reload()
    scalars = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    return scalars, found.Tags()["tensors"]


def test_tensorboard_has_the_records_and_none_twice(tmp_path):
    pytest.importorskip("tensorboard")
    for done, steps in ((0, range(1, 8)), (4, range(5, 10))):  # killed after the seventh, resumed from the fourth
        (logger,) = open_loggers(small(loggers=("tensorboard",)), tmp_path, done)
        for step in steps:
            logger.write(
                {"kind": "train", "step": step, "samples": 8 * step, "loss": step + done / 100, "lr": math.nan}
            )
        logger.write(WARNING)
        logger.close()
    scalars, texts = events(tmp_path / "tensorboard")
    assert scalars.keys() == {"train/loss"} and texts == ["warning/text_summary"]
    assert [step for step, _ in scalars["train/loss"]] == list(range(1, 10))
    assert [value for _, value in scalars["train/loss"]] == pytest.approx([1, 2, 3, 4, 5.04, 6.04, 7.04, 8.04, 9.04])


def test_tensorboard_hides_what_was_written_before_any_checkpoint(tmp_path):
    pytest.importorskip("tensorboard")
    for loss in (1.0, 2.0):
        (logger,) = open_loggers(small(loggers=("tensorboard",)), tmp_path, 0)
        for step in (1, 2, 3)[: 4 - int(loss)]:
            logger.write({"kind": "train", "step": step, "samples": 8 * step, "loss": loss})
        logger.close()
    assert events(tmp_path / "tensorboard")[0]["train/loss"] == [(1, 2.0), (2, 2.0)]


@pytest.fixture(params=["wandb", "trackio"])
def service(request, monkeypatch):
    module = Service(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


def test_a_run_tells_its_loggers_all_that_it_records(collapsed, told):
    records = [record for record in read_metrics(collapsed / "metrics.jsonl") if record["kind"] == "train"]
    assert [step for step, _ in told.logged] == [record["step"] for record in records]
    for (_, values), record in zip(told.logged, records, strict=True):
        assert values["train/loss"] == record["loss"] and values["train/feature_rank"] == record["feature_rank"]
        assert all(value == record[name.split("/")[1]] for name, value in values.items())
    assert [title for title, _ in told.alerts] == [record["finding"] for record in warnings(collapsed)]
    assert "lower method.teacher_temp=5" in told.alerts[0][1] and told.finished == 1


def test_a_service_goes_on_with_its_run(service, tmp_path):
    for step in (0, 14):
        (logger,) = open_loggers(small(loggers=(service.__name__,)), tmp_path, step)
        logger.write({"kind": "knn", "step": step, "samples": 8 * step, "k": 20, "top1": 50.0, "top5": None})
        logger.write(WARNING)
        logger.close()
    assert service.logged == [(0, {"knn/k": 20, "knn/top1": 50.0}), (14, {"knn/k": 20, "knn/top1": 50.0})]
    text = "uniform collapse: view teacher entropy 2.77; lower method.teacher_temp=5 to 0.04"
    assert service.alerts == [("uniform collapse", text)] * 2 and service.finished == 2
    first, second = service.settings
    assert first == second and first["resume"] == "allow" and first["project"] == "esvit-fast"
    assert first["config"]["train"]["loggers"] == [service.__name__]


def test_each_run_is_one_of_its_own(service, tmp_path):
    config = small(loggers=(service.__name__,))
    for name in "ab":
        (tmp_path / name).mkdir()
        open_loggers(config, tmp_path / name, 0)
    one, other = ((settings.get("id"), settings["name"]) for settings in service.settings)
    assert all(a != b or a is None for a, b in zip(one, other, strict=True))
    assert one[1].startswith("a") and other[1].startswith("b")


def test_a_service_that_refuses_is_one_line(service, tmp_path, monkeypatch):
    def refuse(**settings):
        raise service.Error("api_key not configured (no-tty)\nmore")

    monkeypatch.setattr(service, "init", refuse)
    with pytest.raises(
        ValueError, match=rf"^train\.loggers={service.__name__} cannot begin: api_key not conf.*leave it"
    ):
        start(tmp_path / "run", small(loggers=(service.__name__,)))


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_logger_that_is_not_installed_is_found_before_anything_is_written(name, tmp_path, monkeypatch):
    monkeypatch.setattr("esvit_fast.runs.loggers.find_spec", lambda module: None)
    with pytest.raises(ValueError, match=rf"needs the package {name}, .*`pip install {name}` or .*esvit-fast\[log\]"):
        start(tmp_path / "run", small(loggers=(name,)))
    assert not (tmp_path / "run").exists()
