"""`eval` and `report`: the same numbers from the same defaults, and what they hang on."""

import builtins
import dataclasses
import errno
import json
import os
import shutil
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from esvit_fast.cli.evaluate import _parser, _settings
from esvit_fast.cli.options import UsageError
from esvit_fast.config import load_config, save_config
from esvit_fast.data import open_source
from esvit_fast.evaluation import (
    Bench,
    Needs,
    Protocol,
    Settings,
    Task,
    default_suite,
    evaluate,
    extract_features,
    get_protocol,
    knn,
    list_protocols,
    setting,
)
from esvit_fast.models import create_model
from tests.evaluation.stand_ins import registering
from tests.training.runs import small, start, with_data

from .calls import call, fails, images


@pytest.fixture(scope="module")
def run(run, tmp_path_factory):
    """The run of this folder's tests, of few images in two splits."""
    out = tmp_path_factory.mktemp("evaluate")
    images(out / "data" / "train", ("a", "b", "c"), each=6), images(out / "data" / "test", ("a", "b", "c"), each=4)
    shutil.copytree(run, out / "run")
    save_config(with_data(load_config(run / "config.yaml"), source=str(out / "data")), out / "run" / "config.yaml")
    return out / "run"


def evaluated(capsys, *arguments):
    """What `eval --json` prints; nothing else may be on standard output."""
    code, out, _ = call(capsys, "eval", *arguments, "--json")
    assert code == 0
    return json.loads(out)


def test_the_table_says_what_its_numbers_hang_on(capsys, run):
    code, out, _ = call(capsys, "eval", "knn", run, "--k", "5", "10")
    assert code == 0
    assert out.split()[:5] == ["k", "top-1", "%", "top-5", "%"]
    for words in (
        "/data, 12 test images among 18 training images, 3 classes, chance 33.3 %",
        "settings: k 5 10, temperature 0.07",
        "transform: short side to 37 px, central 32 x 32 px",
    ):
        assert words in out
    code, out, _ = call(capsys, "eval", "linear", run, "--epochs", "2", "--blocks", "2", "--bank", "15")
    assert code == 0 and "learning rate" in out and "settings: blocks 2, epochs 2, seed 0" in out
    assert "15 of 18 training images drawn" in out
    code, out, _ = call(capsys, "eval", "correspondence", run, "--pair-images", "8")
    assert code == 0 and out.split().index("published") < out.split().index("crops")
    records = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert [r["protocol"] for r in records] == ["knn", "linear", "correspondence"]
    assert all(r["weights"] == {"model": "swin_nano_w4", "step": "3", "samples": "24"} for r in records)


def test_report_and_eval_give_one_number(capsys, run):
    code, out, err = call(capsys, "report", run, "--json")
    assert code == 0
    page, report = (run / "report.html").read_text(), json.loads(out)
    for protocol in ("knn", "linear", "correspondence"):
        alone = evaluated(capsys, protocol, run, "--untrained")
        for network, rows in alone.pop("numbers").items():
            assert report[protocol]["numbers"][network] == rows
        if protocol == "knn":
            assert report[protocol]["settings"].pop("raw_pixels") == "32 x 32"
        assert alone == {name: value for name, value in report[protocol].items() if name != "numbers"}
    best = report["knn"]["numbers"]["trained"][-1]
    assert best["k"] == 18 and f"{best['top1']:.1f}<small>" in page and "the 18 nearest of 18 training images" in page
    assert "<script" not in page and "://" not in page.replace("http://www.w3.org", "")
    for part in ("k-NN", "linear", "<svg", "data:image/png;base64,"):
        assert part in page
    # in a log, every part is told when it begins
    lines = err.splitlines()
    for words in ("trained, features of training images: 18 of 18", "untrained, linear probe: 1 of 100", "pictures: 0"):
        assert any(line.startswith(words) for line in lines)


def test_k_is_lowered_to_a_small_bank_unless_it_was_asked_for(capsys, run, tmp_path):
    folder = images(tmp_path / "labelled", ("a", "b"), each=10)
    found = evaluated(capsys, "knn", run, "--data", folder)
    assert found["settings"]["k"] == [10, 18] and (found["bank"], found["queries"]) == (18, 2)
    assert found["remarks"] == [
        "no test split of its own: a tenth of the images is held out, and not among the neighbours"
    ]
    assert "k=19 must lie between 1 and the 18 images" in fails(capsys, "eval", "knn", run, "--k", "19")
    assert "bank=-3 must be 0 or more" in fails(capsys, "eval", "knn", run, "--bank", "-3")


def test_untrained_weights_are_those_that_the_run_started_from(capsys, run):
    found = evaluated(capsys, "knn", run, "--untrained", "--k", "3")
    torch.manual_seed(small().train.seed)
    model = create_model("swin_nano_w4")
    sides = [extract_features(model, open_source(str(run.parent / "data"), split)) for split in ("train", "test")]
    assert found["numbers"]["untrained"][0]["top1"] == pytest.approx(knn(*sides, k=(3,))[3].top1)
    assert set(found["numbers"]) == {"trained", "untrained"}


