"""Compile what this machine can; all metadata is in pyproject.toml.

ESVIT_FAST_BUILD=auto (the default) builds the CPU library where torch and a C++ compiler are there, and the CUDA
library where nvcc of torch's major version of CUDA is there too; it says in a line each what it does without. cpu
builds the one and cuda builds both, or fails; python builds nothing.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.errors import BaseError

CHOICES = ("auto", "python", "cpu", "cuda")
ARCHITECTURES = ("80", "90a", "100")
wanted = os.environ.get("ESVIT_FAST_BUILD", "auto")
if wanted not in CHOICES:
    raise SystemExit(f"ESVIT_FAST_BUILD={wanted!r} must be one of {', '.join(CHOICES)}")


def say(line: str) -> None:
    """Print a line, which pip shows with -v; `esvit-fast doctor` and the first use tell the same."""
    print(line, file=sys.stderr)


def without(kind: str, reason: str) -> None:
    """Go on without a library, or stop where it was asked for."""
    if wanted == kind.lower() or wanted == "cuda":
        raise SystemExit(f"ESVIT_FAST_BUILD={wanted}: {reason}")
    say(f"esvit_fast is built without {kind} kernels: {reason}")


def toolkit() -> tuple[str | None, str]:
    """The folder of the CUDA toolkit and its version; or none, and what is missing.

    The nvcc that is found may be a script that runs another: the folder is where that says it is.
    """
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = str(Path(named, "bin", "nvcc")) if named else shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    try:
        version, steps = (
            subprocess.run([nvcc, *options], capture_output=True, text=True, check=True)
            for options in (["--version"], ["--dryrun", "-x", "cu", os.devnull])
        )
    except (OSError, subprocess.CalledProcessError):
        there = f"CUDA_HOME={named} has none" if named else "it is not on PATH"
        return None, f"nvcc is not here: {there}; install the CUDA toolkit, or name its folder in CUDA_HOME"
    top = re.search(r"^#\$ TOP=(.+?)\s*$", steps.stderr, re.MULTILINE)
    release = re.search(r"release (\d+\.\d+)", version.stdout)
    if top is None or release is None:
        return None, f"{nvcc} does not say where it is; name the folder of the CUDA toolkit in CUDA_HOME"
    return str(Path(top[1]).resolve()), release[1]


def nvcc_flags() -> list[str] | None:
    """What the CUDA library is compiled with, or None where it cannot be."""
    import torch

    if torch.version.cuda is None:
        return without("CUDA", "torch has none; install a torch with CUDA, and its toolkit")
    home, version = toolkit()
    if home is None:
        return without("CUDA", version)
    if version.split(".")[0] != torch.version.cuda.split(".")[0]:
        return without("CUDA", f"nvcc is of CUDA {version} and torch of {torch.version.cuda}; install that toolkit")
    os.environ["CUDA_HOME"] = home  # torch would take the folder of a script on PATH
    nvcc = [str(Path(home, "bin", "nvcc")), "--list-gpu-arch"]
    known = subprocess.run(nvcc, capture_output=True, text=True, check=True).stdout.split()
    architectures = [arch for arch in ARCHITECTURES if f"compute_{arch.rstrip('a')}" in known]
    if len(architectures) < len(ARCHITECTURES) and wanted == "cuda":
        return without(
            "CUDA", f"nvcc of CUDA {version} does not know all of {', '.join(ARCHITECTURES)}; install a newer"
        )
    codes = [f"arch=compute_{arch},code=sm_{arch}" for arch in architectures]
    # newer GPUs compile this one when they first run it
    plain = [arch for arch in architectures if arch.isdigit()][-1]
    codes.append(f"arch=compute_{plain},code=compute_{plain}")
    strict = "-Werror=all-warnings", "-Xptxas=-Werror,-warn-spills,-warn-lmem-usage"
    return [
        "-O3",
        "--threads=2",
        "-Xcompiler=-fvisibility=hidden",
        *(f"-gencode={code}" for code in codes),
        # a compiler that nobody has tried may warn, and its library be good
        *(strict if wanted == "cuda" else ()),
    ]


def libraries() -> dict:
    """Arguments of `setup` for the libraries; none where none is to be built."""
    if wanted == "python":
        say("esvit_fast is built without kernels, as ESVIT_FAST_BUILD=python asks: plain torch computes, more slowly")
        return {}
    try:
        import torch  # noqa: F401
    except ImportError:
        without("CPU", "torch is not here; install it and ninja first, then `pip install --no-build-isolation .`")
        return {}
    compiler = (os.environ.get("CXX") or "c++").split()[0]
    if shutil.which(compiler) is None:
        without("CPU", f"the C++ compiler {compiler!r} is not here; install one, or name it in CXX")
        return {}
    cuda = nvcc_flags() if wanted != "cpu" else None
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    broken = RuntimeError, OSError, BaseError, subprocess.CalledProcessError

    class Build(BuildExtension):
        def build_extensions(self):
            """All together, or one after the other where torch refuses a compiler that only some need."""
            try:
                return super().build_extensions()
            except broken:
                given = self.extensions
            for self.extensions in [[extension] for extension in given]:
                try:
                    super().build_extensions()
                except broken as error:
                    self.go_without(self.extensions[0], error)
            self.extensions = given

        def build_extension(self, extension):
            try:
                super().build_extension(extension)
            except broken as error:
                self.go_without(extension, error)

        def go_without(self, extension, error):
            """Also without a library that was built of other sources before."""
            built = Path(self.get_ext_fullpath(extension.name))
            for path in (built, Path("esvit_fast", built.name)):
                path.unlink(missing_ok=True)
            without(extension.name.rpartition("_")[2].upper(), f"compiling failed: {str(error).splitlines()[0]}")

    stable = ["-DTORCH_STABLE_ONLY", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    # no -march: each instruction set has files of its own, and the machine's is found when it runs
    flags = ["-O3", "-fvisibility=hidden", *stable]

    def extension(maker, name, arguments, *patterns):
        sources = {str(path) for pattern in patterns for path in Path("csrc").glob(pattern)}
        made = maker(
            f"esvit_fast._C_{name}",
            sorted(path for path in sources if path.endswith((".cpp", ".cu"))),
            depends=sorted(path for path in sources if path.endswith((".h", ".cuh"))),
            extra_compile_args=arguments,
            py_limited_api=True,
        )
        made.optional = wanted == "auto"  # or an editable install would fail after `without` let it go on
        return made

    extensions = [extension(CppExtension, "cpu", flags, "register_cpu.cpp", "cpu/*")]
    if cuda is not None:
        arguments = {"cxx": flags, "nvcc": [*cuda, *stable]}
        made = extension(CUDAExtension, "cuda", arguments, "register_cuda.cpp", "cuda/*")
        made.define_macros.append(("USE_CUDA", None))  # the parts of torch's C interface that are of CUDA
        extensions.append(made)
    return {
        "ext_modules": extensions,
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(
    packages=[*find_packages(include=["esvit_fast*"]), "esvit_fast.kernels"],
    package_dir={"esvit_fast.kernels": "kernels"},
    **libraries(),
)
