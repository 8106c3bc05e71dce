"""Device code without a GPU: compiles it for the host with the executor of csrc/host, and runs it."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
HOST = ROOT / "csrc" / "host"
BUILT = ROOT / "build" / "host"
PARTS = ("fiber", "report", "memory", "executor", "warp", "access")
"""The executor's own files, which are not looked at."""
COMMON = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-Wall", "-Wextra", "-Werror")
OWN = ("-O2",)
DEVICE = ("-O1", "-g1", "-fsanitize=thread", "-fno-optimize-sibling-calls", "-ftrivial-auto-var-init=pattern")
DEVICE += ("-Wno-unknown-pragmas",)  # unroll
"""Lines of what was inlined, a return address for every call, and no zeros for who forgets to initialise."""
WALL = 4096
Array = np.ndarray | torch.Tensor


class Report(NamedTuple):
    """What the executor found: its kind, in words, and where in the device code."""

    kind: str
    message: str
    file: str
    line: int
    block: int
    thread: int
    other_file: str
    other_line: int

    def __str__(self) -> str:
        other = f" ({self.other_file}:{self.other_line})" if self.other_file else ""
        return f"{self.file}:{self.line}: {self.kind}: block {self.block}, thread {self.thread}: {self.message}{other}"


def compiler() -> str:
    """The C++ compiler; skips the test that asks where something is missing."""
    header = Path(sysconfig.get_path("include"), "Python.h")
    lacks = [tool for tool in ("g++", "addr2line") if shutil.which(tool) is None]
    lacks += [] if header.exists() else [str(header)]
    if lacks or sys.platform != "linux":
        pytest.skip(f"device code runs on the host on Linux, with g++ 12, addr2line and Python.h; not here: {lacks}")
    version = subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=True).stdout
    if int(version.split(".")[0]) < 12:
        pytest.skip(f"device code runs on the host with g++ 12 or later, and this is {version}")
    return "g++"


def _digest(files: Iterable[Path], *words: str) -> str:
    text = hashlib.sha256("\0".join(words).encode())
    for path in sorted(files):
        text.update(path.name.encode() + b"\0" + path.read_bytes())
    return text.hexdigest()[:16]


def _once(target: Path, command: list[str]) -> Path:
    """A file that a command makes, unless it is there; those of earlier states of its sources go."""
    if not target.exists():
        made = target.with_suffix(f".new{target.suffix}")
        done = subprocess.run([*command, "-o", str(made)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
        for earlier in BUILT.glob(f"{target.stem.rpartition('-')[0]}-????????????????{target.suffix}"):
            earlier.unlink()
        made.replace(target)
    return target


def _objects(cxx: str, sources: tuple[Path, ...]) -> list[Path]:
    """The executor's objects and those of device code, in this order: of functions that both have, its own are kept."""
    version = subprocess.run([cxx, "--version"], capture_output=True, text=True, check=True).stdout
    headers = [*HOST.glob("*.h"), ROOT / "csrc" / "cuda" / "types.cuh"]
    includes = [f"-isystem{path}" for path in (Path(torch.__file__).parent / "include", sysconfig.get_path("include"))]
    long = [(HOST / "module.cpp", ["-O0", *includes], headers)]
    for source in sources:
        seen = [*headers, *(ROOT / "csrc" / "cuda").glob("*.cuh"), *source.parent.glob("*.cuh")]
        long.append((source, [*DEVICE, f"-ffile-prefix-map={ROOT}=."], seen))
    short = [(HOST / f"{part}.cpp", list(OWN), headers) for part in PARTS]

    def compiled(job):
        source, flags, seen = job
        name = f"{source.stem}-{_digest([source, *seen], version, *COMMON, *flags)}.o"
        return _once(BUILT / name, [cxx, *COMMON, *flags, "-c", str(source)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, [*long, *short]))
    return objects[len(long) :] + objects[: len(long)]


@cache
def library(*sources: Path) -> ModuleType:
    """The kernels that C++ files bind: compiled once for each state of the sources, by one process at a time."""
    cxx = compiler()
    BUILT.mkdir(parents=True, exist_ok=True)
    with open(BUILT / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        objects = _objects(cxx, sources)
        name = f"{sources[0].stem}-{_digest(objects)}.so"
        path = _once(BUILT / name, [cxx, "-shared", *map(str, objects), "-ldl"])
    # pybind11 gives the module that it made for a name before
    spec = importlib.util.spec_from_file_location(f"{path.stem}.executor", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _address(array: Array) -> tuple[int, int]:
    if isinstance(array, torch.Tensor):
        assert array.is_contiguous() and array.device.type == "cpu"
        return array.data_ptr(), array.numel() * array.element_size()
    assert array.flags.c_contiguous
    return array.ctypes.data, array.nbytes


def run(
    kernels: ModuleType,
    kernel: str,
    grid: int,
    block: int,
    shared_bytes: int,
    buffers: dict[str, tuple[str, Array] | None],
    scalars: dict[str, float],
) -> list[Report]:
    """Run a kernel, and give what is wrong with it.

    `buffers` are ("in" | "out" | "inout" | "scratch", NumPy array or tensor) by name: an input may not be written, an
    output is written before it is read, and all of it, a scratch is an output of which some may be left. They are
    copied between walls and back, to addresses that are multiples of 256, as a GPU's allocations are.
    """
    kept, named = [], []
    for name, buffer in buffers.items():
        if buffer is None:
            continue
        use, array = buffer
        address, size = _address(array)
        memory = np.full(size + 2 * WALL + 256, 0xFF, np.uint8)
        inside = memory.ctypes.data + WALL
        inside += -inside % 256
        if use in ("in", "inout"):
            ctypes.memmove(inside, address, size)
        kept.append((memory, inside, address, size, use))
        named.append((name, inside, size, use))
    found = kernels.run(kernel, grid, block, shared_bytes, named, {name: float(x) for name, x in scalars.items()})
    for _, inside, address, size, use in kept:
        if use != "in":
            ctypes.memmove(address, inside, size)
    return [Report(*report) for report in found]