def test_a_file_of_weights_names_its_own_model(capsys, run, tmp_path):
    arguments = ("--data", run.parent / "data", "--k", "5")
    file = run / "model.safetensors"
    assert evaluated(capsys, "knn", file, *arguments)["numbers"] == evaluated(capsys, "knn", run, "--k", "5")["numbers"]
    assert "--data is missing" in fails(capsys, "eval", "knn", file)
    save_file(load_file(file), tmp_path / "bare.safetensors")
    message = fails(capsys, "eval", "knn", tmp_path / "bare.safetensors", *arguments)
    assert "--model is missing" in message and "does not say which architecture it is of" in message
    assert evaluated(capsys, "knn", tmp_path / "bare.safetensors", "--model", "swin_nano_w4", *arguments)["bank"] == 18


def test_mistakes_of_weights(capsys, run, tmp_path):
    arguments = ("--data", "sample:50", "--k", "5")
    message = fails(capsys, "eval", "knn", run / "model.safetensors", "--model", "swin_tiny_w7", *arguments)
    assert "is of another architecture" in message and "create the model that the weights were trained with" in message
    (tmp_path / "torn.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:5000])
    for model in ((), ("--model", "swin_nano_w4")):
        message = fails(capsys, "eval", "knn", tmp_path / "torn.safetensors", *model, *arguments)
        assert "is not a whole safetensors file" in message
        message = fails(capsys, "eval", "knn", tmp_path / "none.safetensors", *model, *arguments)
        assert "is neither a run directory nor a .safetensors file" in message


def test_a_run_that_cannot_be_written_is_evaluated_all_the_same(capsys, run, tmp_path, monkeypatch):
    blocked = tmp_path / "blocked"
    shutil.copytree(run, blocked, ignore=shutil.ignore_patterns("evaluations.jsonl", "report.html"))
    (blocked / "evaluations.jsonl").mkdir()
    code, out, err = call(capsys, "eval", "knn", blocked, "--k", "5")
    assert code == 0 and "top-1 %" in out
    assert err.splitlines()[-1].startswith("not kept in ") and err.strip().endswith(
        "evaluations.jsonl': Is a directory"
    )
    really = builtins.open

    def read_only(file, mode="r", *rest, **options):
        if str(file).startswith(str(run)) and set(mode) & set("wax+"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))
        return really(file, mode, *rest, **options)

    monkeypatch.setattr(builtins, "open", read_only)
    code, out, err = call(capsys, "eval", "linear", run, "--epochs", "1", "--json")
    assert code == 0 and json.loads(out)["bank"] == 18 and "Read-only file system" in err


def test_a_page_that_cannot_be_written_is_said_before_the_work(capsys, run, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: not str(path).startswith(str(run)))
    monkeypatch.setattr("esvit_fast.cli.report.evaluate_run", lambda *_, **__: pytest.fail("worked first"))
    assert "report.html' cannot be written; pass another file as --out" in fails(capsys, "report", run)
    monkeypatch.undo()
    assert call(capsys, "report", run, "--out", tmp_path / "page.html", "--bank", "9", "--queries", "5")[0] == 0
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_report_of_unlabelled_images(capsys, tmp_path):
    folder = images(tmp_path / "images", each=20)
    start(tmp_path / "run", with_data(small(epochs=1), source=str(folder)))
    assert call(capsys, "report", tmp_path / "run")[0] == 0
    assert "data:image/png;base64," in (tmp_path / "run" / "report.html").read_text()
    assert evaluated(capsys, "correspondence", tmp_path / "run")["queries"] == 20


def test_a_source_that_has_no_test_split_holds_images_out_as_training_does(capsys, run, tmp_path):
    data = images(tmp_path / "data" / "train", ("a", "b"), each=10).parent
    shutil.copytree(run, tmp_path / "run")
    save_config(with_data(load_config(run / "config.yaml"), source=str(data)), tmp_path / "run" / "config.yaml")
    rule = "no test split of its own: a tenth of the images is held out, and not among the neighbours"
    for protocol, options in {"knn": (), "linear": ("--epochs", "1")}.items():
        found = evaluated(capsys, protocol, tmp_path / "run", *options)
        assert (found["bank"], found["queries"], found["remarks"]) == (18, 2, [rule])
    assert evaluated(capsys, "correspondence", tmp_path / "run")["queries"] == 20
    assert call(capsys, "report", tmp_path / "run")[0] == 0
    assert rule[1:] in (tmp_path / "run" / "report.html").read_text()


