"""Settings of a run, typed; recipes, and what may change when a run goes on."""

from .leaves import Setting, leaves, settings
from .method import MethodSettings, register_settings
from .schema import (
    RECIPES,
    AugmentConfig,
    Config,
    CropConfig,
    DataConfig,
    EvalConfig,
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
    "MethodSettings",
    "ModelConfig",
    "Setting",
    "TrainConfig",
    "from_tree",
    "leaves",
    "load_config",
    "recipe_names",
    "register_settings",
    "save_config",
    "settings",
    "to_tree",
    "validate",
]
