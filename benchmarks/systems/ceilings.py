"""What a GPU can do at all: bytes per second of a large copy, and FLOP per second of a large product."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from benchmarks.measuring import gpu
from benchmarks.measuring.records import provenance
from benchmarks.registry import Benchmark, Problem, register


def measure(device: str) -> dict:
    """A record of what the card can do.

    Raises:
        SystemExit: the device is no GPU.
    """
    if not gpu.on_gpu(device):
        raise SystemExit("ceilings are those of a GPU; pass --device cuda on a machine that has one")
    return {"op": "ceilings", **gpu.ceilings(device), **provenance(device)}


def table(record: dict) -> str:
    """A record for people to read."""
    copied, multiplied = record["bytes_per_s"] / 1e12, record["flop_per_s"] / 1e12
    return f"copy {copied:.2f} TB/s, bfloat16 product {multiplied:.0f} TFLOP/s"


def _problems(args: argparse.Namespace) -> Iterator[Problem]:
    yield Problem({}, lambda names: measure(args.device))


register(
    Benchmark(
        "ceilings",
        "What the card can do at all",
        __doc__,
        _problems,
        table,
        arguments={"--batch": None, "--dtype": None, "--rounds": None},
    )
)
