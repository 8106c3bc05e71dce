"""Run the tests marked gpu, and record for each file whether all passed: that gates every speed of its operator."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.measuring.checkout import OPERATORS, RECORDS, ROOT
from benchmarks.measuring.records import append, provenance

BACKENDS = ("cuda", "triton")
"""Those that a test names among its parameters."""


def stem(file: str) -> str:
    """The operator whose tests a file has; its own name where there is none."""
    name = Path(file).stem.removeprefix("test_").removesuffix("_gpu")
    return next((known for known in OPERATORS if name.startswith(known)), name)


class Recorder:
    """A plugin of pytest: a record of every file, made when the last of its tests is over."""

    def __init__(self, records: Path, device: str):
        self.records, self.device = records, device
        self.left: Counter[str] = Counter()
        self.found: dict[str, dict[str, list[str]]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the tests of each file."""
        self.expect(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: list[str]) -> None:
        """The same, where several processes run them: each collects all."""
        self.expect(ids)

    def expect(self, tests: Iterable[str]) -> None:
        """These are all tests; said again, it changes nothing."""
        counts = Counter(test.split("::")[0] for test in tests)
        self.left |= Counter({file: count for file, count in counts.items() if file not in self.found})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of a test, and record its file if it was the last."""
        file = report.nodeid.split("::")[0]
        of = self.found.setdefault(file, {"passed": [], "failed": [], "skipped": []})
        if report.when == "call" or report.outcome != "passed":
            of[report.outcome].append(report.nodeid)
        if report.when == "teardown":
            self.left[file] -= 1
            if self.left[file] == 0:
                self.write(file, **of)

    def write(self, file: str, passed: list[str], failed: list[str], skipped: list[str]) -> None:
        """Record a file of which tests ran; where all were skipped, nothing is shown."""
        if not (failed or passed):
            return
        record = {"op": "tests", "case": file, "stem": stem(file), "gate": "fail" if failed else "pass"}
        record |= {"passed": len(passed), "skipped": len(skipped), "failed": failed}
        record |= {"backends": [b for b in BACKENDS if any(re.search(rf"[\[-]{b}\b", test) for test in passed)]}
        append(record | provenance(self.device), "tests", self.records)


def main() -> int:
    """Run them; the code is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("tests", nargs="*", default=["tests/ops", "tests/data", "tests/training"])
    args = parser.parse_args()
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider"]
    # versions that nobody has pinned may deprecate things, and plugins of pytest may be imported by now
    options += ["-W", "ignore::DeprecationWarning", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    if find_spec("xdist"):
        # most of the time is Triton's, which compiles on one core
        options += ["-n", str(max(1, min(8, (os.cpu_count() or 1) // 2)))]
    tests = [str(ROOT / test) for test in args.tests]
    return int(pytest.main([*options, *tests], plugins=[Recorder(args.records, args.device)]))


if __name__ == "__main__":
    sys.exit(main())
