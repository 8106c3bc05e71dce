"""Typed configuration: every setting of a run, its default, and how it is read from YAML.

The defaults are the published Swin-T/7 recipe of EsViT (arXiv 2106.09785). A configuration is a value: frozen,
comparable, and written beside every run as ``config.yaml``. Schedules are given in epochs and followed by samples seen.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ..text import suggest
from .tree import ConfigError, from_tree, read_yaml, to_tree


@dataclass(frozen=True)
class ModelConfig:
    """The backbone."""

    name: str = "swin_tiny_w7"
    """A name that `esvit-fast models` lists."""
    drop_path_rate: float = 0.1
    """Stochastic depth of the student, rising linearly from 0 in the first block; the teacher has none."""
    checkpoint_stages: tuple[int, ...] = ()
    """Stages, from 0, whose blocks are computed again in the backward pass instead of being kept: less memory for the
    same weights, in more time. The first stages hold most."""


@dataclass(frozen=True)
class MethodConfig:
    """The two tasks of EsViT and their heads."""

    name: str = "esvit"
    """The method of pretraining."""
    out_dim: int = 65536
    """Prototypes of each head."""
    view_weight: float = 0.5
    """Weight of the view task; 1 with region_weight 0 is DINO."""
    region_weight: float = 0.5
    """Weight of the region task; 0 leaves out its head and its matching."""
    head_hidden_dim: int = 2048
    head_bottleneck_dim: int = 256
    head_batch_norm: bool = False
    norm_last_layer: bool = False
    """Freeze the prototypes' magnitudes weight_g at 1."""
    student_temp: float = 0.1
    teacher_temp: float = 0.07
    teacher_temp_start: float = 0.04
    teacher_temp_warmup_epochs: float = 30.0
    teacher_temp_schedule: Literal["epoch", "sample"] = "epoch"
    """Advance the temperature once per epoch, as published, or with every sample."""
    teacher_momentum: float = 0.996
    """Start of the cosine that ends at 1."""
    centering: Literal["mean", "sinkhorn"] = "mean"
    """Subtract the teacher's mean logits, as published, or balance its assignments over the prototypes."""
    center_momentum: float = 0.9
    koleo_weight: float = 0.0
    """Weight of a term that keeps the student's views of different images apart, in the bottleneck of the view head."""
    match_dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Round region similarities to this dtype, as the published code does under autocast (it picks wrong regions)."""


@dataclass(frozen=True)
class CropConfig:
    """Two global crops, which teacher and student see, and any number of local crops, which only the student sees."""

    global_size: int = 224
    global_scale: tuple[float, float] = (0.4, 1.0)
    """Area of a crop as a share of the image's."""
    local_sizes: tuple[int, ...] = (96,)
    local_counts: tuple[int, ...] = (8,)
    """Crops of each local size; empty tuples mean no local crops."""
    local_scale: tuple[float, float] = (0.05, 0.4)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The side of every view in pixels, view 0 and 1 being the global ones."""
        local = (size for size, count in zip(self.local_sizes, self.local_counts, strict=True) for _ in range(count))
        return (self.global_size, self.global_size, *local)


@dataclass(frozen=True)
class AugmentConfig:
    """DINO's augmentation. Triples hold (first global, second global, local)."""

    flip: float = 0.5
    jitter: float = 0.8
    """Probability that the colours of a view are jittered at all."""
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale: float = 0.2
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5)
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: tuple[float, float, float] = (0.0, 0.2, 0.0)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    exact_pil: bool = False
    """Do all this with Pillow, image by image on the CPU as published, for studies of parity; slow."""


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from and how views are made of them."""

    source: str = ""
    """A folder, a list (.txt, .csv, .tsv), a .zip or .tar of images, .tar shards or .parquet files ('*.tar',
    '{000..127}.tar', or their folder), a .npy or .npz, `torchvision:NAME@ROOT`, or `sample`."""
    workers: int = -1
    """Processes that decode and crop; -1: one per core but one, at most 8; 0: in the training process."""
    decode: Literal["cpu", "gpu"] = "cpu"
    """Where JPEGs are decoded, cut and resized. "gpu" does it by nvJPEG, through torchvision, with the same boxes and
    nearly the same pixels; processes then only read them, and decode what is no plain JPEG. Not yet run on a GPU."""
    max_megapixels: float = 64.0
    max_corrupt_share: float = 0.01
    """Share of unreadable images above which the run stops."""
    crops: CropConfig = field(default_factory=CropConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, precision and bookkeeping."""

    batch_size: int = 512
    """Images per optimiser step, over all ranks and accumulation steps."""
    accumulation_steps: int = 1
    micro_batch_size: int = 0
    """Most images that a rank holds at a time: what its share of the batch has more is accumulated, so that the batch
    is the same on any number of ranks. 0: accumulation_steps says how the batch is divided."""
    epochs: float = 300.0
    learning_rate: float = 5e-4
    """Peak rate for 256 images per step; it is scaled by batch_size / 256."""
    min_learning_rate: float = 1e-6
    warmup_epochs: float = 10.0
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    clip_grad: float = 3.0
    """Largest gradient norm; 0 turns clipping off."""
    clip_by: Literal["tensor", "global"] = "tensor"
    """Clip every parameter tensor by its own norm, as published, or all by the global norm."""
    freeze_last_layer_epochs: float = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of activations. "auto": bf16 on devices that are fast in it, else fp32; a run keeps what it became."""
    matmul: Literal["exact", "fast"] = "exact"
    """Float32 matrix products on a GPU. "fast" lets them round what they multiply
    (torch.set_float32_matmul_precision("medium")); on a CPU it changes nothing."""
    shard: bool = False
    """Divide weights, gradients and the optimiser's state among ranks (FSDP2) instead of keeping them whole on each
    (DDP): less memory for more communication, for large backbones. The same numbers but for rounding."""
    compile: bool = False
    """Let torch.compile fuse what lies around the operators, stage by stage, or block by block with `shard`. The first
    steps take minutes more."""
    cuda_graph: bool = False
    """Replay a step on a GPU as one CUDA graph, so that no launch of a kernel costs time. For one GPU, without
    accumulation. Three steps run as without after the teacher's temperature has moved: of every epoch while it is
    warmed up, or all until then where it moves with every sample."""
    device: str = "auto"
    seed: int = 0
    checkpoint_every_steps: int = 500
    keep_checkpoints: int = 2
    log_every_steps: int = 10
    """The first and the last step are logged, too."""
    loggers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where records go besides metrics.jsonl; `pip install 'esvit-fast[log]'`."""
    stop_on_collapse: bool = False
    """Save and stop when the run is found to collapse, instead of only warning; `esvit-fast resume` goes on with it."""


