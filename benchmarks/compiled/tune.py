"""Measure launch configurations on a GPU, and write what is faster into kernels/_tables.py.

`python -m benchmarks.compiled.tune measure DIR` adds a line for each configuration to DIR/tune.jsonl; `… write DIR`
puts the fastest of those lines into the table `TUNED`, to be read, compiled (`python -m benchmarks.compiled.manifest
write`) and committed like code. Nothing is tuned when kernels run.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from benchmarks.measuring.checkout import ROOT, commit
from benchmarks.measuring.lines import append_line, read_lines

TABLES = ROOT / "kernels" / "_tables.py"
WORTH = 0.97
"""A configuration is only written if it takes at most this share of the present one's time: less is noise."""
CASES = (
    ("swin_t 224 stage 1", "window_attention half, 1 x 64, heads of 32"),
    ("swin_b w14 224 stage 1", "window_attention half, 4 x 64, heads of 32"),
    ("swin_t 96 stage 3", "window_attention half, 1 x 64, heads of 32"),
    ("swin_t 96 stage 4", "window_attention half, 1 x 16, heads of 32"),
)
"""Cases of the operators' benchmark, and the problems of the table that they are."""
PER_PROCESSOR = (2, 3, 4, 6)
WARPS = (1, 2, 4, 8)
LOSS = "prototype_cross_entropy half, 256"
FORWARD = tuple(
    {"block_m": m, "block_n": n, "num_warps": warps}
    for m, n, warps in ((64, 32, 8), (64, 32, 4), (64, 64, 8), (32, 64, 4), (128, 32, 8), (128, 64, 8))
)
BACKWARD = tuple(
    {"block_k": k, "block_r": r, "num_warps_backward": warps}
    for k, r, warps in ((64, 32, 8), (64, 32, 4), (64, 64, 8), (32, 64, 4), (128, 32, 8))
)


class Candidate(NamedTuple):
    """A configuration to be timed in one pass of a problem; `present`: that which the table has now."""

    mode: str
    config: Mapping[str, int]
    present: bool = False


def choose(lines: Iterable[Mapping]) -> dict[int, dict[str, dict[str, int]]]:
    """By architecture and problem the fastest configurations, of those that are worth it.

    What both passes share, the number of programs, is chosen for their sum; problems measured in several cases count
    with the sum of all.
    """
    times: dict[tuple, dict] = {}
    for line in lines:
        config = dict(line["config"])
        shared = config.pop("programs", None)
        key = (line["arch"], line["problem"]), shared, line["mode"], tuple(sorted(config.items()))
        of = times.setdefault(key, {"ms": {}, "present": False})
        of["ms"][line["case"]] = line["ms"]["p50"]
        of["present"] |= line["present"]
    found: dict[int, dict[str, dict[str, int]]] = {}
    for arch, problem in dict.fromkeys(key[0] for key in times):
        of = {key[1:]: value for key, value in times.items() if key[0] == (arch, problem)}
        cases = {case for value in of.values() for case in value["ms"]}
        whole = {key: sum(value["ms"].values()) for key, value in of.items() if set(value["ms"]) == cases}
        modes = {mode for _, mode, _ in of}
        now = sum(time for key, time in whole.items() if of[key]["present"])
        best = _best(whole, modes)
        if best is not None and now and best[0] <= WORTH * now:
            found.setdefault(arch, {})[problem] = best[1]
    return found


def _best(whole: Mapping[tuple, float], modes: set[str]) -> tuple[float, dict[str, int]] | None:
    """The least time of all modes together with one `shared`, and its configuration."""
    sums = []
    for shared in dict.fromkeys(key[0] for key in whole):
        picks = [min((k for k in whole if k[:2] == (shared, mode)), key=whole.get, default=None) for mode in modes]
        if None not in picks:
            config = {} if shared is None else {"programs": shared}
            config |= dict(sorted(pair for pick in picks for pair in pick[2]))
            sums.append((sum(whole[pick] for pick in picks), config))
    return min(sums, key=lambda pair: pair[0], default=None)


def render(source: str, tuned: Mapping[int, Mapping[str, Mapping[str, int]]]) -> str:
    """The text of kernels/_tables.py with this as its table `TUNED`, beside what is there of other problems.

    Raises:
        ValueError: the source has no such table.
    """
    node = next((n for n in ast.parse(source).body if isinstance(n, ast.AnnAssign) and n.target.id == "TUNED"), None)
    if node is None:
        raise ValueError("the source has no table TUNED")
    merged = {arch: dict(problems) for arch, problems in ast.literal_eval(node.value).items()}
    for arch, problems in tuned.items():
        merged.setdefault(arch, {}).update(problems)
    table = ["TUNED: dict[int, dict[str, dict[str, int]]] = {" + ("}" if not merged else "")]
    for arch in sorted(merged):
        table.append(f"    {arch}: {{")
        for problem in sorted(merged[arch]):
            fields = ", ".join(f'"{name}": {value}' for name, value in merged[arch][problem].items())
            table += [f'        "{problem}": {{{fields}}},']
        table.append("    },")
    lines = source.splitlines()
    lines[node.lineno - 1 : node.end_lineno] = table + (["}"] if merged else [])
    return "\n".join(lines) + "\n"


