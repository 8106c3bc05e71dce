"""Run the tests marked gpu, and record for each file whether all passed: that gates every speed of its operator."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the folder is no installed package

import pytest

from benchmarks.measuring import RECORDS, append, provenance
from benchmarks.performance import STEMS

ROOT = Path(__file__).parents[1]
BACKENDS = ("cuda", "triton")
"""Those that a test names among its parameters."""


def stem(file: str) -> str:
    """The operator whose tests a file has; its own name where there is none."""
    name = Path(file).stem.removeprefix("test_").removesuffix("_gpu")
    return next((known for known in STEMS if name.startswith(known)), name)


class Recorder:
    """A plugin of pytest: a record of every file, made when the last of its tests is over."""

    def __init__(self, records: Path, device: str):
        self.records, self.device, self.last = records, device, None
        self.found: dict[str, list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of a test."""
        file = report.nodeid.split("::")[0]
        if file != self.last:
            self.write()
            self.last, self.found = file, {"passed": [], "failed": [], "skipped": []}
        if report.when == "call" or report.outcome != "passed":
            self.found[report.outcome].append(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Record the last file."""
        self.write()

    def write(self) -> None:
        """Record a file of which tests ran."""
        failed = self.found.get("failed", [])
        if self.last is None or not (failed or self.found["passed"]):
            return
        record = {"op": "tests", "case": self.last, "stem": stem(self.last), "gate": "fail" if failed else "pass"}
        record |= {"passed": len(self.found["passed"]), "skipped": len(self.found["skipped"]), "failed": failed}
        record |= {"backends": [b for b in BACKENDS if any(re.search(rf"[\[-]{b}\b", t) for t in self.found["passed"])]}
        append(record | provenance(self.device), "tests", self.records)
        self.last = None


def main() -> int:
    """Run them; the code is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("tests", nargs="*", default=["tests/ops", "tests/training"])
    args = parser.parse_args()
    # versions that nobody has pinned may deprecate things
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning"]
    tests = [str(ROOT / test) for test in args.tests]
    return int(pytest.main([*options, *tests], plugins=[Recorder(args.records, args.device)]))


if __name__ == "__main__":
    sys.exit(main())
