"""Settings of a run, typed; recipes, and what may change when a run goes on."""

from .leaves import Setting, leaves, settings
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
    "Setting",
    "TrainConfig",
    "from_tree",
    "leaves",
    "load_config",
    "recipe_names",
    "save_config",
    "settings",
    "to_tree",
    "validate",
]
