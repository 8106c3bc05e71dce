"""The settings of a recipe as options of a command: --train.batch-size 64 is train.batch_size in YAML."""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import types
import typing
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Literal

from ..config import Config, MethodSettings, Setting, leaves, load_config, recipe_names, validate
from ..config.tree import coerce
from ..errors import UserError
from .options import Parser

Given = dict[str, "str | bool | list[str]"]
"""What a command line says of settings: dotted names to words, as they were written."""


class _Keep(argparse.Action):
    """Collects settings in `settings` of the namespace, in the order in which they are given."""

    def __call__(self, parser, namespace, values, option_string=None):
        value = option_string == self.option_strings[0] if self.nargs == 0 else values
        namespace.settings = {**namespace.settings, self.dest: value}


def add_settings(
    parser: Parser, defaults: Config | None = None, shown: Callable[[Setting], bool] = lambda setting: True
) -> None:
    """Let a command take every setting; `given` of what it parses is for `changed`.

    Args:
        defaults: whose values --help tells.
        shown: which settings --help lists.
    """
    parser.set_defaults(settings={})
    groups: dict[str, Any] = {}
    for setting in leaves(defaults or Config()):
        name, hint = setting.name, setting.hint
        section = name.rpartition(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(section, setting.section.__doc__)
        told = f"{_sentence(setting)} ({_words(setting.value)})".strip().replace("%", "%%")
        told = told if shown(setting) else argparse.SUPPRESS
        groups[section].add_argument(*_flags(name, hint), dest=name, action=_Keep, help=told, **_shape(hint))


def changed(config: Config, given: Given) -> Config:
    """A configuration with what a command line gives, validated.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
    """
    config = with_method(config, given.get("method.name"))
    hints = {setting.name: setting.hint for setting in leaves(config)}
    for name, value in given.items():
        if name not in hints:
            raise UserError(f"{_flag(name)} is no setting of method.name={config.method.name}; leave it out")
        hint = hints[name]
        if isinstance(value, str) and value.lower() == "none" and type(None) in typing.get_args(hint):
            value = None
        config = _put(config, name.split("."), coerce(hint, value, _flag(name)))
    return validate(config)


def with_method(config: Config, name: str | None) -> Config:
    """A configuration with the settings of another method, as they are by default.

    Raises:
        ConfigError: there is none of that name.
    """
    if name in (None, config.method.name):
        return config
    return replace(config, method=MethodSettings.of(name, "--method.name")())


def what_it_does(name: str) -> str:
    """The sentence about a setting, by its dotted name."""
    return next(_sentence(setting) for setting in leaves(Config()) if setting.name == name)


def as_words(given: Given) -> list[str]:
    """What was given, as on a command line."""
    words: list[str] = []
    for name, value in given.items():
        if isinstance(value, bool):
            words.append(_flag(name) if value else _off(name))
        else:
            words += [_flag(name), *([value] if isinstance(value, str) else value)]
    return words


def configured(parser: Parser, argv: list[str]) -> tuple[argparse.Namespace, Config]:
    """What a command is told, and the recipe with the changes that it is told.

    Raises:
        UserError: an option is wrong, or the recipe or the images are not named.
    """
    parser.add_argument("--recipe", metavar="NAME", help=f"a YAML file, or one of {', '.join(recipe_names())}")
    parser.add_argument("--data", metavar="IMAGES", help="a folder, list, archive, shards, … (see --data.source)")
    helped = {"-h", "--help"} & set(argv)
    named, defaults = _value(argv, "--recipe"), None
    if named is not None:
        with nullcontext() if helped else suppress(ValueError):  # which is told once the options are known
            defaults = load_config(named)
    add_settings(parser, with_method(defaults or Config(), _value(argv, "--method.name")))
    if helped:
        parser.print_help()
        raise SystemExit(0)
    args = parser.parse_args(argv)
    if args.recipe is None:
        raise UserError(f"--recipe is missing; recipes: {', '.join(recipe_names())}")
    config = load_config(args.recipe) if defaults is None or args.recipe != named else defaults
    if args.data is not None:
        config = replace(config, data=replace(config.data, source=args.data))
    return args, changed(config, args.settings)


def _value(argv: list[str], name: str) -> str | None:
    """The last value of an option of a command line that is not parsed."""
    value = None
    for word, following in zip_longest(argv, argv[1:]):
        if word == name:
            value = following
        elif word.startswith(f"{name}="):
            value = word.partition("=")[2]
    return value


def _sentence(setting: Setting) -> str:
    """The text below a setting's field, in the class that declares it."""
    field = setting.name.rpartition(".")[2]
    classes = (cls for cls in setting.section.__mro__ if field in inspect.get_annotations(cls))
    return next((_sentences(cls.__module__).get((cls.__name__, field), "") for cls in classes), "")


@lru_cache
def _sentences(module: str) -> dict[tuple[str, str], str]:
    """By class and field of a module, the text below a field; Python keeps none."""
    texts = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(node, ast.ClassDef):
            for field, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    texts[node.name, field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return texts


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _off(name: str) -> str:
    section, _, last = _flag(name).rpartition(".")
    return f"{section}.no-{last}"


def _flags(name: str, hint: Any) -> list[str]:
    return [_flag(name), _off(name)] if hint is bool else [_flag(name)]


def _shape(hint: Any) -> dict[str, Any]:
    """How many words a setting takes, and what stands for them in --help."""
    args = typing.get_args(hint)
    if hint is bool:
        return {"nargs": 0}
    if typing.get_origin(hint) is tuple:
        return {"nargs": "*" if args[-1] is Ellipsis else len(args), "metavar": _kind(args[0])}
    return {"metavar": _kind(hint)}


def _kind(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "{" + ",".join(map(str, args)) + "}"
    if origin in (typing.Union, types.UnionType):
        return "|".join(["none" if arg is type(None) else _kind(arg) for arg in args])
    return {int: "INT", float: "FLOAT", str: "TEXT"}[hint]


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_words, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return {None: "none", "": "not set"}.get(value, f"{value:g}" if isinstance(value, float) else str(value))


def _put(section: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    return replace(section, **{name: _put(getattr(section, name), rest, value) if rest else value})
