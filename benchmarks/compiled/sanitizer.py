"""compute-sanitizer on the smallest shapes of every operator that has kernels, and a record for each tool and operator.

`python -m benchmarks.compiled.sanitizer`; with `--operator NAME` it only runs that operator, as it does under the tool.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.measuring.checkout import RECORDS, ROOT, commit
from benchmarks.measuring.lines import read_lines
from benchmarks.measuring.records import append, folder, provenance
from benchmarks.registry import benchmark
from esvit_fast import ops

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
"""Most important first. Under initcheck only our kernels count: libraries copy paddings that nobody wrote. All are
watched, or what others write would count as not written."""
FOUND = 9
"""The code with which the sanitizer ends if it found anything."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def with_kernels() -> list[str]:
    """The operators that have kernels for GPUs, those first that a step spends most in."""
    found = [operator for operator in ops.operators() if {"triton", "cuda"} & set(ops.implementations(operator))]
    return sorted(found, key=lambda operator: operator not in ("window_attention", "prototype_cross_entropy"))


def run(operator: str, device: str, backends: Sequence[str]) -> int:
    """Run an operator on those of these backends that it has, in all dtypes of theirs; 1 if one of them ran none."""
    backends = [backend for backend in backends if backend in ops.implementations(operator)]
    ran = dict.fromkeys(backends, 0)
    for backend, dtype in itertools.product(backends, DTYPES):
        for problem in benchmark(operator).smallest(device, backend, dtype):
            try:
                problem()
            except ops.BackendError as error:
                print(error)
                continue
            if device != "cpu":
                torch.cuda.synchronize()
            ran[backend] += 1
    return int(not ran or 0 in ran.values())


def sanitize(tool: str, operator: str) -> tuple[str, str]:
    """The gate and the tool's last line."""
    # every tensor has memory of its own: in a pool, what lies beside one belongs to the process too
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(FOUND)]
    command += ["--target-processes", "application-only"]  # and not the compilers that it starts
    if tool == "initcheck":
        command += ["--show-backtrace", "device", "--print-limit", "0"]
    done = subprocess.run(
        [*command, sys.executable, "-m", "benchmarks.compiled.sanitizer", "--operator", operator],
        cwd=ROOT,
        env=os.environ | alone,
        capture_output=True,
        text=True,
        check=False,
    )
    return judge(done.returncode, done.stdout + done.stderr, operator if tool == "initcheck" else "")


def judge(code: int, output: str, kernels: str = "") -> tuple[str, str]:
    """The gate: passed, failed, or absent where the tool did not do its work; and why. Reads of what nobody wrote count
    in kernels whose name has `kernels` in it."""
    summary = re.findall(r"=========\s+((?:ERROR|RACECHECK) SUMMARY: .*)", output)
    if code == 0 and summary:
        return "pass", summary[-1]
    reports = re.findall(r"=+ +Uninitialized .*(?:\n=+ {2,}\S.*)*", output)
    if code == FOUND and reports and not any(kernels in report for report in reports):
        return "pass", f"{summary[-1] if summary else 'it found something'}, none in {kernels}"
    if code == FOUND:
        return "fail", summary[-1] if summary else "it found something"
    last = (output.strip().splitlines() or ["it said nothing"])[-1]
    return "absent", f"the tool or the run ended with {code}: {last[:200]}"


def main() -> int:
    """All tools on all operators, or one operator alone; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", help="none: all that have kernels for GPUs")
    parser.add_argument("--operator", choices=with_kernels())
    args = parser.parse_args()
    if args.operator:
        return run(args.operator, args.device, [args.backend] if args.backend else ["triton", "cuda"])
    file, gates = folder(args.device, args.records) / "sanitizer.jsonl", []
    done = {(line["tool"], line["stem"]) for line in read_lines(file) if line.get("commit") == commit()}
    for tool in TOOLS:
        for operator in with_kernels():
            if (tool, operator) in done:
                continue
            gate, why = sanitize(tool, operator)
            record = {"op": "sanitizer", "case": f"{tool} {operator}", "tool": tool, "stem": operator, "gate": gate}
            append(record | {"why": why} | provenance(args.device), "sanitizer", args.records)
            print(f"{tool} {operator}: {gate}, {why}", flush=True)
            gates.append(gate)
    return int("fail" in gates)


if __name__ == "__main__":
    sys.exit(main())
