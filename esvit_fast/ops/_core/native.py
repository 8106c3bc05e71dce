"""The compiled libraries: private operators that implementations call, if they were built and load."""

from __future__ import annotations

from pathlib import Path

import torch

_FOLDER = Path(__file__).resolve().parents[2]
_CPU_SCHEMAS = {
    "crop_resize": "(Tensor image, Tensor boxes) -> Tensor",
    "linear_weight_gradient": "(Tensor grad, Tensor x) -> (Tensor, Tensor)",
    "multicrop_augment": "(Tensor images, Tensor parameters, Tensor levels, int radius, ScalarType dtype) -> Tensor",
    "prototype_assignment": "(Tensor rows, Tensor keys, Tensor key_scale, Tensor? key_bias, Tensor? values, "
    "Tensor? value_scale, Tensor? outer, Tensor(a!)? sum, bool fresh) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "prototype_weight_norm_backward": "(Tensor(a!) dweight, Tensor weight, Tensor g, Tensor length) -> Tensor",
    "region_match": "(Tensor student, Tensor teacher, ScalarType? rounding) -> (Tensor, Tensor, Tensor)",
    "soft_cross_entropy": "(Tensor student, Tensor teacher, Tensor center, Tensor start, Tensor row, Tensor weight, "
    "float student_temp, float teacher_temp, Tensor(a!)? gradient) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "window_attention": "(Tensor qkv, Tensor tiles, Tensor? pad_kv, Tensor? cosine_scale, Tensor rows, "
    "Tensor columns, int column_kinds, float scale) -> Tensor",
    "window_attention_backward": "(Tensor grad, Tensor qkv, Tensor tiles, Tensor? pad_kv, Tensor? cosine_scale, "
    "Tensor rows, Tensor columns, int column_kinds, float scale, int shares) -> (Tensor, Tensor, Tensor, Tensor)",
    "window_attention_bias_backward": "(Tensor grad, Tensor index, int rows) -> Tensor",
}
"""What this version calls: a library built from other sources has others."""
_CUDA_SCHEMAS = {
    "soft_cross_entropy": "(Tensor student, Tensor teacher, Tensor center, Tensor start, Tensor row, Tensor weight, "
    "float student_temp, float teacher_temp, Tensor(a!)? gradient) -> (Tensor, Tensor, Tensor, Tensor)",
    "window_attention": "(Tensor qkv, Tensor tiles, Tensor? pad_kv, Tensor positions, Tensor shares, float scale, "
    "int key_tiles) -> Tensor",
    "window_attention_backward": "(Tensor grad, Tensor qkv, Tensor tiles, Tensor? pad_kv, Tensor positions, "
    "Tensor shares, float scale, int key_tiles) -> (Tensor, Tensor, Tensor)",
}


def _load(stem: str, schemas: dict[str, str]) -> str | None:
    """Load a library; say why it is not there or of no use, or None."""
    files = sorted(_FOLDER.glob(f"{stem}*.so"))
    if not files:
        return f"the library {stem} was not built; {_BUILD[stem]}"
    try:
        torch.ops.load_library(files[0])
    except OSError as error:
        return f"the library {files[0].name} does not load: {error}"
    namespace = f"esvit_fast{stem.removeprefix('_C')}"
    for name, schema in schemas.items():
        operator = getattr(getattr(torch.ops, namespace), name, None)
        if operator is None or str(operator.default._schema) != f"{namespace}::{name}{schema}":
            return f"the library {files[0].name} is of another version; {_BUILD[stem]}"
    return None


_INSTALL = '`pip install ninja "setuptools>=77,<82"`, then `pip install --no-build-isolation .`'
_BUILD = {
    "_C_cpu": f"build it with a C++ compiler: {_INSTALL}",
    "_C_cuda": f"build it with nvcc of torch's major version of CUDA: {_INSTALL}",
}
CPU_MISSING = _load("_C_cpu", _CPU_SCHEMAS)
"""Why there are no CPU kernels, or None if there are."""
CUDA_MISSING = _load("_C_cuda", _CUDA_SCHEMAS)
"""Why there are no CUDA C++ kernels, or None if there are. The library loads without a GPU and without a driver."""
