"""What compilers make of Triton's kernels, without a GPU: `python -m benchmarks.compiled.manifest write` or `… check`.

For each architecture, benchmarks/manifest/<arch>.json holds registers, bytes of local memory (spills), bytes of shared
memory and counts of instructions of every one of `variants`, at the launch configuration of its table. A
change of kernels or tables is written anew and read as the code is; `check` compiles and says what differs.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["TRITON_DISABLE_LINE_INFO"] = "1"  # or results depend on where the sources lie

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.compiled.variants import Variant, variants
from benchmarks.measuring.checkout import ROOT
from esvit_fast.kernels import _tables

FOLDER = ROOT / "benchmarks" / "manifest"
KERNELS = Path(_tables.__file__).parent
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ARCHITECTURES = (80, 90, 100)
INSTRUCTIONS = {
    "instructions": r"/\*[0-9a-f]{4,}\*/\s+\S",
    "wgmma": r"\bHGMMA\.",
    "mma": r"\bHMMA\.",
    "tcgen05_mma": r"\bUTC\w*MMA\b",
    "exp2": r"\bMUFU\.EX2\b",
}


def compile_variant(variant: Variant, arch: int) -> dict[str, int]:
    """Compile for sm_<arch>, and count."""
    names = variant.kernel.arg_names
    constants = {name: value for name, value in variant.constants(arch).items() if name in names}
    signature = {n: "constexpr" if n in constants else variant.types.get(n, "i32") for n in names}
    aligned = {n for n, of in signature.items() if of.startswith("*")} | set(variant.aligned)
    source = ASTSource(
        variant.kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in aligned},
    )
    options = dict(variant.options(arch))
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return {"warps": options["num_warps"], **read(compiled.asm["cubin"]), "shared_bytes": compiled.metadata.shared}


def read(cubin: bytes) -> dict[str, int]:
    """Registers, local memory and instructions of compiled code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = (
            subprocess.run([TOOLS / tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    counts = {name: len(re.findall(pattern, code)) for name, pattern in INSTRUCTIONS.items()}
    return {"registers": int(registers), "local_bytes": int(stack), **counts}


def _is_text(statement: ast.stmt) -> bool:
    """Whether it is a string and nothing else: a docstring, or what is said below a table."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def sources() -> str:
    """A digest of the code of all kernels and tables, without comments and docstrings."""
    digest = hashlib.sha256()
    for path in sorted(set(KERNELS.glob("*.py")) - {KERNELS / "__init__.py"}):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
                node.body = [statement for statement in node.body if not _is_text(statement)]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def main(argv: list[str] | None = None) -> int:
    """Write manifests, or compare what is compiled now with them: 1 if anything differs."""
    parser = argparse.ArgumentParser("python -m benchmarks.compiled.manifest", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("write", "check"))
    parser.add_argument("--arch", type=int, nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--only", default="", help="check: a pattern of the variants' names")
    given = parser.parse_args(argv)
    if given.only and given.action == "write":
        parser.error("--only goes with check: a manifest is written as a whole")
    different = 0
    for arch in given.arch:
        chosen = [variant for variant in variants() if re.search(given.only, variant.name)]
        found = {variant.name: compile_variant(variant, arch) for variant in chosen}
        path = FOLDER / f"{arch}.json"
        if given.action == "write":
            path.parent.mkdir(exist_ok=True)
            lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in found.items())
            head = f'  "triton": "{triton.__version__}",\n  "sources": "{sources()}",\n'
            path.write_text(f'{{\n{head}  "variants": {{\n{lines}\n  }}\n}}\n')
            continue
        written = json.loads(path.read_text())["variants"]
        for name, entry in found.items():
            if entry != written.get(name):
                print(f"sm_{arch} {name}: {entry}, but the manifest has {written.get(name)}")
                different += 1
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
