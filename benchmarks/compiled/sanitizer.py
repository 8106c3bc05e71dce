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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.measuring.timing import RECORDS, append, commit, folder, provenance
from benchmarks.report.performance import read_lines
from esvit_fast import ops
from esvit_fast.ops._core.plan import implementations

ROOT = Path(__file__).parents[2]
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
"""Most important first. Under initcheck only our kernels count: libraries copy paddings that nobody wrote. All are
watched, or what others write would count as not written."""
FOUND = 9
"""The code with which the sanitizer ends if it found anything."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TEMPERATURES = {"student_temp": 0.1, "teacher_temp": 0.04}


Problem = Callable[[], object]


def window_attention(device: str, backend: str, dtype: torch.dtype) -> Iterator[Problem]:
    """Windows of one block, with and without pads, and of several blocks; both passes."""
    for side, window, shift in ((8, 4, 2), (7, 7, 0), (3, 7, 0), (10, 9, 4)):
        qkv = torch.randn(1, side, side, 3 * 32, device=device, dtype=dtype, requires_grad=True)
        bias = torch.randn((2 * window - 1) ** 2, 1, device=device, requires_grad=True)
        pad_kv = torch.randn(2 * 32, device=device, dtype=dtype, requires_grad=True)
        call = {"num_heads": 1, "window_size": window, "shift_size": shift, "pad_kv": pad_kv, "backend": backend}
        yield lambda given=(qkv, bias), call=call: ops.window_attention(*given, **call).float().sum().backward()


def prototype_cross_entropy(device: str, backend: str, dtype: torch.dtype) -> Iterator[Problem]:
    """Few rows, teachers and prototypes, with lengths."""
    student, teacher = (torch.randn(n, 32, device=device, dtype=dtype, requires_grad=n > 3) for n in (5, 3))
    weight, teacher_weight = (torch.randn(130, 32, device=device, requires_grad=i == 0) for i in range(2))
    lengths, center = torch.ones(130, 1, device=device), torch.zeros(130, device=device)
    rows = torch.arange(5, device=device)
    pairs = ops.Pairs(rows, rows % 3, torch.full((5,), 0.2, device=device))
    options = {"student_weight_g": lengths.clone().requires_grad_(), "teacher_weight_g": lengths}
    given = student, weight, teacher, teacher_weight, center, pairs
    yield lambda: ops.prototype_cross_entropy(*given, **options, **TEMPERATURES, backend=backend)[0].backward()


def soft_cross_entropy(device: str, backend: str, dtype: torch.dtype) -> Iterator[Problem]:
    """Few rows of logits, of which one is in no pair."""
    student, teacher = (torch.randn(n, 1304, device=device, dtype=dtype, requires_grad=n > 3) for n in (5, 3))
    rows, center = torch.arange(4, device=device), torch.zeros(1304, device=device)
    pairs = ops.Pairs(rows, rows % 3, torch.full((4,), 0.25, device=device))
    given = student, teacher, center, pairs
    yield lambda: ops.soft_cross_entropy(*given, **TEMPERATURES, backend=backend)[0].backward()


def region_match(device: str, backend: str, dtype: torch.dtype) -> Iterator[Problem]:
    """More regions than a block has."""
    student, teacher = (torch.randn(1, n, 40, device=device, dtype=dtype) for n in (33, 18))
    yield lambda: ops.region_match(student, teacher, backend=backend)


def multicrop_augment(device: str, backend: str, dtype: torch.dtype) -> Iterator[Problem]:
    """Crops that are not square, with everything done to them and nothing."""
    crops = torch.randint(256, (3, 3, 21, 18), device=device, dtype=torch.uint8)
    everything = {"flip": 1, "order": 7, "brightness": 1.2, "contrast": 0.7, "saturation": 1.3, "hue": 0.1}
    statistics = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "blur_radius": 6, "dtype": dtype}
    for chosen in ({}, everything | {"sigma": 1.5, "solarize": 1}):
        parameters = ops.augment_parameters(3, **chosen)
        yield lambda parameters=parameters: ops.multicrop_augment(crops, parameters, **statistics, backend=backend)


OPERATORS = {
    f.__name__: f
    for f in (window_attention, prototype_cross_entropy, region_match, soft_cross_entropy, multicrop_augment)
}


def run(operator: str, device: str, backends: Sequence[str]) -> int:
    """Run an operator on those of these backends that it has, in all dtypes of theirs; 1 if one of them ran none."""
    backends = [backend for backend in backends if backend in implementations(operator)]
    ran = dict.fromkeys(backends, 0)
    for backend, dtype in itertools.product(backends, DTYPES):
        for problem in OPERATORS[operator](device, backend, dtype):
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
    parser.add_argument("--operator", choices=[*OPERATORS])
    args = parser.parse_args()
    if args.operator:
        return run(args.operator, args.device, [args.backend] if args.backend else ["triton", "cuda"])
    file, gates = folder(args.device, args.records) / "sanitizer.jsonl", []
    done = {(line["tool"], line["stem"]) for line in read_lines(file) if line.get("commit") == commit()}
    for tool in TOOLS:
        for operator in OPERATORS:
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
