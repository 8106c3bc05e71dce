"""Options of commands: argparse with errors of one line that name the nearest option, and the settings of a recipe."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ..errors import UserError
from ..text import suggest

_ELSEWHERE = {
    "--lr": "--train.learning-rate",
    "--wd": "--train.weight-decay",
    "--bs": "--train.batch-size",
    "--batch": "--train.batch-size",
    "--amp": "--train.precision",
    "--fp16": "--train.precision",
    "--bf16": "--train.precision",
    "--dtype": "--train.precision",
    "--num-workers": "--data.workers",
    "--output": "--out",
    "--output-dir": "--out",
    "--dataset": "--data",
    "--arch": "--model.name",
    "--gpus": "--world-size",
}
"""What other programs call an option."""
_known: set[str] = set()


class UsageError(UserError):
    """A command line that cannot be understood; the message names the option, its value and the remedy."""


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` of a command that raises `UsageError` instead of printing how it is used.

    Options may be written with underscores, too, and are not abbreviated.

    Args:
        command: what follows `esvit-fast`.
        description: one or a few sentences for --help.
    """

    def __init__(self, command: str, description: str, **settings: Any):
        settings.setdefault("allow_abbrev", False)
        super().__init__(f"esvit-fast {command}", description=description, **settings)

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> argparse.Namespace:
        """As `argparse.ArgumentParser.parse_args`.

        Raises:
            UsageError: an option is unknown, has no value or a wrong one, or is missing.
        """
        _known.clear()
        _known.update(name for name in self._option_string_actions if name.startswith("--"))
        words = [self._spelled(str(word)) for word in args]
        self._greedy = any(self._option_string_actions[word].nargs == "*" for word in words if word in _known)
        found, rest = self.parse_known_args(words, namespace)
        if rest:
            raise UsageError(f"{rest[0]!r} is one word too many for `{self.prog}`; {self._more()}")
        return found

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found, as a sentence of this package."""
        for pattern, told in _SENTENCES:
            if found := re.match(pattern, message, re.DOTALL):
                raise UsageError(told(self, *found.groups()))
        raise UsageError(f"{message}; {self._more()}")

    def _spelled(self, word: str) -> str:
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name == "--":
            return word
        name = name if name in self._option_string_actions else name.replace("_", "-")
        if name not in self._option_string_actions:
            elsewhere = _ELSEWHERE.get(name)
            near = f"; did you mean {elsewhere!r}?" if elsewhere in _known else suggest(name, sorted(_known))
            near = near if near.startswith("; did") else f"; {self._more()}"
            raise UsageError(f"{name} is no option of `{self.prog}`{near}")
        return name + equals + value

    def _more(self) -> str:
        return f"`{self.prog} --help` tells what it takes"

    def _missing(self, names: str) -> str:
        first = names.split(", ")[0]
        helps = (action.help for action in self._actions if first in (action.dest, action.metavar))
        order = f"; put {first.upper()} first, before an option that takes all words after it" if self._greedy else ""
        return f"{first.upper()} is missing: {next(helps, None) or self._more()}{order}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name, known = argparse._get_action_name(action), list(map(str, action.choices))
            near = suggest(str(value), known)
            near = near if near.startswith("; did") else ""
            raise UsageError(f"{name}={value!r} must be one of {', '.join(known)}{near}")


_SENTENCES: tuple[tuple[str, Callable[..., str]], ...] = (
    (
        r"argument (\S+): invalid (?:int|float) value: (.*)",
        lambda parser, name, value: f"{name}={value} must be a number",
    ),
    (
        r"argument (\S+): expected (?:one argument|(\d+) arguments|at least one argument)",
        lambda parser, name, count: f"{name} lacks its {count + ' values' if count else 'value'}; {parser._more()}",
    ),
    (
        r"argument (\S+): ignored explicit argument (.*)",
        lambda parser, name, value: f"{name.split('/')[0]}={value} takes no value; {parser._more()}",
    ),
    (
        r"the following arguments are required: (.*)",
        lambda parser, names: parser._missing(names),
    ),
    (r"argument (\S+): (.*)", lambda parser, name, what: f"{name}: {what}; {parser._more()}"),
)
"""How a sentence of argparse begins, and what is said instead."""


def in_flags(message: str) -> str:
    """A message in which settings and arguments are written as the options of the command that was parsed last."""

    def flag(found: re.Match) -> str:
        name = "--" + found[0].replace("_", "-")
        sections = [known for known in _known if known.endswith("." + name[2:])]
        return name if name in _known else sections[0] if len(sections) == 1 else found[0]

    message = re.sub(r"(?<![\w.'\"/-])[a-z]+(\.[a-z_]+)+(?![\w.])", flag, message)
    return re.sub(r"^[a-z_]+(?==)", flag, message)
