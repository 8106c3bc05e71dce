"""One thread for every process: the tests run in parallel, and results do not depend on how sums are split."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic, and torch raises

import hypothesis
import pytest
import torch

from tests import seeds

hypothesis.settings.register_profile("esvit_fast", deadline=None, derandomize=not seeds.SEED, database=None)
# the same cases in every run of a seed; --hypothesis-profile=default looks for new ones
hypothesis.settings.load_profile("esvit_fast")
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)  # torch.empty and its kin come filled with NaN


seeds.begin()  # of what modules draw when they are imported


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    seeds.begin()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if seeds.SEED:
        for test in {item.function for item in items if hypothesis.is_hypothesis_test(item.function)}:
            hypothesis.seed(seeds.SEED)(test)
    if not torch.cuda.is_available() and "ESVIT_FAST_TEST_DEVICE" not in os.environ:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
