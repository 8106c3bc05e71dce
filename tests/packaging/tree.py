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
BENCHMARKS = ROOT / "benchmarks"
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


def imports(name: str, path: Path) -> Iterator[tuple[str, str | None]]:
    """What the module `name` imports, anywhere in its code: each absolute module, and a name taken from it, or None."""
    own = name.split(".")
    here = own if path.name == "__init__.py" else own[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((source, alias.name) for alias in node.names)


def imported_modules(module: str, path: Path, known: set[str], package: str = "esvit_fast") -> Iterator[str]:
    """Names below the package of what a module imports from it, anywhere in its code; `known` are all modules."""
    for source, member in imports(f"{package}.{module}" if module else package, path):
        if (source, member) == (package, "__version__"):
            continue  # a constant that every room may state
        name = f"{source}.{member}" if f"{source}.{member}".removeprefix(f"{package}.") in known else source
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
