"""Typed configuration: every setting of a run, its default, and how it is read from YAML.

The defaults are the published Swin-T/7 recipe of EsViT (arXiv 2106.09785). A configuration is a value: frozen,
comparable, and written beside every run as ``config.yaml``. Schedules are given in epochs and followed by samples seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from ..errors import UserError
from ..text import suggest
from .leaves import leaves
from .method import MethodSettings
from .rules import Cure, Free, Range, Rising
from .tree import ConfigError, from_tree, read_yaml, to_tree


@dataclass(frozen=True)
class ModelConfig:
    """The backbone."""

    name: str = "swin_tiny_w7"
    """A name that `esvit-fast models` lists."""
    drop_path_rate: Annotated[float, Range(least=0, most=1)] = 0.1
    """Stochastic depth of the student, rising linearly from 0 in the first block; the teacher has none."""
    checkpoint_stages: Annotated[tuple[int, ...], Range(least=0), Free()] = ()
    """Stages, from 0, whose blocks are computed again in the backward pass instead of being kept: less memory for the
    same weights, in more time. The first stages hold most."""


@dataclass(frozen=True)
class CropConfig:
    """Two global crops, which teacher and student see, and any number of local crops, which only the student sees."""

    global_size: Annotated[int, Range(above=0)] = 224
    global_scale: Annotated[tuple[float, float], Rising(most=1)] = (0.4, 1.0)
    """Area of a crop as a share of the image's."""
    local_sizes: Annotated[tuple[int, ...], Range(above=0)] = (96,)
    local_counts: Annotated[tuple[int, ...], Range(least=0)] = (8,)
    """Crops of each local size; empty tuples mean no local crops."""
    local_scale: Annotated[tuple[float, float], Rising(most=1)] = (0.05, 0.4)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The side of every view in pixels, view 0 and 1 being the global ones."""
        local = (size for size, count in zip(self.local_sizes, self.local_counts, strict=True) for _ in range(count))
        return (self.global_size, self.global_size, *local)


@dataclass(frozen=True)
class AugmentConfig:
    """DINO's augmentation. Triples hold (first global, second global, local)."""

    flip: Annotated[float, Range(least=0, most=1)] = 0.5
    jitter: Annotated[float, Range(least=0, most=1)] = 0.8
    """Probability that the colours of a view are jittered at all."""
    brightness: Annotated[float, Range(least=0)] = 0.4
    contrast: Annotated[float, Range(least=0)] = 0.4
    saturation: Annotated[float, Range(least=0)] = 0.2
    hue: Annotated[float, Range(least=0, most=0.5)] = 0.1
    grayscale: Annotated[float, Range(least=0, most=1)] = 0.2
    blur: Annotated[tuple[float, float, float], Range(least=0, most=1)] = (1.0, 0.1, 0.5)
    blur_sigma: Annotated[tuple[float, float], Rising()] = (0.1, 2.0)
    solarize: Annotated[tuple[float, float, float], Range(least=0, most=1)] = (0.0, 0.2, 0.0)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: Annotated[tuple[float, float, float], Range(above=0)] = (0.229, 0.224, 0.225)
    exact_pil: bool = False
    """Do all this with Pillow, image by image on the CPU as published, for studies of parity; slow."""


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from and how views are made of them."""

    source: Annotated[str, Free()] = ""
    """A folder, a list (.txt, .csv, .tsv), a .zip or .tar of images, .tar shards or .parquet files ('*.tar',
    '{000..127}.tar', or their folder), a .npy or .npz, `torchvision:NAME@ROOT`, or `sample`."""
    workers: Annotated[int, Range(least=-1), Free()] = -1
    """Processes that decode and crop; -1: one per core but one, at most 8; 0: in the training process."""
    decode: Annotated[Literal["cpu", "gpu"], Free()] = "cpu"
    """Where JPEGs are decoded, cut and resized. "gpu" does it by nvJPEG, through torchvision, with the same boxes and
    nearly the same pixels; processes then only read them, and decode what is no plain JPEG. Not yet run on a GPU."""
    max_megapixels: Annotated[float, Range(above=0)] = 64.0
    max_corrupt_share: Annotated[float, Range(least=0, most=1), Free()] = 0.01
    """Share of unreadable images above which the run stops."""
    crops: CropConfig = field(default_factory=CropConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, precision and bookkeeping."""

    batch_size: Annotated[int, Range(above=0)] = 512
    """Images per optimiser step, over all ranks and accumulation steps."""
    accumulation_steps: Annotated[int, Range(above=0), Free()] = 1
    micro_batch_size: Annotated[int, Range(least=0), Free()] = 0
    """Most images that a rank holds at a time: what its share of the batch has more is accumulated, so that the batch
    is the same on any number of ranks. 0: accumulation_steps says how the batch is divided."""
    epochs: Annotated[float, Range(above=0), Cure()] = 300.0
    learning_rate: Annotated[float, Range(above=0), Cure()] = 5e-4
    """Peak rate for 256 images per step; it is scaled by batch_size / 256."""
    min_learning_rate: Annotated[float, Range(least=0), Cure()] = 1e-6
    warmup_epochs: Annotated[float, Range(least=0), Cure()] = 10.0
    weight_decay: Annotated[float, Range(least=0), Cure()] = 0.04
    weight_decay_end: Annotated[float, Range(least=0), Cure()] = 0.4
    clip_grad: Annotated[float, Range(least=0), Cure()] = 3.0
    """Largest gradient norm; 0 turns clipping off."""
    clip_by: Annotated[Literal["tensor", "global"], Cure()] = "tensor"
    """Clip every parameter tensor by its own norm, as published, or all by the global norm."""
    freeze_last_layer_epochs: Annotated[float, Range(least=0)] = 1.0
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], Cure()] = "auto"
    """Of activations. "auto": bf16 on devices that are fast in it, else fp32; a run keeps what it became."""
    matmul: Annotated[Literal["exact", "fast"], Cure()] = "exact"
    """Float32 matrix products on a GPU. "fast" lets them round what they multiply
    (torch.set_float32_matmul_precision("medium")); on a CPU it changes nothing."""
    shard: Annotated[bool, Free()] = False
    """Divide weights, gradients and the optimiser's state among ranks (FSDP2) instead of keeping them whole on each
    (DDP): less memory for more communication, for large backbones. The same numbers but for rounding."""
    compile: Annotated[bool, Free()] = False
    """Let torch.compile fuse what lies around the operators, stage by stage, or block by block with `shard`. The first
    steps take minutes more."""
    cuda_graph: Annotated[bool, Free()] = False
    """Replay a step on a GPU as one CUDA graph, so that no launch of a kernel costs time. For one GPU, without
    accumulation. Three steps run as without after the teacher's temperature has moved: of every epoch while it is
    warmed up, or all until then where it moves with every sample."""
    device: Annotated[str, Free()] = "auto"
    seed: Annotated[int, Range(least=0, most=2**64 - 1)] = 0
    checkpoint_every_steps: Annotated[int, Range(above=0), Free()] = 500
    keep_checkpoints: Annotated[int, Range(above=0), Free()] = 2
    log_every_steps: Annotated[int, Range(above=0), Free()] = 10
    """The first and the last step are logged, too."""
    loggers: Annotated[tuple[Literal["tensorboard", "wandb", "trackio"], ...], Free()] = ()
    """Where records go besides metrics.jsonl; `pip install 'esvit-fast[log]'`."""
    stop_on_collapse: Annotated[bool, Free()] = False
    """Save and stop when the run is found to collapse, instead of only warning; `esvit-fast resume` goes on with it."""


