"""Options: a mistake is one line that names the option, its value and the remedy; settings come as YAML has them."""

import argparse
import importlib
import io
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table

from esvit_fast.cli.main import COMMANDS, main
from esvit_fast.cli.options import Parser, UsageError, in_flags
from esvit_fast.cli.settings import add_settings, as_words, changed, configured, what_it_does
from esvit_fast.cli.tables import show
from esvit_fast.config import Config, load_config, settings
from tests.packaging.tree import PACKAGE, ROOT

from .test_cli import fails

MISTAKES = {
    "pretrain --recipe sample --train.batch-sise 3": "--train.batch-sise is no option of `esvit-fast pretrain`; "
    "did you mean '--train.batch-size'?",
    "pretrain --recipe sample --batch-size 3": "did you mean '--train.batch-size'?",
    "pretrain --recipe sample --lr 3": "--lr is no option of `esvit-fast pretrain`; did you mean "
    "'--train.learning-rate'?",
    "pretrain --recipe sample --datta=x": "--datta is no option of `esvit-fast pretrain`; did you mean '--data'?",
    "pretrain --recipe sample --qqqqqq": "`esvit-fast pretrain --help` tells what it takes",
    "pretrain --recipe sample --train.precision fp8": "--train.precision='fp8' must be one of ",
    "pretrain --recipe sample --train.epochs many": "--train.epochs='many' must be a number",
    "pretrain --recipe sample --train.batch-size 2.5": "--train.batch-size='2.5' must be of type int",
    "pretrain --recipe sample --train.batch-size -3": "--train.batch-size=-3 must be greater than 0",
    "pretrain --recipe sample --train.epochs": "--train.epochs lacks its value",
    "pretrain --recipe sample --data.crops.global-scale 1": "--data.crops.global-scale lacks its 2 values",
    "pretrain --recipe sample --data.crops.local-sizes 96 x": "--data.crops.local-sizes='x' must be a number",
    "pretrain --recipe sample --train.shard=yes": "--train.shard='yes' takes no value",
    "pretrain --recipe sample more": "'more' is one word too many for `esvit-fast pretrain`",
    "pretrain --recipe sample": "--out is missing",
    "pretrain --recipe sample --out x --profile -1": "--profile=-1 must not be negative",
    "pretrain --recipe sample --profile x": "--profile='x' must be a number",
    "pretrain --recipe swin_tiny_w7 --out x": "--data is missing; pass images: A folder, a list",
    "pretrain --recipe swin_tiny_w7 --out": "--out lacks its value",
    "resume": "RUN is missing: the folder that `pretrain --out` was given",
    "resume --train.loggers tensorboard runs/a": "was given; put RUN first, before an option that takes all words",
    "resume --trian.epochs 3": "did you mean '--train.epochs'?",
    "plan --recipe sample --wrold-size 2": "did you mean '--world-size'?",
    "eval knnn x": "what='knnn' must be one of knn, linear, correspondence; did you mean 'knn'?",
    "eval knn": "WEIGHTS is missing: a run, or a .safetensors file",
    "eval knn --bnak 3 x": "--bnak is no option of `esvit-fast eval`; did you mean '--bank'?",
    "report --bank x runs/a": "--bank='x' must be a number",
    "data chekc x": "what='chekc' must be one of check, pack, preview; did you mean 'check'?",
    "data check": "SOURCE is missing: images: a folder",
    "data preview x --data.crops.global-sise 3": "did you mean '--data.crops.global-size'?",
    "demo --oot x": "--oot is no option of `esvit-fast demo`; did you mean '--out'?",
    "doctor --verbose": "--verbose is no option of `esvit-fast doctor`",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line(capsys, line):
    assert MISTAKES[line] in fails(capsys, *line.split())


def test_every_command_has_such_a_parser():
    for path in (PACKAGE / "cli").glob("*.py"):
        assert "argparse.ArgumentParser(" not in path.read_text().replace("class Parser(argparse.ArgumentParser)", "")


@pytest.mark.parametrize("command", ["pretrain", "resume", "plan", "demo", "doctor", "models"])
def test_help_and_mistakes_do_not_wait_for_torch(command):
    code = (
        "import sys\nfrom esvit_fast.cli.main import main\n"
        f"for argv in (['{command}', '--help'], ['{command}', '--no-such-option']):\n"
        "    try: main(argv)\n    except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: esvit-fast" in done.stdout


def read(*words):
    """A configuration that a command line makes of the defaults."""
    parser = Parser("pretrain", "")
    add_settings(parser)
    args = parser.parse_args(words)
    return changed(Config(), args.settings), args.settings


def test_a_yaml_file_of_the_users_own_is_a_recipe(capsys, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("train: {batch_size: 64, warmup_epochs: 2}\ndata: {crops: {local_counts: [2]}}\n")
    _, found = configured(Parser("pretrain", ""), ["--recipe", str(recipe), "--train.epochs", "20"])
    train = replace(Config().train, batch_size=64, warmup_epochs=2.0, epochs=20.0)
    data = replace(Config().data, crops=replace(Config().data.crops, local_counts=(2,)))
    assert found == replace(Config(), train=train, data=data)
    recipe.write_text("train: {bathc_size: 64}\n")
    told = "mine.yaml: train: unknown key 'bathc_size'; did you mean 'batch_size'?\n"
    assert fails(capsys, "pretrain", "--recipe", recipe) == f"esvit-fast: error: {told}"
    recipe.write_text("train: {batch_size: 0}\n")
    told = "--train.batch-size=0 must be greater than 0\n"
    assert fails(capsys, "pretrain", "--recipe", recipe) == f"esvit-fast: error: {told}"


def test_settings_are_read_as_yaml_reads_them():
    words = (
        "--train.batch-size 64 --train.learning_rate=1e-4 --data.crops.local-sizes 96 64 --data.crops.local-counts 2 2"
    )
    words += " --train.shard --method.match-dtype bfloat16 --data.augment.mean 0 0.5 1 --train.loggers"
    found, given = read(*words.split())
    assert (found.train.batch_size, found.train.learning_rate, found.train.shard) == (64, 1e-4, True)
    assert found.data.crops.local_sizes == (96, 64) and found.data.augment.mean == (0.0, 0.5, 1.0)
    assert found.method.match_dtype == "bfloat16" and found.train.loggers == ()
    assert read(*as_words(given)) == (found, given)
    assert read("--method.match-dtype", "none")[0] == read("--train.shard", "--train.no-shard")[0] == Config()


def test_help_lists_every_setting_with_its_value_and_what_it_does(capsys):
    parser = Parser("pretrain", "")
    add_settings(parser, load_config("sample"))
    text = " ".join(parser.format_help().split())
    for name, _ in settings(Config()):
        assert f"--{name.replace('_', '-')}" in text
    assert "Images per optimiser step, over all ranks and accumulation steps. (128)" in text
    assert all(what_it_does(name).split(".")[0] in text for name in ("train.compile", "data.decode"))


def test_help_of_resume_lists_what_may_change_as_the_run_has_it(capsys, tmp_path):
    from esvit_fast.config import save_config

    from ..training.runs import small

    save_config(small(learning_rate=0.125), tmp_path / "config.yaml")
    with pytest.raises(SystemExit):
        main(["resume", str(tmp_path), "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "--train.micro-batch-size" in out and "(0.125)" in out
    assert "--train.seed" not in out and "--method.out-dim" not in out


def test_only_the_word_that_is_the_run_is_read_for_its_settings(capsys, tmp_path):
    images = tmp_path / "imgs"
    images.mkdir()
    (images / "config.yaml").write_text("of: somebody else")
    assert "holds no run" in fails(capsys, "resume", "--data", str(images), str(tmp_path / "run"))
    for words in (["--data", str(images), str(tmp_path / "run")], [str(images)]):
        with pytest.raises(SystemExit):
            main(["resume", *words, "--help"])
        assert "--train.micro-batch-size" in capsys.readouterr().out


def test_messages_name_options_where_the_command_has_them():
    parser = Parser("pretrain", "")
    parser.add_argument("--out")
    add_settings(parser)
    parser.parse_args([])
    assert in_flags("train.batch_size=3 is odd; pass --train.seed 1 or data.source='a/train.epochs'") == (
        "--train.batch-size=3 is odd; pass --train.seed 1 or --data.source='a/train.epochs'"
    )
    assert in_flags("out='x' is taken") == "--out='x' is taken"
    assert in_flags("device='cuda' needs a GPU") == "--train.device='cuda' needs a GPU"
    assert in_flags("seeds=3 is odd") == "seeds=3 is odd"
    assert in_flags("run='out' is none, see data.train.seed") == "run='out' is none, see data.train.seed"
    Parser("doctor", "").parse_args([])
    assert in_flags("train.batch_size=3") == "train.batch_size=3"


def test_what_argparse_says_otherwise_is_one_line_too():
    parser = Parser("doctor", "")
    parser.add_argument("--kind", type=lambda word: (_ for _ in ()).throw(argparse.ArgumentTypeError("is odd")))
    with pytest.raises(UsageError, match=r"^--kind: is odd; `esvit-fast doctor --help` tells what it takes$"):
        parser.parse_args(["--kind", "x"])


@pytest.mark.parametrize("width", [30, 60, 80])
@pytest.mark.parametrize("terminal", [True, False])
def test_tables_are_not_cut(width, terminal):
    out = io.StringIO()
    table = Table("operator", "why", box=None)
    table.add_row(
        "prototype_cross_entropy", "a reason that is longer than any terminal here is wide, much longer it is"
    )
    show(table, Console(file=out, width=width, force_terminal=terminal, color_system=None))
    text = out.getvalue()
    assert "prototype_cross_entropy" in text and "…" not in text
    said = "".join(line.removeprefix(" prototype_cross_entropy").strip() for line in text.splitlines()[1:])
    assert said.replace(" ", "").endswith("longer than any terminal here is wide, much longer it is".replace(" ", ""))
    assert terminal or len(text.splitlines()) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_there(command):
    module = importlib.import_module(f"esvit_fast.cli.{COMMANDS[command][0]}")
    assert callable(getattr(module, command))
