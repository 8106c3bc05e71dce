"""Prove and measure on a GPU machine, in a given time: `python benchmarks/battery.py --out DIR`.

Parts come in the order of their importance, each in a process and a box of time of its own, and every case is written
when it is measured: a run that is cut short, even by kill -9, leaves what it has, and the next one with the same DIR
goes on. Nothing is fetched and nothing is installed. Exits 3 without a GPU, 1 if a part failed or tests were cut short.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the folder is no installed package

from benchmarks.measuring import checkout  # noqa: E402
from benchmarks.measuring import machine as machines  # noqa: E402
from benchmarks.measuring.checkout import OPERATORS  # noqa: E402
from benchmarks.measuring.lines import append_line, read_lines  # noqa: E402

SHORTEST = 15.0
"""Seconds that must be left for a part to begin."""
NO_GPU, FAILED = 3, 1


@dataclass(frozen=True)
class Part:
    """A thing to prove or to measure.

    Attributes:
        name: as `--only` has it.
        what: it does, in a few words.
        command: arguments of Python; {out}, {records} and {data} are filled in.
        minutes: it may take at most.
        needs: what must be there, of `machine.NEEDS`.
        asked: only done where `--only` names it.
    """

    name: str
    what: str
    command: tuple[str, ...]
    minutes: float
    needs: tuple[str, ...] = ()
    asked: bool = False


def _run(*arguments: str) -> tuple[str, ...]:
    return "benchmarks/run.py", *arguments, "--device", "cuda", "--records", "{records}", "--resume"


KERNELS = ("triton", "compiler", "timm")
QUICK = ("--contestants", "torch eager", "sdpa", "esvit_fast triton", "esvit_fast cuda")
STEP_PEERS = ("plain torch", "timm fused, compiled", "esvit_fast triton", "esvit_fast")
FIRST = (
    Part("build", "libraries in place, if sources are newer", ("-m", "benchmarks.measuring.build"), 4),
    Part("ceilings", "what the card can do at all", _run("ceilings"), 0.5),
    Part(
        "tests",
        "tests marked gpu",
        ("-m", "benchmarks.measuring.gpu_tests", "--records", "{records}"),
        3,
        ("pytest", *KERNELS),
    ),
    Part(
        "window_attention",
        "window attention alone, beside its floor",
        _run("window_attention", *QUICK),
        1.5,
        KERNELS,
    ),
    Part(
        "prototype_cross_entropy",
        "the loss over prototypes",
        _run("prototype_cross_entropy", "--rounds", "9"),
        1,
        KERNELS,
    ),
    Part(
        "step",
        "a whole training step, plain torch and ours",
        _run("step", "--rounds", "9", "--contestants", "plain torch", "esvit_fast triton", "esvit_fast"),
        1,
        KERNELS,
    ),
    Part(
        "sanitizer",
        "compute-sanitizer on the smallest shapes",
        ("-m", "benchmarks.compiled.sanitizer", "--records", "{records}"),
        2.5,
        ("sanitizer", *KERNELS),
    ),
    Part(
        "step-peers",
        "the step with timm's attention under torch.compile",
        _run("step", "--rounds", "9", "--contestants", *STEP_PEERS),
        4,
        KERNELS,
    ),
    Part(
        "window_attention-peers",
        "stage 1 alone, with torch.compile and FlexAttention",
        _run("window_attention", "--case", "swin_t 224 stage 1"),
        2,
        KERNELS,
    ),
    Part("tune", "times for the launch tables", ("-m", "benchmarks.compiled.tune", "measure", "{out}"), 1.5, KERNELS),
)
LAST = (
    Part(
        "window_attention_layer",
        "attention with its projections",
        _run("window_attention_layer", "--case", "swin_t 224"),
        3,
        KERNELS,
    ),
    Part("whole_model", "timm's Swin as it comes and patched", _run("whole_model", "--rounds", "9"), 2, KERNELS),
    Part(
        "cifar10",
        "what a recipe learns",
        (
            *("-m", "benchmarks.experiments.learning", "--recipe", "cifar10_swin_nano"),
            *("--data", "{data}", "--records", "{records}"),
        ),
        9,
        ("data", *KERNELS),
        asked=True,
    ),
)
NO_KERNELS = ("linear",)
"""Operators of which a GPU has nothing to measure: cuBLAS multiplies there."""


def _others() -> tuple[Part, ...]:
    """The operators that no part above measures."""
    measured = {*NO_KERNELS, *(part.name for part in FIRST)}
    names = [name for name in OPERATORS if name not in measured]
    return tuple(Part(n, f"{n.replace('_', ' ')} alone", _run(n, "--rounds", "9"), 0.5, KERNELS) for n in names)


PARTS = (*FIRST, *_others(), *LAST)


@dataclass(frozen=True)
class Outcome:
    """What became of a part: done, failed, cut short, left out, or no time left; and in how many seconds."""

    part: str
    outcome: str
    seconds: float = 0.0
    why: str = ""
    commit: str | None = None


def chosen(parts: Sequence[Part], only: Sequence[str]) -> list[Part]:
    """The parts that are asked for, in their order.

    Raises:
        ValueError: there is no such part; the message names those there are.
    """
    unknown = sorted(set(only) - {part.name for part in parts})
    if unknown:
        known = ", ".join(part.name for part in parts)
        raise ValueError(f"--only {' '.join(unknown)}: there is no such part; known: {known}")
    return [part for part in parts if (part.name in only if only else not part.asked)]


def outcomes(out: Path) -> dict[str, Outcome]:
    """The last outcome of every part that was begun in a folder."""
    found = {}
    for fields in read_lines(out / "state.jsonl"):
        found[fields["part"]] = Outcome(**fields)
    return found


def run(
    parts: Sequence[Part],
    out: Path,
    *,
    minutes: float = 9,
    again: bool = False,
    lacking: Callable[[Part], Sequence[str]] = lambda part: (),
    data: str = "",
    shortest: float = SHORTEST,
) -> list[Outcome]:
    """Do parts within so many minutes, but for those that are done at this commit; say and note what became of each."""
    end, commit, before = time.monotonic() + 60 * minutes, checkout.commit(), outcomes(out)
    (out / "logs").mkdir(parents=True, exist_ok=True)
    found = []
    for number, part in enumerate(parts, 1):
        left, known = end - time.monotonic(), before.get(part.name)
        print(f"[{number}/{len(parts)}] {part.name}: {part.what}", end=" … ", flush=True)
        missing = lacking(part)
        if known is not None and (known.outcome, known.commit) == ("done", commit) and not again:
            found.append(known)
            print("is done; --again repeats it")
            continue
        if missing:
            outcome = Outcome(part.name, "left out", why="; ".join(missing), commit=commit)
        elif left < shortest:
            outcome = Outcome(part.name, "no time left", why="run it again with the same --out", commit=commit)
        else:
            outcome = _boxed(part, out, min(60 * part.minutes, left), data, commit)
        append_line(out / "state.jsonl", vars(outcome))
        found.append(outcome)
        print(f"{outcome.outcome} {outcome.seconds:.0f} s" + (f": {outcome.why}" if outcome.why else ""), flush=True)
    return found


def _boxed(part: Part, out: Path, seconds: float, data: str, commit: str | None) -> Outcome:
    """Do a part in a process of its own, which is ended with all its children when its time is over."""
    places = {"out": str(out), "records": str(out / "records"), "data": data}
    command = [sys.executable, *(argument.format(**places) for argument in part.command)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    fixed = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    fixed |= {"ESVIT_FAST_UNPROVEN": "1"}  # or what has no record yet would not run, and never have one
    log, begin = out / "logs" / f"{part.name}.txt", time.monotonic()
    with open(log, "w") as lines:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | fixed,
            stdout=lines,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        try:
            code = process.wait(timeout=seconds)
            state = "done" if code == 0 else "failed"
        except subprocess.TimeoutExpired:
            state = "cut short"
        finally:
            _end(process)
    why = "" if state == "done" else f"its {seconds:.0f} s are over" if state == "cut short" else _last_line(log)
    return Outcome(part.name, state, round(time.monotonic() - begin, 1), why, commit)


def _end(process: subprocess.Popen) -> None:
    """End what is left of a process and of all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            continue


