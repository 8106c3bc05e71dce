"""One stem everywhere: an operator's name names its oracle, op, tests, benchmark and what is registered with torch."""

from __future__ import annotations

import inspect

import pytest
import torch

from benchmarks.registry import benchmarks
from esvit_fast import ops, reference

from .tree import BENCHMARKS, KERNELS, PACKAGE, ROOT

OPERATORS = sorted(path.parent.name for path in (PACKAGE / "ops").glob("[!_]*/op.py"))


def test_the_operators_of_this_version():
    assert OPERATORS == [
        "linear",
        "multicrop_augment",
        "prototype_cross_entropy",
        "region_match",
        "soft_cross_entropy",
        "window_attention",
    ]


@pytest.mark.parametrize("stem", OPERATORS)
def test_an_operator_has_its_name_everywhere(stem):
    assert (PACKAGE / "reference" / f"{stem}.py").is_file()
    assert (ROOT / "tests" / "ops" / f"test_{stem}.py").is_file()
    assert (BENCHMARKS / "operators" / f"{stem}.py").is_file()
    assert (ROOT / "tests" / "benchmarks" / "operators" / f"test_{stem}.py").is_file()
    assert benchmarks()[stem].name == stem
    for room in (ops, reference):
        function = getattr(room, stem)
        assert stem in room.__all__
        assert inspect.isfunction(function)
        assert function.__module__ == f"{room.__name__}.{stem}" + (".op" if room is ops else "")


def test_every_file_of_kernels_belongs_to_a_stem():
    found = {path.stem.lstrip("_") for path in KERNELS.glob("*.py")} - {"init__", "tables"}
    assert {"window_attention_fwd", "window_attention_bwd"} <= found
    assert all(any(name.startswith(stem) for stem in OPERATORS) for name in found)


def test_every_file_of_an_operators_benchmark_belongs_to_a_stem():
    found = {path.stem for path in (BENCHMARKS / "operators").glob("[!_]*.py")}
    assert {"window_attention_layer", "prototype_cross_entropy_liger"} <= found
    assert all(any(name.startswith(stem) for stem in OPERATORS) for name in found)


def test_every_file_of_cuda_belongs_to_a_stem():
    found = {path.name for path in (ROOT / "csrc" / "cuda").glob("*.cu*")} - {"device.cuh", "types.cuh"}
    assert {"window_attention.cu", "window_attention_fwd.cuh", "window_attention_bwd.cuh"} <= found
    assert all(any(name.startswith(stem) for stem in OPERATORS) for name in found)


@pytest.mark.parametrize("stem", OPERATORS)
def test_an_operator_is_registered_with_schema_and_shape_function(stem):
    schema = getattr(torch.ops.esvit_fast, stem).default._schema
    assert schema.name == f"esvit_fast::{stem}"
    assert not schema.is_mutable
    assert torch._C._dispatch_has_kernel_for_dispatch_key(schema.name, "Meta")


def test_every_registered_operator_belongs_to_a_stem():
    known = {name for stem in OPERATORS for name in (stem, f"{stem}_backward", f"{stem}_in_place")}
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("esvit_fast::")}
    assert {name.removeprefix("esvit_fast::") for name in registered} <= known
