"""Checkpoints that survive a kill at any moment: safetensors and JSON, checksummed, moved into place by one rename.

A run's checkpoint folder holds ``step_N/`` with ``state.safetensors`` (tensors), ``state.json`` (everything else) and
``manifest.json`` (format, step, length and SHA-256 of both, and its own SHA-256). Nothing is pickled. Names that start
with ``.tmp-`` are unfinished; ``.old-step_N`` is a checkpoint whose replacement was being moved into place.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

STATE, META, MANIFEST = "state.safetensors", "state.json", "manifest.json"
FORMAT = 1

log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint or weights file cannot be written or is not as it was written; the message says which and why."""


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
    temp = folder / f".tmp-{path.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".tmp-*"):
            _delete(stale)
        temp.mkdir()
        save_file(_storable(tensors), temp / STATE)
        (temp / META).write_bytes(text)
        (temp / MANIFEST).write_bytes(_manifest(step, {name: _facts(temp / name) for name in (STATE, META)}))
        for name in (STATE, META, MANIFEST, "."):
            _sync(temp / name)
        _move_into_place(temp, path)
        _sync(folder)
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


def write_atomic(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Replace a file so that a reader, or a kill, at any moment finds the old or the new one whole.

    `content` is the new bytes, or a function that writes them to the path that it is given.

    Raises:
        CheckpointError: the disk is full or fails; the old file is untouched.
    """
    temp = path.with_name(f".tmp-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            temp.write_bytes(content)
        else:
            content(temp)
        _sync(temp)
        temp.replace(path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"path={str(path)!r} could not be written: {error}; check that the disk has room and is writable"
        ) from error
    finally:
        temp.unlink(missing_ok=True)


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


def _sync(path: Path) -> None:
    """Force a file or folder to the disk, and out of the page cache, so that verifying it reads the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


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
        path = path.rename(path.with_name(f".tmp-{path.name}"))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