def test_correspondence_is_judged_on_test_images_whatever_their_classes(capsys, run, tmp_path):
    """Each is named in the result; the training images are broken, or the test images where these must not be read."""
    plain = images(tmp_path / "plain", ("train", "test"), each=5)
    others = images(tmp_path / "others" / "train", ("a", "b"), each=5).parent
    images(others / "test", ("c", "d"), each=4)
    for data, count in ((plain, 5), (others, 8)):
        for file in (data / "train").rglob("*.png"):
            file.write_bytes(b"no image")
        found = evaluated(capsys, "correspondence", run, "--data", data)
        assert (found["queries"], found["data"]) == (count, f"{data}, test split")
    lone = images(tmp_path / "lone" / "train", ("a", "b"), each=3).parent
    assert evaluated(capsys, "correspondence", run, "--data", lone)["data"] == f"{lone}, training split"
    bare = images(tmp_path / "bare", ("a",), each=1)
    found = evaluated(capsys, "correspondence", run, "--data", bare)
    assert (found["queries"], found["data"]) == (1, str(bare))


def test_a_seed_that_no_generator_takes(capsys, run):
    assert (
        "--seed=1180591620717411303424 must be -9223372036854775808 or more and at most 18446744073709551615"
        in fails(capsys, "eval", "linear", run, "--seed", 2**70)
    )


def test_an_option_that_the_protocol_does_not_read_is_refused(capsys, run):
    for protocol, options in {
        "knn": ("--blocks 2", "--epochs 100", "--seed 0", "--pair-images 9"),
        "linear": ("--temperature 0.07", "--k 5 10"),
        "correspondence": ("--k 5", "--bank 9", "--queries 3"),
    }.items():
        for option in options:
            message = fails(capsys, "eval", protocol, run, *option.split())
            assert f"{option.replace(' ', '=', 1)} is read by `eval " in message
            assert f"not by `eval {protocol}`; leave it out" in message
    assert "by `eval linear` and `eval correspondence`" in fails(capsys, "eval", "knn", run, "--seed", "0")


@pytest.mark.parametrize("protocol", [protocol.name for protocol in list_protocols()])
def test_what_a_protocol_is_said_to_read_is_what_it_reads(protocol):
    read, known = set(), get_protocol(protocol).Settings

    class Watched(known):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    settings, task = Watched(), Task(open_source("sample:30"))
    read.clear()
    evaluate(protocol, Bench({"trained": create_model("swin_nano_w4")}), task, settings)
    names = {field.name for field in dataclasses.fields(known)}
    assert read & names == names


def test_results_are_kept_in_runs_alone(capsys, run, tmp_path):
    (tmp_path / "weights").mkdir()
    shutil.copy(run / "model.safetensors", tmp_path / "weights")
    data = ("--data", run.parent / "data", "--k", "5")
    assert evaluated(capsys, "knn", tmp_path / "weights", *data)["bank"] == 18
    assert [file.name for file in (tmp_path / "weights").iterdir()] == ["model.safetensors"]


@dataclasses.dataclass(frozen=True)
class Flags(Settings):
    whole: bool = setting(False, "all of it")
    kind: Literal["plain", "fancy"] = setting("plain", "which")
    note: str | None = setting(None, "a word", default_is="none, 100 % of the times")
    rates: tuple[float, ...] = setting((0.1, 1.0), "of steps")
    seed: int = setting(3, "of draws")


class Flagged(Protocol):
    name, description, needs, Settings = "flagged", "Takes options of every type.", Needs(), Flags
    columns, in_suite = (("whole", "whole"),), False

    def run(self, bench, task, settings):
        raise NotImplementedError


def test_settings_of_every_type_are_options():
    with registering() as register:
        register(Flagged)
        words = ["flagged", "run", "--whole", "--kind", "fancy", "--note", "x", "--rates", "1", "2.5", "--seed", "4"]
        args = _parser().parse_args(words)
        assert _settings(args) == Flags(True, "fancy", "x", (1.0, 2.5), 4)
        assert _settings(_parser().parse_args(["flagged", "run", "--no-whole"])) == Flags()
        text = " ".join(_parser().format_help().split())
        for words in (
            "--whole, --no-whole all of it (flagged) (False)",
            "--kind {plain,fancy} which (flagged) (plain)",
            "a word (flagged); by default none, 100 % of the times",
            "of steps (flagged) (0.1 1.0)",
            "of the classifiers and of pairs of views and of draws (0) or (3)",
            "flagged Takes options of every type.",
        ):
            assert words in text
        with pytest.raises(UsageError, match="^--kind='fancyy' must be one of plain, fancy; did you mean 'fancy'"):
            _parser().parse_args(["flagged", "run", "--kind", "fancyy"])
        assert "flagged" not in [entry.protocol for entry in default_suite()]


def test_settings_of_one_name_are_of_one_type():
    class Clashing(Flagged):
        name = "clashing"

        @dataclasses.dataclass(frozen=True)
        class Settings(Flags):
            k: int = setting(5, "neighbours")

    with registering() as register:
        register(Clashing)
        with pytest.raises(UsageError, match="setting 'k' of protocol 'clashing' is of another type than in 'knn'"):
            _parser()
