"""Weights from files into backbones."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_BUFFERS = ("relative_position_index", "attn_mask")
"""Tensors of published checkpoints that this library computes instead."""


def load_backbone(model: nn.Module, path: str | Path) -> None:
    """Load a backbone's weights strictly, a classifier and the published index and mask buffers set aside.

    Args:
        model: the backbone.
        path: a run directory (its model.safetensors is read) or a .safetensors file.

    Raises:
        ValueError: there is no such file, it is damaged, or it holds another architecture.
    """
    file = Path(path)
    file = file / "model.safetensors" if file.is_dir() else file
    if not file.is_file():
        raise ValueError(f"pretrained={str(path)!r} is neither a run directory nor a .safetensors file")
    try:
        state = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"pretrained={str(file)!r} is damaged or not a safetensors file: {error}") from None
    load_state(model, state, str(file))


def load_state(model: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load a state dict as `load_backbone` does; `what` names it in errors."""
    state = {name: tensor for name, tensor in state.items() if not name.endswith(_BUFFERS)}
    own = model.state_dict()
    state |= {name: tensor for name, tensor in own.items() if name.startswith("head.") and name not in state}
    wrong = sorted(
        name
        for name in own.keys() | state.keys()
        if name not in own or name not in state or own[name].shape != state[name].shape
    )
    if wrong:
        name = wrong[0]
        here, there = (tuple(d[name].shape) if name in d else "absent" for d in (own, state))
        raise ValueError(
            f"pretrained={what!r} is of another architecture: {len(wrong)} tensors differ, first {name} "
            f"(model: {here}, file: {there}); create the model that the weights were trained with"
        )
    model.load_state_dict(state)
