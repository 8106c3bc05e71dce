"""Compile what this machine can; all metadata is in pyproject.toml.

ESVIT_FAST_BUILD=auto (the default) builds the CPU library where torch and a C++ compiler are there, and says in one
line when it does not; cpu builds it or fails; python builds nothing.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.errors import BaseError

CHOICES = ("auto", "python", "cpu")
wanted = os.environ.get("ESVIT_FAST_BUILD", "auto")
if wanted not in CHOICES:
    raise SystemExit(f"ESVIT_FAST_BUILD={wanted!r} must be one of {', '.join(CHOICES)}")


def without(reason: str) -> None:
    """Go on without the library, or stop where it was asked for."""
    if wanted == "cpu":
        raise SystemExit(f"ESVIT_FAST_BUILD=cpu: {reason}")
    print(f"esvit_fast is built without CPU kernels: {reason}", file=sys.stderr)


def library() -> dict:
    """Arguments of `setup` for the CPU library; none where it is not to be built."""
    if wanted == "python":
        return {}
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        without("torch is not here; install it and ninja first, then `pip install --no-build-isolation .`")
        return {}
    compiler = (os.environ.get("CXX") or "c++").split()[0]
    if shutil.which(compiler) is None:
        without(f"the C++ compiler {compiler!r} is not here; install one, or name it in CXX")
        return {}

    class Build(BuildExtension):
        def build_extension(self, extension):
            try:
                super().build_extension(extension)
            except (RuntimeError, OSError, BaseError) as error:
                without(f"compiling failed: {str(error).splitlines()[0]}")

    extension = CppExtension(
        "esvit_fast._C_cpu",
        sorted(str(path) for path in (*Path("csrc").glob("register_cpu.cpp"), *Path("csrc/cpu").glob("*.cpp"))),
        depends=[str(path) for path in Path("csrc/cpu").glob("*.h")],
        # no -march: each instruction set has files of its own, and the machine's is found when it runs
        extra_compile_args=[
            "-O3",
            "-fvisibility=hidden",
            "-DTORCH_STABLE_ONLY",
            "-DTORCH_TARGET_VERSION=0x020a000000000000",
        ],
        py_limited_api=True,
    )
    extension.optional = wanted == "auto"  # or an editable install would fail after `without` let it go on
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(
    packages=[*find_packages(include=["esvit_fast*"]), "esvit_fast.kernels"],
    package_dir={"esvit_fast.kernels": "kernels"},
    **library(),
)
