"""A run that several files of tests look at."""

import pytest

from tests.training.runs import small, start


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "run"
    start(path, small(epochs=0.5))
    return path
