"""What is raised: whatever a command line can reach and a user can mend is a `UserError`; the rest is named here."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import inspect
import json
import typing
from collections.abc import Iterator

import pytest

from esvit_fast.errors import UserError

from .tree import module_files

APART = ("ops", "nn", "reference", "kernels", "methods")
"""Rooms of functions of tensors: what they refuse, a command has never given them unless it has a bug."""
NOT_APART = ("ops._core.plan",)
"""Modules of these rooms that read what a user asks for."""

OF_PROGRAMS = {
    "": {"AttributeError"},  # a module has no such name
    "cli.main": {"_Died"},  # exit code 1: nobody mends what another process died of
    "cli.settings": {"SystemExit"},  # --help has been printed
    "config.tree": {"ConstructorError"},  # becomes a UserError where the file is read
    "data.sources.encoded": {"IndexError", "NotImplementedError"},  # protocols of Python
    "data.sources.files": {"OSError"},  # becomes a CorruptImage, as those of the other sources
    "data.sources.folder": {"OSError"},
    "data.sources.parquet": {"OSError"},
    "data.sources.zip": {"OSError"},
    "data.sources.shard_index": {"ShardError"},  # becomes a SourceError, which names the set
    "data.sources.tar_members": {"ShardError"},
    "evaluation": {"AttributeError"},  # a module has no such name
    "evaluation.protocol": {"NotImplementedError"},  # what every protocol has
    "evaluation.targets": {"NotImplementedError"},
    "evaluation.measures.correspondence": {"ValueError"},  # arguments that no command takes
    "evaluation.measures.knn": {"ValueError"},
    "evaluation.measures.linear": {"ValueError"},
    "models.backbone": {"NotImplementedError"},  # what every backbone has
    "models.swin": {"ValueError"},
    "ops._core.plan": {"NotImplementedError"},  # transforms of torch.func, in which no command calls an operator
    "reporting.svg": {"ValueError"},
    "runs.checkpoint": {"ValueError"},
    "training.step.optimizer": {"ValueError"},
    "runs.lock": {"OSError"},  # caught where it is raised
    "runs.metrics": {"OSError", "ValueError"},  # caught where it is raised; a log that is closed
    "training.stopping": {"KeyboardInterrupt"},  # Ctrl-C
}
"""By module, what else it raises, and why."""


def reached() -> list[str]:
    return [m for m in module_files() if m in NOT_APART or m.split(".")[0] not in (*APART, "__main__")]


def raised(tree: ast.Module, names: dict[str, object]) -> Iterator[type]:
    """The class of whatever a module raises; what was caught or handed over, and is raised again, has none here."""
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)]
    made = {target.id: node.value for node in assigned for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            value = made.get(node.exc.id, node.exc) if isinstance(node.exc, ast.Name) else node.exc
            first, *rest = ast.unparse(value.func if isinstance(value, ast.Call) else value).split(".")
            if isinstance(value, ast.Name) and first not in names:
                continue
            thing = functools.reduce(getattr, rest, names[first])
            yield thing if inspect.isclass(thing) else typing.get_type_hints(thing)["return"]


def names_of(module: str) -> dict[str, object]:
    return vars(builtins) | vars(importlib.import_module(f"esvit_fast.{module}".rstrip(".")))


def others(tree: ast.Module, names: dict[str, object]) -> set[str]:
    return {error.__name__ for error in raised(tree, names) if not issubclass(error, UserError)}


@pytest.mark.parametrize("module", reached())
def test_whatever_a_user_can_mend_is_a_user_error(module):
    found = others(ast.parse(module_files()[module].read_text()), names_of(module))
    assert found == OF_PROGRAMS.get(module, set())


def test_every_error_of_the_package_is_one():
    """So that whoever catches one class catches all, and those that others caught by another base find it still."""
    classes = {
        value
        for module in reached()
        for value in names_of(module).values()
        if inspect.isclass(value) and issubclass(value, Exception) and not issubclass(value, Warning)
    }
    classes = {c for c in classes if c.__module__.startswith("esvit_fast")}
    assert {c.__name__ for c in classes if not issubclass(c, UserError)} == {"_Died", "ShardError"}
    also = {c.__name__ for c in classes if issubclass(c, RuntimeError)}
    assert also == {"BackendError", "Collapsed", "NotFinite", "WorkerDied"}
    assert all(issubclass(c, ValueError) for c in classes if issubclass(c, UserError)) and len(classes) > 15


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("raise ValueError('x')", {"ValueError"}),
        ("def f():\n    late = TypeError('x')\n    raise late from None", {"TypeError"}),
        ("raise RuntimeError", {"RuntimeError"}),
        ("raise json.JSONDecodeError('x', '', 0)", {"JSONDecodeError"}),
        ("raise told()", {"ValueError"}),
        ("raise UserError('x')", set()),
        ("try:\n    pass\nexcept ValueError as error:\n    raise error", set()),
        ("try:\n    pass\nexcept ValueError:\n    raise", set()),
    ],
)
def test_a_planted_error_is_found(code, found):
    def told() -> ValueError: ...

    told.__annotations__["return"] = ValueError
    assert others(ast.parse(code), vars(builtins) | {"json": json, "told": told, "UserError": UserError}) == found
