"""Checkpoints that survive a kill at any moment: safetensors and JSON, checksummed, moved into place by one rename.

A run's checkpoint folder holds ``step_N/`` with ``state.safetensors`` (tensors), ``state.json`` (everything else) and
``manifest.json`` (format, step, length and SHA-256 of both, and its own SHA-256). Nothing is pickled. Names that start
with ``.tmp-`` are unfinished; ``.old-step_N`` is a checkpoint whose replacement was being moved into place.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from .atomic import CheckpointError, mode_of_new_files, set_mode, sync, unfinished, write_atomic

STATE, META, MANIFEST = "state.safetensors", "state.json", "manifest.json"
FORMAT = 1

log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """What `save_checkpoint` was given, read back, and the folder it came from."""

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    path: Path


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], meta: dict[str, Any], keep: int) -> Path:
    """Write ``folder/step_N`` atomically, verify it from disk, then remove all but the newest `keep`.

    One process writes to a folder at a time. Tensors may have any strides, size, device and shared storage; they are
    stored contiguous. `meta` is plain JSON: mapping keys come back as strings, tuples as lists.

    Raises:
        CheckpointError: the disk is full or fails; the previous checkpoints stay and nothing unfinished is left.
        ValueError: `meta` is not JSON (NaN is not), or `keep` is smaller than 1.
    """
    if keep < 1:
        raise ValueError(f"keep={keep} must be at least 1")
    try:
        text = json.dumps(meta, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"meta with keys {', '.join(meta)} must be plain JSON with finite numbers: {error}") from None
    path = folder / f"step_{step}"
    temp = unfinished(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".tmp-*"):
            _delete(stale)
        temp.mkdir()
        mode = mode_of_new_files(temp)
        save_file(_storable(tensors), temp / STATE)
        set_mode(temp / STATE, mode)
        (temp / META).write_bytes(text)
        (temp / MANIFEST).write_bytes(_manifest(step, {name: _facts(temp / name) for name in (STATE, META)}))
        for name in (STATE, META, MANIFEST, "."):
            sync(temp / name)
        _move_into_place(temp, path)
        sync(folder)
        _verify(path)
        _remove_superseded(folder, step, keep)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint={str(path)!r} could not be written: {error}; check that the disk has room and is writable"
        ) from error
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    return path


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in a folder that is as it was written, or None when the folder has none.

    Every damaged one that is passed over is logged as a warning with file and reason.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged; with every reason.
    """
    reasons = []
    for path in reversed(_list(folder)):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            log.warning("%s; trying the previous one", error)
            reasons.append(str(error))
    if reasons:
        raise CheckpointError(f"folder={str(folder)!r} has no usable checkpoint, start a new run: {'; '.join(reasons)}")
    return None


def clean(folder: Path, step: int, keep: int) -> None:
    """Delete what writers that were killed have left in a checkpoint folder, where nobody may be writing.

    Args:
        step: that of a checkpoint that is whole; of those before, the newest stay, so that there are `keep`.

    Raises:
        CheckpointError: it cannot be deleted.
    """
    replaced = [path for path in _list(folder) if path.name.startswith(".old-")]
    done = [path for path in replaced if _is_whole(path.with_name(path.name.removeprefix(".old-")))]
    older = [path for path in _list(folder) if path not in replaced and int(path.name.removeprefix("step_")) <= step]
    try:
        for path in [*folder.glob(".tmp-*"), *done, *older[:-keep]]:
            _delete(path)
    except OSError as error:
        raise CheckpointError(f"{error.filename!r} cannot be removed: {error.strerror}; remove it") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint folder, after checking the length and SHA-256 of its files.

    Raises:
        CheckpointError: a file is missing, truncated or changed, or the format is newer than this version reads.
    """
    step = _verify(path)
    try:
        return Checkpoint(step, load_file(path / STATE), json.loads((path / META).read_bytes()), path)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"checkpoint={str(path)!r} cannot be read: {error}") from error


def save_weights(path: Path, state_dict: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> None:
    """Write a state dict as one safetensors file, atomically; values of `meta` are stored as strings.

    Raises:
        CheckpointError: the disk is full or fails; an existing file is untouched.
    """
    text = {key: str(value) for key, value in (meta or {}).items()}
    write_atomic(path, lambda temp: save_file(_storable(state_dict), temp, metadata=text))


def holds_weights(path: Path, state_dict: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bool:
    """Whether a file is what `save_weights` would write; one that cannot be read is not."""
    try:
        with safe_open(path, "pt") as file:
            if file.metadata() != {key: str(value) for key, value in meta.items()}:
                return False
            if set(file.keys()) != set(state_dict):
                return False
            return all(torch.equal(file.get_tensor(name), tensor.cpu()) for name, tensor in state_dict.items())
    except (OSError, SafetensorError):
        return False


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, and no two in one storage, as safetensors demands."""
    stored, storages = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in storages:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        stored[name] = tensor
    return stored


