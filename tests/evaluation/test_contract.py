"""A protocol that breaks the contract is refused by the name of what is wrong; the registry and the room's door."""

import ast
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

import esvit_fast.evaluation as room
from esvit_fast.evaluation import (
    ImageSettings,
    Needs,
    Protocol,
    Settings,
    get_protocol,
    list_protocols,
    register_protocol,
    setting,
)
from esvit_fast.evaluation.protocol import PROTOCOLS
from tests.packaging.tree import PACKAGE, ROOT


def members(**changes):
    """Those of a protocol that keeps the contract, but for some; None leaves a member out."""
    whole = {
        "name": "whole",
        "description": "All that there must be.",
        "needs": Needs(),
        "Settings": Settings,
        "run": lambda self, bench, task, settings: None,
    }
    return {name: value for name, value in (whole | changes).items() if value is not None}


@dataclass(frozen=True)
class Plain:
    bank: int = 0


@dataclass(frozen=True)
class Bare(Settings):
    images: int = field()


@dataclass(frozen=True)
class Odd(Settings):
    images: complex = setting(0j, "of no type of an option")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "has no name; see esvit_fast.evaluation.Protocol"),
        ({"needs": None, "run": None}, "has no needs and no run; see"),
        ({"description": None}, "has no description;"),
        ({"Settings": None}, "has no Settings;"),
        ({"name": "two words"}, "name='two words' must be one word"),
        ({"needs": ("class",)}, r"needs=\('class',\) must be a Needs"),
        ({"Settings": Plain}, "Settings must be a frozen dataclass derived from esvit_fast.evaluation.Settings"),
        ({"Settings": Bare}, "Settings.images has no default"),
        ({"Settings": Odd}, "Settings.images: <class 'complex'> must be bool, int, float, str, a Literal or a tuple"),
    ],
)
def test_a_broken_contract_names_the_member(changes, message):
    with pytest.raises(TypeError, match=f"^protocol Broken:? ?{message}"):
        register_protocol(type("Broken", (Protocol,), members(**changes)))
    assert "whole" not in PROTOCOLS


def test_what_is_no_protocol_is_refused():
    with pytest.raises(TypeError, match="^protocol Alien is no class derived from esvit_fast.evaluation.Protocol$"):
        register_protocol(type("Alien", (), members()))


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="^protocol 'knn' is registered twice; give one of them another name$"):
        register_protocol(type("Other", (Protocol,), members(name="knn")))
    assert type(get_protocol("knn")).__name__ == "Knn"


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="^protocol='linaer' is not a protocol; did you mean 'linear'\\?$"):
        get_protocol("linaer")
    assert [protocol.name for protocol in list_protocols()] == ["knn", "linear", "correspondence", "health"]


def test_every_setting_says_what_it_is():
    for protocol in list_protocols():
        for name in protocol.Settings.__dataclass_fields__:
            assert protocol.Settings.__dataclass_fields__[name].metadata["setting"].about, (protocol.name, name)
        assert protocol.description.endswith(".") and "\n" not in protocol.description


def test_a_range_is_that_of_each_of_several_values():
    @dataclass(frozen=True)
    class Ranged(ImageSettings):
        rates: tuple[float, ...] = setting((0.1, 1.0), "of the classifiers", above=0, unit="per image", hint="try 0.1")
        share: float = setting(0.5, "held out", at_least=0, at_most=1)

    assert Ranged(rates=(0.5,), share=1).rates == (0.5,) and Ranged().bank == 0
    for rates, wrong in (((0.1, -2.0), "-2.0"), ((), r"\(\)"), ((0.1, float("nan")), "nan")):
        with pytest.raises(ValueError, match=f"^rates={wrong} must be greater than 0 per image; try 0.1$"):
            Ranged(rates=rates)
    with pytest.raises(ValueError, match="^share=1.5 must be 0 or more and at most 1$"):
        Ranged(share=1.5)


def test_the_room_has_the_names_that_it_says_and_opens_without_torch():
    body = ast.parse((PACKAGE / "evaluation" / "__init__.py").read_text()).body
    checked = next(node.body for node in body if isinstance(node, ast.If))
    imported = {node.module: tuple(alias.name for alias in node.names) for node in checked}
    assert imported == room._HOMES
    assert sorted(room.__all__) == sorted(name for names in imported.values() for name in names)
    assert all(getattr(room, name) is not None for name in room.__all__) and set(room.__all__) <= set(dir(room))
    with pytest.raises(AttributeError, match="module 'esvit_fast.evaluation' has no attribute 'nonsense'"):
        _ = room.nonsense
    code = "from esvit_fast.evaluation import list_protocols\nassert list_protocols()\n"
    code += "import sys\nassert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
