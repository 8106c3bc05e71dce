"""Protocols run over networks: one, or a list of them with their settings, as for a finished run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from ..config import AugmentConfig
from ..data import Source
from ..errors import UserError
from ..models import Backbone
from ..registry import missing_of
from ..text import suggest
from .bench import Bench, RawPixels
from .catalog import get_protocol, list_protocols
from .protocol import Protocol
from .result import Result
from .settings import Settings, shapes
from .targets import same_images
from .task import Task


class Entry(NamedTuple):
    """A protocol of a suite, by its name, and what it is told."""

    protocol: str
    settings: Settings


def default_suite(**settings: Any) -> list[Entry]:
    """Every protocol of the report, each with those of these settings that it reads.

    Raises:
        UserError: a value is out of range, or no protocol reads a setting.
    """
    protocols = [protocol for protocol in list_protocols() if protocol.in_suite]
    readers = {protocol.name: shapes(protocol.Settings) for protocol in protocols}
    known = {name for names in readers.values() for name in names}
    for name in settings:
        if name not in known:
            raise UserError(f"{name}={settings[name]!r} is no setting of a protocol{suggest(name, sorted(known))}")
    return [
        Entry(one.name, one.Settings(**{name: settings[name] for name in readers[one.name] if name in settings}))
        for one in protocols
    ]


def evaluate(protocol: str, bench: Bench, task: Task, settings: Settings | None = None) -> Result:
    """Run one protocol, over all networks but raw pixels where it does not take these.

    Args:
        settings: of the protocol's own `Settings`; None takes its defaults.

    Raises:
        UserError: there is no such protocol, or the images or a network lack what it needs.
    """
    found = get_protocol(protocol)
    bench, task = _prepared(found, bench, task)
    if found.needs.targets is not None:
        task.kind.require(task.train, f"eval {protocol}")
    if lack := _lack(found, bench, task):
        raise UserError(f"protocol={protocol!r} cannot be run: {lack}; pass what has it, or another protocol")
    return found.run(bench, task, found.Settings() if settings is None else settings)


def run_suite(suite: Sequence[Entry], bench: Bench, task: Task) -> dict[str, Result]:
    """Run protocols one after the other; those for which images or networks lack something are left out.

    The remarks of results of drawn images tell which, and what is lacking.

    Raises:
        UserError: a protocol is named twice or is none, or as `Task.sides` and `Protocol.run`.
    """
    protocols = {entry.protocol: get_protocol(entry.protocol) for entry in suite}
    if len(protocols) < len(suite):
        twice = next(e.protocol for i, e in enumerate(suite) if e.protocol in {other.protocol for other in suite[:i]})
        raise UserError(f"suite names protocol {twice!r} twice; run two suites")
    left_out: dict[str, list[str]] = {}
    for name, protocol in protocols.items():
        if lack := _lack(protocol, *_prepared(protocol, bench, task)):
            left_out.setdefault(lack, []).append(name)
    remarks = tuple(f"{lack}: {_neither([protocols[n].title or n for n in out])}" for lack, out in left_out.items())
    task = replace(task, remarks=(*task.remarks, *remarks)) if remarks else task
    missing = {name for names in left_out.values() for name in names}
    return {name: evaluate(name, bench, task, settings) for name, settings in suite if name not in missing}


def evaluate_run(
    model: nn.Module,
    untrained: nn.Module,
    train_source: Source,
    test_source: Source | None,
    augment: AugmentConfig,
    suite: Sequence[Entry] | None = None,
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Result]:
    """Evaluate a backbone before and after training by every protocol.

    Without classes there is neither k-NN nor a linear probe.

    Args:
        model, untrained: the trained backbone and one of the same architecture with random weights.
        augment: holds the mean and standard deviation to normalise with.
        suite: None takes `default_suite()`.
        progress: called with (what, done, of).

    Returns:
        The results by the names of their protocols: knn (with raw pixels), linear, correspondence, health, and those
        of plug-ins.

    Raises:
        UserError: the two sources have no class in common, or no image of a source can be read.
    """
    networks = {"trained": model, "untrained": untrained, "raw pixels": RawPixels()}
    bench = Bench(networks, augment, device, progress)
    return run_suite(default_suite() if suite is None else suite, bench, Task(train_source, test_source))


def _prepared(protocol: Protocol, bench: Bench, task: Task) -> tuple[Bench, Task]:
    """The networks that a protocol takes, and the images with its kind of targets."""
    networks = {
        name: network
        for name, network in bench.networks.items()
        if protocol.raw_pixels or not isinstance(network, RawPixels)
    }
    return bench.of(networks), task.of(protocol.needs.targets)


def _lack(protocol: Protocol, bench: Bench, task: Task) -> str:
    """What the images or a network lack of what a protocol needs; empty if nothing."""
    needs = protocol.needs
    if needs.targets is not None and task.sides is None:
        return f"no {task.kind.plural}"
    if needs.test and (task.test is None or same_images(task.train, task.test)):
        return "no test split"
    if not bench.networks:
        return "no network but raw pixels"
    for network in bench.networks.values():
        for name in missing_of(network, Backbone, needs.backbone):
            return f"no {name} in {type(network).__name__}"
    return ""


def _neither(titles: Sequence[str]) -> str:
    return f"no {titles[0]}" if len(titles) == 1 else f"neither {' nor '.join(titles)}"