@dataclass(frozen=True)
class EvalConfig:
    """k-NN while training; unlabelled data has none. `eval` and `report` take all images."""

    knn_every_epochs: Annotated[float, Range(least=0), Free()] = 0.0
    """0: only when asked."""
    knn_bank: Annotated[int, Range(above=0), Free()] = 10_000
    """Images of the training split kept as neighbours while training; the same ones every time."""
    knn_queries: Annotated[int, Range(above=0), Free()] = 2_000


@dataclass(frozen=True)
class Config:
    """A whole run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodSettings = field(default_factory=MethodSettings.default)
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
    except UserError as error:
        raise ConfigError(f"recipe={str(path)!r} is not YAML: {error}") from None
    return validate(from_tree(Config, {} if tree is None else tree, where=path.name))


def save_config(config: Config, path: Path) -> None:
    """Write a configuration that `load_config` reads back equal."""
    path.write_text(yaml.safe_dump(to_tree(config), sort_keys=False))


def validate(config: Config) -> Config:
    """Check ranges and combinations; return the configuration.

    Raises:
        ConfigError: naming the first setting that cannot work, its value and the remedy.
    """
    given = list(leaves(config))
    for setting in given:
        if not _is_finite(setting.value):
            raise ConfigError(f"{setting.name}={setting.value} must be finite")
    for setting in given:
        if remedy := setting.why_wrong():
            raise ConfigError(f"{setting.name}={setting.value} {remedy}")
    c, t = config.data.crops, config.train
    if why := config.method.why_wrong():
        raise ConfigError(why)
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


def _is_finite(value: Any) -> bool:
    numbers = value if isinstance(value, tuple) else (value,)
    return all(math.isfinite(number) for number in numbers if isinstance(number, float))
