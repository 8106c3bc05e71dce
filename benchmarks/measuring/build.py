"""Build in place what this machine can, if sources are newer: `python -m benchmarks.measuring.build [--again]`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.measuring.checkout import ROOT


def stale(sources: Iterable[Path], libraries: Iterable[Path]) -> bool:
    """Whether there is no library, or a source is newer than one."""
    built = [path.stat().st_mtime for path in libraries]
    return not built or max(path.stat().st_mtime for path in sources) > min(built)


def link_kernels(root: Path = ROOT) -> bool:
    """Let `esvit_fast.kernels` be found in a checkout that is not installed; git ignores the link."""
    place = root / "esvit_fast" / "kernels"
    if place.exists():
        return False
    place.symlink_to(Path("..") / "kernels")
    return True


def main(again: bool = False) -> int:
    """Link, compile, and say what was done."""
    if link_kernels():
        print("esvit_fast/kernels is linked to kernels/")
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()] + [ROOT / "setup.py"]
    libraries = sorted((ROOT / "esvit_fast").glob("_C_*.so"))
    lacking = shutil.which("nvcc") is not None and not any("_C_cuda" in path.name for path in libraries)
    if not again and not lacking and not stale(sources, libraries):
        print("libraries are newer than their sources:", ", ".join(path.name for path in libraries))
        return 0
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", *(["--force"] if again else [])]
    code = subprocess.run(command, cwd=ROOT)
    print("built:", ", ".join(path.name for path in sorted((ROOT / "esvit_fast").glob("_C_*.so"))) or "nothing")
    return code.returncode


if __name__ == "__main__":
    sys.exit(main("--again" in sys.argv[1:]))
