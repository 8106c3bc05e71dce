"""Configuration: YAML round trip of every field; each mistake is one line that names setting, value and remedy."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import os
import typing
from collections.abc import Iterator

import pytest
import torch
import yaml

from esvit_fast.config import (
    Config,
    ConfigError,
    CropConfig,
    MethodSettings,
    TrainConfig,
    from_tree,
    load_config,
    recipe_names,
    save_config,
    to_tree,
    validate,
)
from esvit_fast.config import schema as module
from esvit_fast.methods.esvit_settings import EsViTSettings
from esvit_fast.text import suggest


@pytest.fixture
def load(tmp_path):
    """Read YAML text from a file called run.yaml."""

    def read(text: str | bytes) -> Config:
        (tmp_path / "run.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return load_config(tmp_path / "run.yaml")

    return read


def leaves(cls: type, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], typing.Any]]:
    """Every setting below a dataclass: the names that lead to it and its type."""
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from leaves(EsViTSettings if hint is MethodSettings else hint, (*path, name))
        else:
            yield (*path, name), hint


def get(config: typing.Any, path: tuple[str, ...]) -> typing.Any:
    for name in path:
        config = getattr(config, name)
    return config


def put(config: typing.Any, path: tuple[str, ...], value: typing.Any) -> typing.Any:
    if not path:
        return value
    return dataclasses.replace(config, **{path[0]: put(getattr(config, path[0]), path[1:], value)})


def nest(path: tuple[str, ...], value: typing.Any) -> typing.Any:
    return {path[0]: nest(path[1:], value)} if path else value


def another(value: typing.Any, hint: typing.Any) -> typing.Any:
    """A value of the same type that differs."""
    choices = [c for h in (hint, *typing.get_args(hint)) if typing.get_origin(h) is typing.Literal for c in h.__args__]
    if choices:
        return tuple(choices) if isinstance(value, tuple) else next(c for c in choices if c != value)
    if isinstance(value, tuple):
        return tuple(another(item, None) for item in value) or (1,)
    if isinstance(value, bool):
        return not value
    return value + {str: "x é: #", int: 1, float: 0.1}[type(value)]


LEAVES = dict(leaves(Config))
del LEAVES["method", "name"]  # which is none of all words, but that of a method
NUMBERS = [
    path
    for path, hint in LEAVES.items()
    if isinstance(get(Config(), path), int | float | tuple) and hint is not bool and "Literal" not in str(hint)
]


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_every_setting_survives_yaml_alone_and_in_a_whole_file(tmp_path, path):
    value = another(get(Config(), path), LEAVES[path])
    changed = put(Config(), path, value)
    assert changed != Config()
    save_config(changed, tmp_path / "config.yaml")
    tree = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert from_tree(Config, tree) == changed
    found = from_tree(Config, nest(path, functools.reduce(operator.getitem, path, tree)))
    assert found == changed and type(get(found, path)) is type(value)


def test_a_saved_run_is_read_back_equal(tmp_path):
    crops = CropConfig(32, (0.3, 1.0), (16, 12), (2, 1), (0.1, 0.3))
    train = TrainConfig(batch_size=96, accumulation_steps=3, epochs=0.1 + 0.2, learning_rate=1e-7, warmup_epochs=0.1)
    given = put(put(Config(), ("data", "crops"), crops), ("train",), train)
    save_config(given, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == load_config(str(tmp_path / "config.yaml")) == given
    assert hash(load_config(tmp_path / "config.yaml")) == hash(given)


def test_the_tree_is_plain_and_an_empty_file_is_the_defaults(load):
    assert yaml.safe_load(yaml.safe_dump(to_tree(Config()))) == to_tree(Config())
    assert load("") == load("{}") == load("# nothing\n") == Config() == validate(Config())


def test_the_defaults_are_the_published_recipe():
    train, method, crops = Config().train, Config().method, Config().data.crops
    assert (train.batch_size, train.epochs, train.warmup_epochs, train.learning_rate) == (512, 300, 10, 5e-4)
    assert (train.weight_decay, train.weight_decay_end, train.clip_grad, train.clip_by) == (0.04, 0.4, 3.0, "tensor")
    assert (method.out_dim, method.norm_last_layer, method.teacher_momentum) == (65536, False, 0.996)
    assert (method.teacher_temp_start, method.teacher_temp, method.teacher_temp_warmup_epochs) == (0.04, 0.07, 30)
    assert crops.sizes == (224, 224, *[96] * 8)
    assert (crops.global_scale, crops.local_scale) == ((0.4, 1.0), (0.05, 0.4))


def test_sizes_list_every_view_in_order():
    assert CropConfig(global_size=32, local_sizes=(16, 12), local_counts=(2, 1)).sizes == (32, 32, 16, 16, 12)
    assert CropConfig(global_size=32, local_sizes=(), local_counts=()).sizes == (32, 32)


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.batch_size = 3


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("train: {learning_rate: 5e-4}", ("train", "learning_rate"), 5e-4),  # a string in YAML 1.1
        ("train: {learning_rate: 1E-3}", ("train", "learning_rate"), 1e-3),
        ("train: {epochs: 33}", ("train", "epochs"), 33.0),
        ("train: {batch_size: 1e3}", ("train", "batch_size"), 1000),
        ("train: {batch_size: 64.0}", ("train", "batch_size"), 64),
        ("train: {batch_size: '64'}", ("train", "batch_size"), 64),
        ("data: {crops: {global_scale: [5e-1, 1]}}", ("data", "crops", "global_scale"), (0.5, 1.0)),
        ("data: {crops: {local_sizes: [], local_counts: []}}", ("data", "crops", "local_sizes"), ()),
        ("method: {match_dtype: null}", ("method", "match_dtype"), None),
        ("method: {match_dtype: bfloat16}", ("method", "match_dtype"), "bfloat16"),
        ("method: {head_batch_norm: true}", ("method", "head_batch_norm"), True),
    ],
)
def test_values_are_read_as_the_type_that_the_setting_has(load, text, path, value):
    found = get(load(text), path)
    assert found == value and type(found) is type(value)
    if isinstance(value, tuple):
        assert [type(item) for item in found] == [type(item) for item in value]


MISTAKES = {
    # keys
    "train: {learnin_rate: 1}": "run.yaml: train: unknown key 'learnin_rate'; did you mean 'learning_rate'?",
    "trian: {}": "run.yaml: unknown key 'trian'; did you mean 'train'?",
    "data: {crops: {global_sizes: 3}}": "data: crops: unknown key 'global_sizes'; did you mean 'global_size'?",
    "zzzzz: 1": "run.yaml: unknown key 'zzzzz'; known: model, method, data, train, eval",
    "1: 2": "run.yaml: unknown key 1; known: model, method, data, train, eval",
    # shapes of the tree
    "- 1": "run.yaml=[1] must be a mapping of model, method, data, train, eval",
    "[]": "run.yaml=[] must be a mapping of model, method, data, train, eval",
    "false": "run.yaml=False must be a mapping of model, method, data, train, eval",
    "model: 3": "run.yaml: model=3 must be a mapping of name, drop_path_rate",
    # types
    "train: {learning_rate: fast}": "run.yaml: train: learning_rate='fast' must be a number",
    "train: {batch_size: 5.5}": "run.yaml: train: batch_size=5.5 must be of type int",
    "train: {batch_size: true}": "run.yaml: train: batch_size=True must be of type int",
    "train: {epochs: false}": "run.yaml: train: epochs=False must be of type float",
    "train: {epochs: null}": "run.yaml: train: epochs=None must be of type float",
    "train: {device: 1}": "run.yaml: train: device=1 must be of type str",
    "method: {head_batch_norm: 1}": "run.yaml: method: head_batch_norm=1 must be of type bool",
    "method: {student_temp: 2020-01-01}": "must be of type float",
    "data: {crops: {global_scale: 0.5}}": "run.yaml: data: crops: global_scale=0.5 must be a list",
    "data: {crops: {global_scale: [0.5]}}": "run.yaml: data: crops: global_scale=[0.5] must have 2 values",
    "data: {crops: {local_sizes: [96, x]}}": "run.yaml: data: crops: local_sizes='x' must be a number",
    # choices
    "train: {precision: fp8}": "run.yaml: train: precision='fp8' must be one of auto, fp32, bf16, fp16",
    "train: {clip_by: [1]}": "run.yaml: train: clip_by=[1] must be one of tensor, global",
    "method: {match_dtype: float64}": "method: match_dtype='float64' must be one of float32, float16, bfloat16",
    # ranges
    "train: {batch_size: 0}": "train.batch_size=0 must be greater than 0",
    "train: {learning_rate: -5e-4}": "train.learning_rate=-0.0005 must be greater than 0",
    "method: {teacher_temp: 0}": "method.teacher_temp=0.0 must be greater than 0",
    "data: {crops: {global_size: 0}}": "data.crops.global_size=0 must be greater than 0",
    "train: {keep_checkpoints: 0}": "train.keep_checkpoints=0 must be greater than 0",
    "method: {teacher_momentum: 1.1}": "method.teacher_momentum=1.1 must lie between 0 and 1",
    "method: {koleo_weight: -0.1}": "method.koleo_weight=-0.1 must not be negative",
    "method: {koleo_weight: 0.1, view_weight: 0}": "method.koleo_weight=0.1 needs the view task",
    "method: {center_momentum: -0.1}": "method.center_momentum=-0.1 must lie between 0 and 1",
    "data: {augment: {flip: 2}}": "data.augment.flip=2.0 must lie between 0 and 1",
    "data: {augment: {blur: [0.5, 2, 0]}}": "data.augment.blur=(0.5, 2.0, 0.0) must lie between 0 and 1",
    "data: {augment: {solarize: [0, 0, -0.1]}}": "data.augment.solarize=(0.0, 0.0, -0.1) must lie between 0 and 1",
    "data: {augment: {hue: 0.6}}": "data.augment.hue=0.6 must lie between 0 and 0.5",
    "data: {augment: {std: [0.2, 0, 0.2]}}": "data.augment.std=(0.2, 0.0, 0.2) must be greater than 0",
    "data: {augment: {blur_sigma: [2, 0.1]}}": "data.augment.blur_sigma=(2.0, 0.1) must rise above 0",
    "data: {augment: {blur_sigma: [0, 0.1]}}": "data.augment.blur_sigma=(0.0, 0.1) must rise above 0",
    "data: {crops: {local_sizes: [0]}}": "data.crops.local_sizes=(0,) must be greater than 0",
    "data: {crops: {local_counts: [-1]}}": "data.crops.local_counts=(-1,) must not be negative",
    "data: {workers: -2}": "data.workers=-2 must be at least -1",
    "method: {head_bottleneck_dim: 0}": "method.head_bottleneck_dim=0 must be greater than 0",
    "train: {warmup_epochs: -1}": "train.warmup_epochs=-1.0 must not be negative",
    "eval: {knn_queries: 0}": "eval.knn_queries=0 must be greater than 0",
    "train: {seed: -1}": "train.seed=-1 must lie between 0 and 2**64 - 1",
    "train: {seed: 18446744073709551616}": "train.seed=18446744073709551616 must lie between 0 and 2**64 - 1",
    "data: {crops: {local_scale: [0.4, 0.05]}}": "data.crops.local_scale=(0.4, 0.05) must rise within (0, 1]",
    "data: {crops: {global_scale: [0, 1]}}": "data.crops.global_scale=(0.0, 1.0) must rise within (0, 1]",
    "data: {crops: {global_scale: [0.5, 1.5]}}": "data.crops.global_scale=(0.5, 1.5) must rise within (0, 1]",
    # combinations
    "train: {epochs: 5}": (
        "train.warmup_epochs=10.0 is longer than train.epochs=5.0; pass --train.warmup-epochs 0.5 or train longer"
    ),
    "train: {batch_size: 100, accumulation_steps: 3}": "train.accumulation_steps=3 must divide train.batch_size=100",
    "train: {micro_batch_size: 32, accumulation_steps: 2}": (
        "train.micro_batch_size=32 decides about accumulation, but train.accumulation_steps=2; "
        "set this to 1 or the first to 0"
    ),
    "data: {crops: {local_counts: [1, 2]}}": (
        "data.crops.local_counts=(1, 2) must have one count for each of data.crops.local_sizes=(96,)"
    ),
    "method: {view_weight: 0, region_weight: 0}": (
        "method.view_weight=0.0 and method.region_weight=0.0 must not both be 0; DINO is view_weight=1, region_weight=0"
    ),
    "method: {view_weight: -1}": "method.view_weight=-1.0 must not be negative",
    # not finite
    "train: {learning_rate: .nan}": "train.learning_rate=nan must be finite",
    "train: {epochs: .inf}": "train.epochs=inf must be finite",
    "train: {clip_grad: '-inf'}": "train.clip_grad=-inf must be finite",
    "data: {augment: {jitter: .nan}}": "data.augment.jitter=nan must be finite",
    "data: {augment: {mean: [0, .inf, 0]}}": "data.augment.mean=(0.0, inf, 0.0) must be finite",
    "train: {batch_size: .inf}": "run.yaml: train: batch_size=inf must be of type int",
    "train: {batch_size: .nan}": "run.yaml: train: batch_size=nan must be of type int",
    "train: {batch_size: 1e400}": "run.yaml: train: batch_size='1e400' must be of type int",
    f"train: {{epochs: 1{'0' * 400}}}": "0 must be finite",
    # not YAML, and never code
    "train: [": "is not YAML: while parsing",
    "train: {batch_size: 512, epochs: 3, batch_size: 256}": "is not YAML: key 'batch_size' stands twice in",
    "train: {epochs: 2020-99-99}": "is not YAML: month must be in 1..12",
    "[" * 5000: "is not YAML: maximum recursion depth exceeded",
    b"\xff\x00": "is not YAML: unacceptable character #x00ff: invalid start byte in",
    "model: {name: Stra\u00dfe}".encode(
        "latin-1"
    ): "is not YAML: unacceptable character #x00df: invalid continuation byte",
    "!!python/object/apply:os.mkdir [ran]": "is not YAML: could not determine a constructor",
}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: repr(text)[:60])
def test_a_mistake_is_one_line_that_names_setting_value_and_remedy(load, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert MISTAKES[text] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["run.yaml"]


@pytest.mark.parametrize("wrong", [-1e9, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("path", NUMBERS, ids=".".join)
def test_every_number_has_a_range(path, wrong):
    default = get(Config(), path)
    changed = put(Config(), path, (wrong,) * max(1, len(default)) if isinstance(default, tuple) else wrong)
    if path[-1] == "mean" and math.isfinite(wrong):
        assert validate(changed) is changed
    else:
        with pytest.raises(ConfigError, match=rf"^{'.'.join(path)}=\(?{wrong}.* must "):
            validate(changed)


@pytest.mark.parametrize("seed", [0, 2**53 + 1, 12345678901234567891, 2**64 - 1])
def test_a_seed_keeps_every_digit(load, seed):
    assert load(f"train: {{seed: {seed}}}").train.seed == load(f"train: {{seed: '{seed}'}}").train.seed == seed
    assert torch.Generator().manual_seed(seed).initial_seed() == seed


def test_text_is_utf8_whatever_the_locale(load):
    assert load("data: {source: Straße}").data.source == "Straße"


def test_a_yaml_merge_is_no_repetition(load):
    merged = load("data:\n  crops: {<<: {global_size: 32, local_sizes: [16]}, global_size: 48}\n").data.crops
    assert (merged.global_size, merged.local_sizes) == (48, (16,))


@pytest.mark.parametrize("path", [path for path in NUMBERS if LEAVES[path] in (int, float)], ids=".".join)
@pytest.mark.parametrize("wrong", ["many", [1], {"a": 1}, True, None], ids=str)
def test_no_number_takes_another_type(path, wrong):
    with pytest.raises(ConfigError, match=path[-1]):
        from_tree(Config, nest(path, wrong))


def test_a_recipe_is_found_by_name_and_a_wrong_name_suggests_the_nearest(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RECIPES", tmp_path)
    for name in ("swin_tiny_w7", "sample"):
        (tmp_path / f"{name}.yaml").write_text("train: {seed: 5}\n")
    (tmp_path / "notes.txt").touch()
    assert recipe_names() == ["sample", "swin_tiny_w7"]
    assert load_config("sample").train.seed == 5
    with pytest.raises(ConfigError, match=r"recipe='swin_tny_w7' is neither.*; did you mean 'swin_tiny_w7'"):
        load_config("swin_tny_w7")
    with pytest.raises(ConfigError, match=r"; known: sample, swin_tiny_w7$"):
        load_config("qqqq")
    with pytest.raises(ConfigError, match="is neither a file nor a recipe"):
        load_config(tmp_path)


def test_every_recipe_that_is_shipped_is_valid():
    for name in recipe_names():
        config = load_config(name)
        assert math.isfinite(config.train.epochs) and len(config.data.crops.sizes) >= 2


def test_suggest_names_the_nearest_or_all():
    assert suggest("swin_tiny", ["vit_small", "swin_tiny_w7"]) == "; did you mean 'swin_tiny_w7'?"
    assert suggest("xyz", iter(["a_long_name", "b"])) == "; known: a_long_name, b"
    assert suggest("xyz", []) == "; known: none"
