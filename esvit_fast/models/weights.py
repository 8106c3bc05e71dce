"""Weights from files into backbones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import UserError

Found = TypeVar("Found")
_BUFFERS = ("relative_position_index", "attn_mask")
"""Tensors of published checkpoints that this library computes instead."""


def load_backbone(model: nn.Module, path: str | Path) -> None:
    """Load a backbone's weights strictly, a classifier and the published index and mask buffers set aside.

    Args:
        model: the backbone.
        path: a run directory (its model.safetensors is read) or a .safetensors file.

    Raises:
        UserError: there is no such file, it is damaged, or it holds another architecture.
    """
    file = weights_file(path)
    load_state(model, load_weights(file)[0], str(file))


def weights_facts(path: str | Path) -> dict[str, str]:
    """What a .safetensors file says of its weights: those of runs, `model`, `step` and `samples`.

    Raises:
        UserError: as `load_backbone`.
    """
    return _opened(weights_file(path), lambda file: file.metadata() or {})


def weights_file(path: str | Path) -> Path:
    """The file of weights of a run's folder, or the path itself.

    Raises:
        UserError: there is no such file.
    """
    file = Path(path)
    file = file / "model.safetensors" if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"pretrained={str(path)!r} is neither a run directory nor a .safetensors file")
    return file


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and string metadata of a safetensors file; a header's claims are checked before anything is allocated.

    Raises:
        UserError: the file is missing, is a pickle, is not safetensors, or is shorter than its header claims.
    """

    def read(file: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118

    return _opened(path, read)


def _opened(path: Path, read: Callable[[Any], Found]) -> Found:
    """What is read of an open safetensors file; UserError as `load_weights`."""
    try:
        with safe_open(path, framework="pt") as file:
            return read(file)
    except OSError as error:
        raise UserError(f"path={str(path)!r} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        with open(path, "rb") as file:
            head = file.read(4)
        if head in (b"PK\x03\x04", b"\x80\x02\x8a\x0a"):
            raise UserError(
                f"path={str(path)!r} is a torch pickle, which could run code; read it with "
                "torch.load(path, weights_only=True) and write its tensors with safetensors.torch.save_file"
            ) from None
        raise UserError(f"path={str(path)!r} is not a whole safetensors file ({error}); copy it again") from None


def load_state(model: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load a state dict as `load_backbone` does; `what` names it in errors."""
    state = {name: tensor for name, tensor in state.items() if not name.endswith(_BUFFERS)}
    own = model.state_dict()
    state |= {name: tensor for name, tensor in own.items() if name.startswith("head.") and name not in state}
    if difference := difference_of(own, state):
        raise UserError(
            f"pretrained={what!r} is of another architecture: {difference}; create the model that the weights were "
            "trained with"
        )
    model.load_state_dict(state)


def difference_of(own: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """How the names and shapes of a model's tensors differ from those of a file; empty if they agree."""
    shapes = [{name: list(tensor.shape) for name, tensor in tensors.items()} for tensors in (own, state)]
    wrong = sorted(name for name in own.keys() | state.keys() if shapes[0].get(name) != shapes[1].get(name))
    if not wrong:
        return ""
    here, there = (found.get(wrong[0], "absent") for found in shapes)
    return f"{len(wrong)} tensors differ, first {wrong[0]} (model: {here}, file: {there})"
