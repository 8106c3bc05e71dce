"""`esvit-fast models` and `esvit-fast recipes`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ..config import RECIPES, load_config, recipe_names
from .options import Parser
from .tables import show


def models(argv: Sequence[str]) -> int:
    """List the backbones."""
    Parser("models", "Backbones and their sizes.").parse_args(argv)
    import torch

    from ..models import create_model, list_models

    table = Table("model", "parameters", "features", "native side", "blocks", box=None, header_style="bold")
    for name in list_models():
        with torch.device("meta"):
            model = create_model(name)
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        blocks = "+".join(map(str, model.depths()))
        table.add_row(name, f"{parameters:.1f} M", str(model.num_features), f"{model.image_size} px", blocks)
    show(table)
    return 0


def recipes(argv: Sequence[str]) -> int:
    """List the recipes."""
    Parser("recipes", "Settings that come with the package.").parse_args(argv)
    table = Table("recipe", "model", "batch", "epochs", "what it is", box=None, header_style="bold")
    for name in recipe_names():
        config = load_config(name)
        what = (RECIPES / f"{name}.yaml").read_text().splitlines()[0].removeprefix("# ")
        table.add_row(name, config.model.name, str(config.train.batch_size), f"{config.train.epochs:g}", what)
    show(table)
    return 0