@dataclass(frozen=True)
class EvalConfig:
    """k-NN while training; unlabelled data has none. `eval` and `report` take all images."""

    knn_every_epochs: float = 0.0
    """0: only when asked."""
    knn_bank: int = 10_000
    """Images of the training split kept as neighbours while training; the same ones every time."""
    knn_queries: int = 2_000


@dataclass(frozen=True)
class Config:
    """A whole run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


RECIPES = Path(__file__).parents[1] / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_config(recipe: str | Path) -> Config:
    """Read a recipe by name, or a YAML file by path.

    Raises:
        ConfigError: there is no such recipe, a key is unknown, a value has the wrong type or is out of range.
    """
    path = RECIPES / f"{recipe}.yaml"
    if not path.exists():
        path = Path(recipe)
    if not path.is_file():
        nearest = suggest(str(recipe), recipe_names())
        raise ConfigError(f"recipe={str(recipe)!r} is neither a file nor a recipe{nearest}")
    try:
        with path.open("rb") as stream:
            tree = read_yaml(stream)
    except ValueError as error:
        raise ConfigError(f"recipe={str(path)!r} is not YAML: {error}") from None
    return validate(from_tree(Config, {} if tree is None else tree, where=path.name))


def save_config(config: Config, path: Path) -> None:
    """Write a configuration that `load_config` reads back equal."""
    path.write_text(yaml.safe_dump(to_tree(config), sort_keys=False))


def _each(fits: Callable[[float], bool]) -> Callable[[Any], bool]:
    return lambda value: all(map(fits, value if isinstance(value, tuple) else (value,)))


_RANGES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    (
        "must be greater than 0",
        _each(lambda value: value > 0),
        "method.out_dim method.head_hidden_dim method.head_bottleneck_dim method.student_temp method.teacher_temp "
        "method.teacher_temp_start data.max_megapixels data.crops.global_size data.crops.local_sizes data.augment.std "
        "train.batch_size train.accumulation_steps train.epochs train.learning_rate train.checkpoint_every_steps "
        "train.keep_checkpoints train.log_every_steps eval.knn_bank eval.knn_queries",
    ),
    (
        "must not be negative",
        _each(lambda value: value >= 0),
        "model.checkpoint_stages method.view_weight method.region_weight method.koleo_weight "
        "method.teacher_temp_warmup_epochs data.crops.local_counts train.micro_batch_size "
        "data.augment.brightness data.augment.contrast data.augment.saturation train.min_learning_rate "
        "train.warmup_epochs train.weight_decay train.weight_decay_end train.clip_grad train.freeze_last_layer_epochs "
        "eval.knn_every_epochs",
    ),
    (
        "must lie between 0 and 1",
        _each(lambda value: 0 <= value <= 1),
        "model.drop_path_rate method.teacher_momentum method.center_momentum data.max_corrupt_share data.augment.flip "
        "data.augment.jitter data.augment.grayscale data.augment.blur data.augment.solarize",
    ),
    ("must lie between 0 and 0.5", lambda value: 0 <= value <= 0.5, "data.augment.hue"),
    ("must be at least -1", lambda value: value >= -1, "data.workers"),
    ("must lie between 0 and 2**64 - 1", lambda value: 0 <= value < 2**64, "train.seed"),
    (
        "must rise within (0, 1]",
        lambda pair: 0 < pair[0] <= pair[1] <= 1,
        "data.crops.global_scale data.crops.local_scale",
    ),
    ("must rise above 0", lambda pair: 0 < pair[0] <= pair[1], "data.augment.blur_sigma"),
)


def validate(config: Config) -> Config:
    """Check ranges and combinations; return the configuration.

    Raises:
        ConfigError: naming the first setting that cannot work, its value and the remedy.
    """
    values = dict(settings(config))
    finite = _each(lambda value: not isinstance(value, float) or math.isfinite(value))
    for remedy, fits, names in (("must be finite", finite, " ".join(values)), *_RANGES):
        for name in names.split():
            if not fits(values[name]):
                raise ConfigError(f"{name}={values[name]} {remedy}")
    m, c, t = config.method, config.data.crops, config.train
    if m.koleo_weight and m.view_weight == 0:
        raise ConfigError(
            f"method.koleo_weight={m.koleo_weight:g} needs the view task, but method.view_weight=0; set one of them"
        )
    if m.view_weight == m.region_weight == 0:
        raise ConfigError(
            f"method.view_weight={m.view_weight} and method.region_weight={m.region_weight} must not both be 0; "
            "DINO is view_weight=1, region_weight=0"
        )
    if len(c.local_sizes) != len(c.local_counts):
        raise ConfigError(
            f"data.crops.local_counts={c.local_counts} must have one count for each of "
            f"data.crops.local_sizes={c.local_sizes}"
        )
    if t.warmup_epochs > t.epochs:
        raise ConfigError(
            f"train.warmup_epochs={t.warmup_epochs} is longer than train.epochs={t.epochs}; "
            f"pass --train.warmup-epochs {t.epochs / 10:g} or train longer"
        )
    if t.shard and t.precision == "fp16":
        raise ConfigError(
            "train.shard=True does not go with train.precision='fp16', whose loss scale every rank would find for "
            "itself; pass --train.precision bf16"
        )
    if t.micro_batch_size and t.accumulation_steps > 1:
        raise ConfigError(
            f"train.micro_batch_size={t.micro_batch_size} decides about accumulation, but train.accumulation_steps="
            f"{t.accumulation_steps}; set this to 1 or the first to 0"
        )
    if t.batch_size % t.accumulation_steps:
        raise ConfigError(
            f"train.accumulation_steps={t.accumulation_steps} must divide train.batch_size={t.batch_size}"
        )
    return config


def settings(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of all settings of a configuration."""
    for f in dataclasses.fields(section):
        value = getattr(section, f.name)
        if dataclasses.is_dataclass(value):
            yield from settings(value, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, value
