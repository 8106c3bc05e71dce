"""The tests on the newest releases: what is installed there is newer than what is pinned, and nothing here changes."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from packaging.requirements import Requirement

from .tree import ROOT


def releases(name: str) -> dict[str, Requirement]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return {found.name: found for found in map(Requirement, filter(None, lines))}


def test_what_is_new_is_not_what_is_pinned():
    pinned, newest = releases("constraints.txt"), releases(".ci/newest.txt")
    assert newest.keys() <= pinned.keys()
    for name, new in newest.items():
        (bound,) = new.specifier
        if bound.operator == "==":
            assert new.specifier == pinned[name].specifier
        else:
            assert bound.operator == ">="
            pins = {pin.version for pin in pinned[name].specifier}
            assert not pinned[name].specifier.contains(bound.version) or pins == {bound.version}, name


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")
def test_another_environment_takes_other_constraints():
    command = ["make", "--dry-run", "--always-make", "test", "VENV=elsewhere", "CONSTRAINTS=.ci/newest.txt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    installs = [line for line in done if " pip install" in line]
    assert len(installs) == 2 and all("elsewhere/bin/python" in x and "-c .ci/newest.txt" in x for x in installs)
    assert not any(".venv/" in line or " constraints.txt" in line for line in done)