def candidates(problem: str, processors: int, present: Mapping[str, int]) -> Iterator[Candidate]:
    """All configurations to be timed for a problem on a GPU of so many multiprocessors, the present ones first."""
    if problem == LOSS:
        yield from _ordered("forward", FORWARD, present)
        yield from _ordered("backward", BACKWARD, present)
        return
    programs = dict.fromkeys([present["programs"], *(n * processors for n in PER_PROCESSOR)])
    for mode, name in (("forward", "num_warps"), ("backward", "num_warps_backward")):
        yield from _ordered(mode, [{"programs": p, name: w} for p in programs for w in WARPS], present)


def _ordered(mode: str, configs: Sequence[Mapping[str, int]], present: Mapping[str, int]) -> Iterator[Candidate]:
    now = {name: present[name] for name in configs[0]}
    yield Candidate(mode, now, True)
    yield from (Candidate(mode, config) for config in configs if config != now)


def measure(folder: Path, device: str, rounds: int) -> None:
    """Time every candidate of every problem; what does not compile or is wrong is left out."""
    import torch

    from benchmarks.operators import prototype_cross_entropy, window_attention
    from esvit_fast.kernels import _tables

    capability = torch.cuda.get_device_capability(device)
    arch, known = _tables.architecture(capability), read_lines(folder / "tune.jsonl")
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    seen = {_key(line) for line in known if line["commit"] == commit()}
    common = {"arch": arch, "device": torch.cuda.get_device_name(device), "commit": commit()}
    contestant, dtype = window_attention.CONTESTANTS["esvit_fast triton"], torch.bfloat16
    for name, problem in (*CASES, ("loss", LOSS)):
        if problem == LOSS:
            case = prototype_cross_entropy.Case(64, 65536)
            x = prototype_cross_entropy.inputs(case, dtype, device)
            run = prototype_cross_entropy.CONTESTANTS["esvit_fast triton"].make(x)
            runs = dict.fromkeys(("forward", "backward"), partial(prototype_cross_entropy.results, run, x))
            gate = partial(prototype_cross_entropy.gate, "esvit_fast triton", case, dtype, device)
            present = _tables.prototype_cross_entropy(2, 256, 65536, capability)
        else:
            case = next(case for case in window_attention.CASES if case.name == name)
            tensors, grad = window_attention.inputs(case, 64, dtype, device)
            run = contestant.make(case, device)
            runs = {
                "forward": partial(run, *tensors),
                "backward": partial(torch.autograd.grad, inputs=tensors, grad_outputs=grad, allow_unused=True),
            }
            gate = partial(window_attention.gate, case, contestant, dtype, device)
            tokens = min(case.window_size, case.side) ** 2
            keys = tokens + (case.side % case.window_size > 0)
            present = _tables.window_attention(capability, 2, tokens, keys, case.dim // case.num_heads)
        for candidate in candidates(problem, processors, present):
            line = {"case": name, "problem": problem, "mode": candidate.mode, "config": dict(candidate.config)}
            line |= {"present": candidate.present}
            if _key(line) in seen:
                continue
            with patch.dict(_tables.TUNED, {arch: {problem: {**present, **candidate.config}}}):
                before = {"it": runs["forward"]} if problem != LOSS and candidate.mode == "backward" else None
                times = _timed(runs[candidate.mode], before, gate, rounds, device)
            if times is not None:
                append_line(folder / "tune.jsonl", line | {"ms": times} | common)
                print(name, candidate.mode, dict(candidate.config), times["p50"], flush=True)


def _key(line: Mapping) -> tuple:
    return line["case"], line["mode"], tuple(sorted(line["config"].items()))


def _timed(run, before, gate, rounds: int, device: str) -> dict[str, float] | None:
    import torch
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources

    from benchmarks.measuring.timing import interleaved

    try:
        if gate() > 1:
            return None
        return interleaved({"it": run}, rounds, device, before=before, hidden=True)["it"]
    except (CompilationError, OutOfResources, torch.OutOfMemoryError):
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("measure", "write"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args(argv)
    if args.action == "measure":
        measure(args.folder, args.device, args.rounds)
        return 0
    lines = read_lines(args.folder / "tune.jsonl")
    if not lines:
        parser.error(f"{args.folder / 'tune.jsonl'} has no measurements; make them on a GPU first")
    found = choose(lines)
    TABLES.write_text(render(TABLES.read_text(), found))
    for arch, problems in found.items():
        print(*(f"sm_{arch} {problem}: {config}" for problem, config in problems.items()), sep="\n")
    print("now: python -m benchmarks.compiled.manifest write" if found else "nothing is faster than what the table has")
    return 0


if __name__ == "__main__":
    sys.exit(main())
