"""Benchmarks register themselves: each has a file, a command, a section of the report and words for its records."""

from __future__ import annotations

import argparse
import importlib
import sys

import pytest

from benchmarks import operators, registry, run
from benchmarks.measuring.checkout import OPERATORS
from benchmarks.registry import benchmarks, chosen_cases
from benchmarks.report.page import FIRST, page, titles
from benchmarks.report.reading import digest, read

BENCHMARKS = benchmarks()


def parsed(*arguments):
    """What a command makes of arguments."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    for benchmark in BENCHMARKS.values():
        run.add_command(commands, benchmark)
    return parser.parse_args(arguments)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_is_named_as_its_file_and_its_operators_are_known(name):
    rooms = [room for room in registry.ROOMS if importlib.util.find_spec(f"{room}.{name}")]
    assert len(rooms) == 1
    assert {*BENCHMARKS[name].operators} <= {*OPERATORS}
    assert rooms == ["benchmarks.systems"] or name.startswith(OPERATORS)


def test_every_operator_has_a_benchmark_of_its_name():
    assert {*OPERATORS} <= BENCHMARKS.keys()


def test_no_two_share_a_file_of_records_and_every_contest_has_a_section():
    files = [benchmark.file for benchmark in BENCHMARKS.values()]
    assert len(set(files)) == len(files) and {*FIRST} <= {*files}
    contests = {benchmark.file for benchmark in BENCHMARKS.values() if benchmark.modes}
    assert list(titles())[: len(FIRST)] == list(FIRST) and titles().keys() == contests | {"learning"}


def test_every_committed_record_of_a_contest_still_has_its_table():
    """Of whatever age: what a benchmark writes today may have more entries."""
    tables = {benchmark.file: benchmark.table for benchmark in BENCHMARKS.values()}
    shown = [tables[entry.file](entry.record) for entry in read() if entry.file in tables]
    assert len(shown) > 50 and all(shown)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_quick_sets_are_options_that_the_command_has(name):
    required = ["--data", "x"] if name == "loader" else []
    args, benchmark = parsed(name, *required), BENCHMARKS[name]
    assert {*benchmark.quick} <= vars(args).keys()
    assert {*benchmark.quick.get("contestants", [])} <= {*benchmark.contestants}
    if "contestants" not in benchmark.quick:
        assert "torch.compile" not in benchmark.contestants  # which takes longer than seconds


def test_options_of_a_benchmark_stand_in_place_of_the_common_ones():
    assert parsed("linear").device == "cpu" and not hasattr(parsed("linear"), "dtype")
    assert parsed("prototype_cross_entropy", "--batch", "8", "32").batch == [8, 32]
    assert parsed("ceilings").resume is False and not hasattr(parsed("ceilings"), "batch")


def test_who_is_for_gpus_takes_part_there_or_when_named():
    def taking_part(*arguments):
        args = parsed("step", *arguments)
        return run.contestants(args.benchmark, args)

    assert "esvit_fast triton" not in taking_part("--device", "cpu")
    assert "esvit_fast triton" in taking_part("--device", "cuda")
    assert taking_part("--device", "cpu", "--contestants", "esvit_fast, graph") == ["esvit_fast, graph"]


def test_quick_measures_one_problem_and_records_nothing(tmp_path, monkeypatch, capsys):
    asked = []

    def problems(args):
        for number in range(2):
            yield registry.Problem({}, lambda names, number=number: asked.append((number, names, args)) or {})

    quick = {"batch": 1, "contestants": ["a"]}
    made = registry.Benchmark("it", "", "", problems, lambda record: "a table", contestants=("a", "b"), quick=quick)
    monkeypatch.setattr(run, "benchmarks", lambda: {"it": made})
    run.main(["it", "--quick", "--records", str(tmp_path), "--device", "cpu"])
    ((number, names, args),) = asked
    assert (number, names, args.batch, args.dry) == (0, ["a"], 1, True)
    assert capsys.readouterr().out.strip() == "a table" and not [*tmp_path.iterdir()]
    run.main(["it", "--quick", "--batch", "3", "--contestants", "b"])
    assert (asked[1][1], asked[1][2].batch) == (["b"], 3)  # who says otherwise is heard


TOY = """
from functools import partial

import torch

from benchmarks.measuring.contest import Passes, contest
from benchmarks.measuring.exactness import error_ratio
from benchmarks.measuring.records import record
from benchmarks.registry import Benchmark, case_problems, register

CONTESTANTS = {"torch eager": lambda x: [2 * x], "esvit_fast cpu": lambda x: [x + x], "wrong": lambda x: [2.001 * x]}


def identity(case, batch, dtype):
    return {"op": "doubling", "case": f"{case} numbers", "shape": {"batch": batch}, "dtype": str(dtype)}


def measure(case, names, batch, dtype, device, rounds):
    x = torch.rand(batch, case, dtype=dtype, device=device)
    rows = contest(
        names,
        gate=lambda name: error_ratio(CONTESTANTS[name](x), CONTESTANTS["torch eager"], x),
        passes=lambda name: Passes({"forward": partial(CONTESTANTS[name], x)}),
        device=device,
        rounds=rounds,
    )
    return record(identity(case, batch, dtype), rows, rounds, device)


register(
    Benchmark(
        "doubling",
        "Doubling",
        "Twice as much.",
        case_problems({"few": 10, "many": 1000}, identity, measure),
        table=lambda record: record["case"],
        modes=("forward",),
        contestants=tuple(CONTESTANTS),
        arguments={"--case": {}},
    )
)
"""


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")  # torch's own
def test_a_file_is_all_that_a_benchmark_needs(tmp_path, monkeypatch, capsys):
    """It is measured, recorded, gone on with, digested and shown."""
    (tmp_path / "doubling.py").write_text(TOY)
    monkeypatch.setattr(operators, "__path__", [*operators.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    registry._import_all.cache_clear()
    records = tmp_path / "records"
    try:
        for _ in range(2):  # the second time, nothing is left to measure
            run.main(["doubling", "--device", "cpu", "--rounds", "2", "--records", str(records), "--resume"])
        assert capsys.readouterr().out.split("\n") == ["10 numbers", "", "1000 numbers", "", ""]
        found = read(records)
        gates = {name: row["gate"] for name, row in found[0].record["contestants"].items()}
        assert [entry.file for entry in found] == ["doubling"] * 2
        assert gates == {"torch eager": "pass", "esvit_fast cpu": "pass", "wrong": "fail"}
        assert len([line for line in digest(found) if "x the fastest peer" in line]) == 2
        assert "### Doubling" in page(found) and "gate fail" not in page(found)
    finally:
        registry._import_all.cache_clear()
        sys.modules.pop("benchmarks.operators.doubling")


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="benchmark 'linear' is registered twice; give one another name"):
        registry.register(BENCHMARKS["linear"])


def test_a_case_that_is_not_there_is_refused_by_name():
    assert chosen_cases(["a 1", "a 2", "b"], "a") == ["a 1", "a 2"] and chosen_cases("ab", None) == ["a", "b"]
    with pytest.raises(SystemExit, match="--case 'c' is in none of: a; b"):
        chosen_cases("ab", "c")