def _facts(file: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}


def _manifest(step: int, files: dict[str, Any], version: int = FORMAT) -> bytes:
    body = {"format": version, "step": step, "files": files}
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1).encode()


def _verify(path: Path) -> int:
    """The step of a checkpoint whose every byte is as it was written."""
    where = f"checkpoint={str(path)!r}"
    try:
        step, files = _read_manifest(path)
        for name, expected in files.items():
            size = (path / name).stat().st_size
            if size != expected["bytes"]:
                raise CheckpointError(
                    f"{where}: {name} is truncated or grown: {size} bytes, expected {expected['bytes']}"
                )
            if _facts(path / name) != expected:
                raise CheckpointError(f"{where}: the SHA-256 of {name} differs from the manifest")
    except FileNotFoundError as error:
        raise CheckpointError(f"{where}: {Path(error.filename).name} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{where}: {error}") from error
    return step


def _read_manifest(path: Path) -> tuple[int, dict[str, Any]]:
    raw = (path / MANIFEST).read_bytes()
    try:
        found = json.loads(raw)
        step, files, version = found["step"], found["files"], found["format"]
        intact = raw == _manifest(step, files, version) and files.keys() == {STATE, META}
    except (ValueError, TypeError, KeyError, AttributeError):
        intact = False
    if not intact:
        raise CheckpointError(f"checkpoint={str(path)!r}: {MANIFEST} is damaged")
    if version != FORMAT:
        raise CheckpointError(
            f"checkpoint={str(path)!r}: format {version} is unknown, this version reads {FORMAT}; update"
        )
    return step, files


def _list(folder: Path) -> list[Path]:
    """Checkpoints by rising step; of one step, the one that was being replaced comes first."""
    pattern = re.compile(r"(?:\.old-)?step_(\d+)")
    found = [(int(match[1]), path) for path in folder.glob("*") if (match := pattern.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _move_into_place(temp: Path, path: Path) -> None:
    if path.exists():
        aside = path.with_name(f".old-{path.name}")
        if aside.exists():
            _delete(aside)
        path.rename(aside)
    temp.rename(path)


def _remove_superseded(folder: Path, step: int, keep: int) -> None:
    """Delete what a verified checkpoint makes needless: older ones, replaced ones, and damaged ones of a later step."""
    written = []
    for path in _list(folder):
        if path.name.startswith(".old-"):
            _delete(path)
        elif int(path.name.removeprefix("step_")) <= step:
            written.append(path)
        elif not _is_whole(path):
            log.warning("checkpoint=%r is damaged and is removed", str(path))
            _delete(path)
    for path in written[:-keep]:
        _delete(path)


def _is_whole(path: Path) -> bool:
    try:
        _verify(path)
    except CheckpointError:
        return False
    return True


def _delete(path: Path) -> None:
    """Remove a folder such that a kill halfway leaves no half checkpoint under a checkpoint's name."""
    if not path.name.startswith(".tmp-"):
        path = path.rename(unfinished(path))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
