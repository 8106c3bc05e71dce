"""What the system tells of memory, and what a process keeps of it."""

import resource
import subprocess
import sys

import pytest

from esvit_fast.training.planning.memory import system_bytes


def test_lines_of_the_system_are_kibibytes(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmRSSish:\t7 kB\nVmRSS:\t   5 kB\nVmHWM: 12 kB\n")
    assert [system_bytes(tmp_path / "status", name) for name in ("VmRSS", "VmHWM", "Vm")] == [5 * 1024, 12 * 1024, None]
    assert system_bytes(tmp_path / "nowhere", "VmRSS") is None


def test_freed_memory_is_kept():
    code = (
        "import resource, torch; from esvit_fast.training.planning.memory import keep_freed_memory\n"
        "kept = keep_freed_memory()\n"
        "def touch(): torch.ones(2**23).sum()\n"
        "for _ in range(8): touch()  # until it has found its places\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt; touch()\n"
        "print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    if kept == "False":
        pytest.skip("the C library is not glibc")
    assert int(faults) < 2**23 * 4 / resource.getpagesize() / 10
