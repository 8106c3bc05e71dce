"""Settings of a run, typed; recipes, and what may change when a run goes on."""

from .schema import (
    RECIPES,
    AugmentConfig,
    Config,
    CropConfig,
    DataConfig,
    EvalConfig,
    MethodConfig,
    ModelConfig,
    TrainConfig,
    load_config,
    recipe_names,
    save_config,
    settings,
    validate,
)
from .tree import ConfigError, from_tree, to_tree

__all__ = [
    "RECIPES",
    "AugmentConfig",
    "Config",
    "ConfigError",
    "CropConfig",
    "DataConfig",
    "EvalConfig",
    "MethodConfig",
    "ModelConfig",
    "TrainConfig",
    "from_tree",
    "load_config",
    "recipe_names",
    "save_config",
    "settings",
    "to_tree",
    "validate",
]
