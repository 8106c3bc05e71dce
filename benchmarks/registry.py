"""What can be measured: each benchmark registers itself, and run.py, the sanitizer and the report find it here."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import NamedTuple

import torch

ROOMS = ("benchmarks.operators", "benchmarks.systems")


class Problem(NamedTuple):
    """One thing to measure, which makes one record.

    Attributes:
        like: the entries of its record that tell it from others.
        measure: contestants to the record.
    """

    like: Mapping[str, object]
    measure: Callable[[Sequence[str]], dict]


Smallest = Callable[[str, str, torch.dtype], Iterator[Callable[[], object]]]
"""Device, backend and dtype to the smallest problems of an operator that still have all that its kernels do."""


@dataclass(frozen=True)
class Benchmark:
    """A command of run.py, a file of records, and a section of the report.

    Attributes:
        name: of the command, and of the file that registers it.
        title: of its section.
        summary: its first line is the help of the command.
        problems: arguments of the command to what is measured.
        table: a record to text.
        modes: what its records time, in the order of the report; none: they hold no contest.
        contestants: whoever may take part.
        for_gpus: those of them who, unless they are named, take part on a GPU alone.
        operators: whose red tests hide the times of this library; that of its name without any.
        arguments: options of the command beyond the common ones, or in their place; None leaves a common one out.
        quick: what `--quick` sets: a case that takes seconds.
        smallest: of an operator, what compute-sanitizer runs.
        records: the file of its records, where that is not the name.
        row_per_case: the page has a row for each case instead of a table.
    """

    name: str
    title: str
    summary: str
    problems: Callable[[argparse.Namespace], Iterable[Problem]]
    table: Callable[[dict], str]
    modes: tuple[str, ...] = ()
    contestants: Sequence[str] = ()
    for_gpus: Sequence[str] = ()
    operators: tuple[str, ...] = ()
    arguments: Mapping[str, Mapping[str, object] | None] = field(default_factory=dict)
    quick: Mapping[str, object] = field(default_factory=dict)
    smallest: Smallest | None = None
    records: str = ""
    row_per_case: bool = False

    @property
    def file(self) -> str:
        """The stem of the file of its records."""
        return self.records or self.name


_registered: dict[str, Benchmark] = {}

CASE = {"help": "a part of the names of cases; all without it"}
"""The option of who has several."""


def register(benchmark: Benchmark) -> Benchmark:
    """Let run.py, the sanitizer and the report find a benchmark.

    Raises:
        ValueError: there is one of that name.
    """
    if benchmark.name in _registered:
        raise ValueError(f"benchmark {benchmark.name!r} is registered twice; give one another name")
    _registered[benchmark.name] = benchmark
    return benchmark


def benchmark(operator: str) -> Benchmark:
    """The benchmark of an operator, of which alone the file is imported."""
    importlib.import_module(f"benchmarks.operators.{operator}")
    return _registered[operator]


def benchmarks() -> dict[str, Benchmark]:
    """All benchmarks by name: those of every file in `ROOMS`."""
    _import_all()
    return dict(sorted(_registered.items()))


@cache
def _import_all() -> None:
    for room in map(importlib.import_module, ROOMS):
        for file in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            importlib.import_module(file.name)


def chosen_cases(names: Iterable[str], text: str | None) -> list[str]:
    """The names that contain a text; all without one.

    Raises:
        SystemExit: there is none; the message names them.
    """
    names = list(names)
    chosen = [name for name in names if text is None or text in name]
    if not chosen:
        raise SystemExit(f"--case {text!r} is in none of: {'; '.join(names)}")
    return chosen


def case_problems(
    cases: Mapping[str, object], identity: Callable[..., dict], measure: Callable[..., dict]
) -> Callable[[argparse.Namespace], Iterator[Problem]]:
    """Problems for `Benchmark.problems`: each case whose name contains what `--case` says, by name.

    Args:
        identity: (case, batch, dtype) to the entries that tell its record from others.
        measure: (case, names, batch, dtype, device, rounds) to its record.
    """

    def problems(args: argparse.Namespace) -> Iterator[Problem]:
        dtype = getattr(torch, args.dtype)
        settings = {"batch": args.batch, "dtype": dtype, "device": args.device, "rounds": args.rounds}
        for name in chosen_cases(cases, args.case):
            yield Problem(identity(cases[name], args.batch, dtype), partial(measure, cases[name], **settings))

    return problems
