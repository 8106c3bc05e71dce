"""What a machine has for the battery, what it lacks, and in one line what to do about it."""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from benchmarks.measuring.checkout import ROOT

DRIVERS = {11: 450, 12: 525, 13: 580}
"""The oldest driver that runs programs of a major version of CUDA."""
PACKAGES = ("triton", "timm", "pytest")


class Machine(NamedTuple):
    """Facts, so that what follows from them is tested anywhere.

    Attributes:
        gpu: its name, or None if torch cannot use any.
        capability: compute capability, of a GPU.
        driver: version of the driver, where nvidia-smi is there.
        cuda: version that torch was built with; None for a torch without.
        tools: names of programs that are there.
        packages: names of packages that are there.
        library: architectures that the CUDA library has code for, such as "90a"; None without the library.
        data: whether a data set was named.
    """

    gpu: str | None = None
    capability: tuple[int, int] | None = None
    driver: str | None = None
    cuda: str | None = None
    tools: frozenset[str] = frozenset()
    packages: frozenset[str] = frozenset()
    library: frozenset[str] | None = None
    data: bool = False


def look(data: bool = False) -> Machine:
    """The facts of this machine."""
    import torch

    found, capability = None, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a driver that is too old, which is said in one line
        there = torch.cuda.is_available()
    if there:
        found, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    tools = {name for name in ("nvcc", "compute-sanitizer", "nvidia-smi", "c++", "gcc") if shutil.which(name)}
    packages = frozenset(name for name in PACKAGES if find_spec(name))
    return Machine(found, capability, _driver(), torch.version.cuda, frozenset(tools), packages, _library(), data)


def no_gpu(machine: Machine) -> str | None:
    """Why nothing can be measured here, and what to do; None if it can."""
    if machine.gpu is not None:
        return None
    if machine.cuda is None:
        return "this torch was built without CUDA: install one from PyPI on Linux; nothing to measure"
    needed = DRIVERS.get(int(machine.cuda.split(".")[0]), 0)
    if machine.driver is not None and int(machine.driver.split(".")[0]) < needed:
        return (
            f"driver {machine.driver} is too old for torch with CUDA {machine.cuda}, which needs {needed} or later: "
            "update the driver, or install a torch for an older CUDA"
        )
    return "no NVIDIA GPU that torch can use: run this on a machine that has one; nothing to measure"


def notes(machine: Machine) -> list[str]:
    """What goes on without something: a line each, with the remedy."""
    found = []
    if "nvcc" not in machine.tools:
        found.append("nvcc is missing: no CUDA library is built, Triton's kernels run; install the CUDA toolkit")
    if machine.library is not None and not runs_here(machine.library, machine.capability):
        have = ", ".join(f"sm_{arch}" for arch in sorted(machine.library)) or "no architecture"
        found.append(
            f"the CUDA library has code for {have}, this GPU is sm_{_arch(machine)}: Triton's kernels run; "
            "build it here: python -m benchmarks.measuring.build --again"
        )
    if machine.capability is not None and machine.capability < (8, 0):
        found.append(f"{machine.gpu} is sm_{_arch(machine)}, below 80: no kernel runs on it, the oracles do")
    if "nvidia-smi" not in machine.tools:
        found.append("nvidia-smi is missing: records have no clocks and no driver; it comes with the driver")
    return found


NEEDS: Mapping[str, tuple[Callable[[Machine], bool], str]] = {
    "triton": (lambda m: "triton" in m.packages, "triton is not installed: it comes with torch on Linux"),
    "compiler": (
        lambda m: bool(m.tools & {"gcc", "c++"}),
        "there is no C compiler, with which Triton builds its launchers: install gcc",
    ),
    "timm": (lambda m: "timm" in m.packages, "timm is not installed: pip install timm"),
    "pytest": (lambda m: "pytest" in m.packages, "pytest is not installed: pip install pytest hypothesis"),
    "sanitizer": (
        lambda m: "compute-sanitizer" in m.tools,
        "compute-sanitizer is missing: it comes with the CUDA toolkit",
    ),
    "data": (lambda m: m.data, "no images: pass --data torchvision:CIFAR10@FOLDER"),
}
"""What a part of the battery may need: how it is seen, and what is said without it."""


def lacking(needs: Iterable[str], machine: Machine) -> list[str]:
    """What of these is not there; a line each."""
    return [NEEDS[need][1] for need in needs if not NEEDS[need][0](machine)]


def runs_here(library: Iterable[str], capability: tuple[int, int] | None) -> bool:
    """Whether a GPU runs code for one of these, of its major version and no later minor one; 100+: on any later."""
    if capability is None:
        return False
    major, minor = capability
    for arch in library:
        number, letter = re.fullmatch(r"(\d+)([a-z+]?)", arch).groups()
        its = divmod(int(number), 10)
        # code for 90a runs on 9.0 alone
        same = its == capability if letter == "a" else its[0] == major and its[1] <= minor
        if same or (letter == "+" and its <= capability):
            return True
    return False


def architectures(listing: str) -> frozenset[str]:
    """What cuobjdump's lists say a library has code for, such as 80 and 90a; 100+: newer GPUs translate it."""
    return frozenset(arch + "+" * (kind == "ptx") for arch, kind in re.findall(r"\.sm_(\d+[a-z]?)\.(\w+)", listing))


def _arch(machine: Machine) -> str:
    major, minor = machine.capability
    return f"{major}{minor}"


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)
    except (subprocess.SubprocessError, OSError):
        return None
    return done.stdout.split()[0] if done.stdout.split() else None


def _library() -> frozenset[str] | None:
    files = sorted((ROOT / "esvit_fast").glob("_C_cuda*.so"))
    triton = find_spec("triton")
    if not files or triton is None:
        return None
    tool = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    try:
        listing = [tool, "--list-elf", "--list-ptx", files[0]]
        done = subprocess.run(listing, capture_output=True, text=True, check=True, timeout=60)
    except (subprocess.SubprocessError, OSError):
        return None
    return architectures(done.stdout)
