"""The source tree as the packaging tests see it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "esvit_fast"
KERNELS = ROOT / "kernels"
"""Installed as esvit_fast.kernels."""


def build_libraries(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run setup.py as it is run to compile, with libraries in another folder."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder), "--build-temp", str(folder)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)


def module_files(package: Path = PACKAGE) -> dict[str, Path]:
    """Every module of a package folder: its dotted name below the package ("" is the package itself), and its file."""
    places = [(path.relative_to(package), path) for path in sorted(package.rglob("*.py"))]
    if package == PACKAGE:
        places += [(Path("kernels", path.relative_to(KERNELS)), path) for path in sorted(KERNELS.rglob("*.py"))]
    files = {}
    for place, path in places:
        parts = place.with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imported_modules(module: str, path: Path, known: set[str]) -> Iterator[str]:
    """Names below the package of what a module imports from it, anywhere in its code; `known` are all modules."""
    package = "esvit_fast"
    own = [package, *(module.split(".") if module else [])]
    here = own if path.name == "__init__.py" else own[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            members = [f"{source}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix(f"{package}.") in known else source for name in members]
            if members == [f"{package}.__version__"]:
                continue  # a constant that every room may state
        else:
            continue
        for name in names:
            if name == package or name.startswith(f"{package}."):
                yield name[len(package) + 1 :]


def text_files() -> list[Path]:
    """Every text file of the repository that people write: code, recipes, documents, workflow."""
    rooms = [
        ROOT / name for name in ("esvit_fast", "kernels", "csrc", "tests", "examples", "benchmarks", ".ci", "docs")
    ]
    found = [path for path in ROOT.iterdir() if path.is_file()]
    found += [path for room in rooms for path in room.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    kinds = {".py", ".md", ".toml", ".txt", ".in", ".yaml", ".json", ".css", ".svg", ".html", ".cfg"}
    kinds |= {".cpp", ".h", ".cuh", ".cu"}
    plain = {"LICENSE", "Makefile", ".gitignore", "run"}
    return sorted(path for path in found if path.suffix in kinds or path.name in plain)
