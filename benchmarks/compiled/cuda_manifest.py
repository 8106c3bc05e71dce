"""What nvcc made of the CUDA kernels: `python -m benchmarks.compiled.cuda_manifest write` or `… check`.

The library must be built. For each of its architectures, benchmarks/manifest/cuda_<arch>.json holds of every kernel its
warps, registers, bytes of local memory (stack and spills) and of shared memory, counts of instructions, and how many of
its blocks a multiprocessor has room for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton

from benchmarks.measuring.checkout import ROOT
from esvit_fast.ops._core import cuda_tables as _tables

FOLDER = ROOT / "benchmarks" / "manifest"
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHARED_BYTES = {"80": 164 * 1024, "90a": 228 * 1024, "100": 228 * 1024}
"""Of a multiprocessor; each block takes 1 KiB more than it asks for."""
INSTRUCTIONS = {
    "instructions": r"/\*[0-9a-f]{4,}\*/\s+\S",
    "mma": r"\bHMMA\.",
    "ldmatrix": r"\bLDSM\.",
    "exp2": r"\bMUFU\.EX2\b",
}
WINDOWS = re.compile(
    r"window_attention_(fwd|bwd)INS_\d+\w+?TraitsIN6device\d+(half|bfloat16)ELi(\d+)ELi(\d+)EEELi(\d+)ELi(\d+)E"
)
LOGITS = re.compile(r"soft_cross_entropy_(rows|usage|loss)IN6device\d+(half|bfloat16)ELi(\d+)E")
ROW_BYTES = _tables.row_bytes(65536)
"""Shared memory for a row of as many logits as the published head has."""


def library() -> Path | None:
    """The built library, if it was."""
    return next(iter((ROOT / "esvit_fast").glob("_C_cuda*.so")), None)


def tool(name: str, *arguments: object, cwd: str | None = None) -> str:
    """What a tool of the toolkit that comes with Triton says."""
    command = [TOOLS / name, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


def read(path: Path) -> tuple[str, dict[str, dict[str, dict[str, int]]]]:
    """The version of nvcc that made a library, and its kernels by architecture and name."""
    usage = re.split(r"^arch = sm_", tool("cuobjdump", "-res-usage", path), flags=re.MULTILINE)[1:]
    with tempfile.TemporaryDirectory() as folder:
        tool("cuobjdump", "-xelf", "all", path.resolve(), cwd=folder)
        counts: dict[str, dict[str, dict[str, int]]] = {}
        for cubin in Path(folder).iterdir():  # one of each source and architecture
            counts.setdefault(re.search(r"\.sm_(\d+)", cubin.name)[1], {}).update(
                _counts(tool("nvdisasm", "-c", cubin))
            )
            compiler = re.search(rb"Cuda compilation tools, release [\d.]+, V([\d.]+)", cubin.read_bytes())[1]
    found: dict[str, dict[str, dict[str, int]]] = {}
    for text in usage:
        arch = text.split(None, 1)[0]
        of_arch = counts[re.match(r"\d+", arch)[0]]
        kernels = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", text)
        if kernels:  # the last part of a source is of PTX
            entries = (_entry(arch, name, *map(int, numbers), of_arch[name]) for name, *numbers in kernels)
            found[arch] = dict(sorted({**found.get(arch, {}), **dict(entries)}.items()))
    return compiler.decode(), found


def _counts(code: str):
    for section in re.split(r"^\.text\.", code, flags=re.MULTILINE)[1:]:
        yield section.split(":", 1)[0], {name: len(re.findall(of, section)) for name, of in INSTRUCTIONS.items()}


def _entry(arch, mangled, registers, stack, local, counts):
    name, threads, shared = _name(mangled)
    warps = threads // 32
    # a warp's registers come in eights for each lane
    by_registers = 65536 // (32 * -(-registers // 8) * 8) // warps
    return name, {
        "warps": warps,
        "registers": registers,
        "local_bytes": stack + local,
        "shared_bytes": shared,
        "blocks": min(by_registers, SHARED_BYTES[arch] // (shared + 1024), 2048 // threads, 32),
        **counts,
    }


def _name(mangled: str) -> tuple[str, int, int]:
    """What a kernel is called in the manifest, its threads and its bytes of shared memory."""
    if found := WINDOWS.search(mangled):
        kind, dtype, head_dim, tiles, threads, shared = found.groups()
        return f"window_attention {kind} head_dim {head_dim} keys {8 * int(tiles)} {dtype}", int(threads), int(shared)
    kind, dtype, threads = LOGITS.search(mangled).groups()
    return f"soft_cross_entropy {kind} {dtype}", int(threads), 0 if kind == "usage" else ROW_BYTES


def sources() -> str:
    """A digest of what the library's device code is made of, without comments."""
    files = sorted((ROOT / "csrc" / "cuda").glob("*.cu*"))
    text = "\n".join(re.sub(r"\s*//.*", "", path.read_text()) for path in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(found: dict[str, dict[str, dict[str, int]]]) -> list[str]:
    """What of a library's kernels the manifests do not have so."""
    lines = []
    for arch, kernels in found.items():
        written = json.loads((FOLDER / f"cuda_{arch}.json").read_text())["kernels"]
        lines += [
            f"sm_{arch} {name}: {kernels.get(name)}, but the manifest has {written.get(name)}"
            for name in sorted(kernels.keys() | written.keys())
            if kernels.get(name) != written.get(name)
        ]
    return lines


def main(argv: list[str] | None = None) -> int:
    """Write manifests, or compare the built library with them: 1 if anything differs."""
    parser = argparse.ArgumentParser("python -m benchmarks.compiled.cuda_manifest", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("write", "check"))
    given = parser.parse_args(argv)
    path = library()
    if path is None:
        parser.error("there is no library: ESVIT_FAST_BUILD=cuda python setup.py build_ext --inplace")
    compiler, found = read(path)
    if given.action == "check":
        lines = differences(found)
        print(f"nvcc {compiler}", *lines, sep="\n")
        return int(bool(lines))
    for arch, kernels in found.items():
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in kernels.items())
        head = f'  "nvcc": "{compiler}",\n  "sources": "{sources()}",\n'
        (FOLDER / f"cuda_{arch}.json").write_text(f'{{\n{head}  "kernels": {{\n{lines}\n  }}\n}}\n')
    return 0


if __name__ == "__main__":
    sys.exit(main())