def _die_with_parent() -> None:
    """A battery that is killed takes its part with it, which would hold the GPU; Linux only."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"{lines[-1].strip()[:160] if lines else 'it said nothing'} ({log})"


def table(out: Path, parts: Sequence[Part]) -> str:
    """What became of every part, and what was measured."""
    found, lines = outcomes(out), ["", f"{'part':24} {'outcome':13} {'seconds':>8}  "]
    for part in parts:
        outcome = found.get(part.name, Outcome(part.name, "not begun"))
        lines.append(f"{part.name:24} {outcome.outcome:13} {outcome.seconds:8.0f}  {outcome.why}".rstrip())
    from benchmarks.report.reading import digest, read  # with torch and all operators, which a build may have changed

    measured = digest(read(out / "records"))
    return "\n".join([*lines, "", *(measured or ["nothing was measured"])])


def main(argv: Sequence[str] | None = None) -> int:
    """Look at the machine, do the parts, and show what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a folder for records, logs and the report")
    parser.add_argument("--minutes", type=float, default=9, help="for all parts together")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help=", ".join(part.name for part in PARTS))
    parser.add_argument("--again", action="store_true", help="also parts that are done")
    parser.add_argument("--data", default="", help="images of cifar10, such as torchvision:CIFAR10@FOLDER")
    parser.add_argument("--table", action="store_true", help="only show what is in the folder")
    args = parser.parse_args(argv)
    try:
        parts = chosen(PARTS, args.only)
    except ValueError as error:
        parser.error(str(error))
    out = args.out.resolve()
    if args.table:
        print(table(out, parts))
        return 0
    found = machines.look(bool(args.data))
    reason = machines.no_gpu(found)
    if reason is not None:
        print(reason, file=sys.stderr)
        return NO_GPU
    print(f"{found.gpu}, driver {found.driver}, CUDA {found.cuda}, {args.minutes:g} minutes")
    done = run(
        parts,
        out,
        minutes=args.minutes,
        again=args.again,
        lacking=lambda part: machines.lacking(part.needs, found),
        data=args.data,
    )
    print(table(out, parts))
    for note in machines.notes(machines.look(bool(args.data))):  # the library may be of another build by now
        print(note)
    from benchmarks.report import html, reading

    written = html.write(reading.read(out / "records"), out)
    print("written:", ", ".join(str(path) for path in written))
    return code(done)


def code(done: Sequence[Outcome]) -> int:
    """What to exit with: tests that did not run show nothing."""
    bad = any(
        outcome.outcome == "failed" or (outcome.part, outcome.outcome) == ("tests", "cut short") for outcome in done
    )
    return FAILED if bad else 0


if __name__ == "__main__":
    sys.exit(main())
