"""The variants of the Triton kernels that the manifest has: what each is compiled for, and how it is launched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from triton import language as tl

from esvit_fast.kernels import (
    _tables,
    multicrop_augment,
    prototype_cross_entropy_bwd,
    prototype_cross_entropy_fwd,
    region_match,
    soft_cross_entropy,
    window_attention_bwd,
    window_attention_bwd_blocks,
    window_attention_fwd,
)

BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
ONE_BLOCK = {
    "forward": window_attention_fwd.window_attention_fwd,
    "backward": window_attention_bwd.window_attention_bwd,
}
SEVERAL_BLOCKS = {
    "forward": window_attention_fwd.window_attention_fwd_blocks,
    "backward queries": window_attention_bwd_blocks.window_attention_bwd_queries,
    "backward keys": window_attention_bwd_blocks.window_attention_bwd_keys,
    "backward tiles": window_attention_bwd_blocks.window_attention_bwd_tiles,
}


@dataclass(frozen=True)
class Variant:
    """One compilation.

    Attributes:
        name: as it is called in the manifest.
        kernel: a function of triton.jit.
        types: of its pointers and floating-point numbers, by name; all others are int32.
        constants: of an architecture: by name, None for pointers that are not there; names that the kernel lacks are
            ignored.
        options: of an architecture: num_warps and num_stages.
        aligned: numbers that are known to be multiples of 16, as pointers are.
    """

    name: str
    kernel: object
    types: Mapping[str, str]
    constants: Callable[[int], Mapping[str, object]]
    options: Callable[[int], Mapping[str, int]]
    aligned: tuple[str, ...] = ()


def variants() -> Iterator[Variant]:
    """All that the manifest has."""
    yield from _window_attention()
    yield from _prototype_cross_entropy()
    yield from _region_match()
    yield from _soft_cross_entropy()
    yield from _multicrop_augment()


def _window_attention() -> Iterator[Variant]:
    for dtype in BYTES:
        for step in ONE_BLOCK:
            for padded, cosine in ((False, False), (True, False), (False, True), (True, True)):
                yield _windows(step, 7, 32, dtype, padded, cosine)
            for side, head_dim in ((7, 16), (7, 64), (3, 32), (5, 32)):
                yield _windows(step, side, head_dim, dtype, True, False)
        for step in SEVERAL_BLOCKS:
            for padded, cosine in ((False, False), (True, False), (True, True)):
                yield _windows(step, 14, 32, dtype, padded, cosine)


def _windows(step: str, side: int, head_dim: int, dtype: str, padded: bool, cosine: bool) -> Variant:
    """A pass of windows of `side` x `side`, some padded or none, of dot products or cosines."""

    def config(arch: int) -> dict[str, int]:
        capability = arch // 10, arch % 10
        return _tables.window_attention(capability, BYTES[dtype], side**2, side**2, head_dim, cosine)

    def constants(arch: int) -> dict[str, object]:
        missing = [*(() if padded else ("pad_kv", "dpad_kv")), *(() if cosine else ("cosine_scale", "dcosine_scale"))]
        chosen = config(arch)
        return dict.fromkeys(missing) | {
            "HEAD_DIM": head_dim,
            "BLOCK": chosen["block"],
            "BLOCK_D": chosen["block_d"],
            "BLOCKS": chosen["blocks"],
            "REFINE": padded and dtype == "fp32",
        }

    def options(arch: int) -> dict[str, int]:
        chosen = config(arch)
        warps = chosen["num_warps" if step == "forward" else "num_warps_backward"]
        return {"num_warps": warps, "num_stages": chosen["num_stages"]}

    types = {
        **dict.fromkeys(("qkv", "out", "grad", "dqkv", "pad_kv"), f"*{dtype}"),
        **dict.fromkeys(("tiles", "dtiles", "dpad_kv", "cosine_scale", "dcosine_scale", "statistics"), "*fp32"),
        **dict.fromkeys(("positions", "shares"), "*i32"),
        "scale": "fp32",
    }
    ends = (" padded" if padded else "") + (" cosine" if cosine else "")
    kernel = (ONE_BLOCK if config(90)["blocks"] == 1 else SEVERAL_BLOCKS)[step]
    name = f"window_attention {step} {side}x{side} head_dim {head_dim} {dtype}{ends}"
    return Variant(name, kernel, types, constants, options, ("channels", "tile_columns"))


def _prototype_cross_entropy() -> Iterator[Variant]:
    forward, backward = prototype_cross_entropy_fwd, prototype_cross_entropy_bwd
    pointers = (
        "bias",
        "level",
        "value_sum",
        "means",
        "sums",
        "mean",
        "found",
        "factor",
        "weight",
        "weight_g",
        "length",
        "dweight",
        "dg",
    )
    more = ("usage", "student_share", "teacher_share", "student_log_total", "teacher_log_total", "rows")
    floats = ("scale", "student_scale", "teacher_scale", "base")
    common = dict.fromkeys((*pointers, *more), "*fp32") | dict.fromkeys(floats, "fp32")
    common |= {"best": "*i32", "which": "*i64"}
    inputs = ("keys", "values", "prototypes", "student", "student_prototypes")
    inputs += ("teacher", "teacher_prototypes", "teacher_outer")
    kinds = {
        "prepare": (forward.prototype_cross_entropy_prepare, ()),
        "student": (forward.prototype_cross_entropy_fwd, ("values", "bias")),
        "student, loss alone": (forward.prototype_cross_entropy_fwd, ("values", "bias", "means")),
        "teacher": (forward.prototype_cross_entropy_fwd, ()),
        "merge": (forward.prototype_cross_entropy_merge, ()),
        "backward": (backward.prototype_cross_entropy_bwd, ()),
        "backward, no weight_g": (backward.prototype_cross_entropy_bwd, ("weight_g",)),
        "usage": (
            backward.prototype_cross_entropy_bwd,
            ("student_share", "teacher_share", "teacher_outer", "factor", "dweight", "dg"),
        ),
    }
    for dtype in ("fp16", "fp32"):
        for width in (256, 64, 384):
            for kind, (kernel, missing) in kinds.items():
                if kind in ("prepare", "merge") and (width != 256 or dtype == "fp32"):
                    continue
                types = common | dict.fromkeys(inputs, f"*{dtype}")
                if kind in ("student", "student, loss alone", "teacher"):
                    types |= {"rows": f"*{dtype}", "prototypes": "i32"}
                if kind.startswith(("backward", "usage", "merge")):
                    types |= {"prototypes": "i32"}
                yield Variant(
                    f"prototype_cross_entropy {kind} D {width} {dtype}",
                    kernel,
                    types,
                    partial(_prototype_constants, kind, width, dtype, kernel, missing),
                    partial(_prototype_options, kind, width, dtype),
                )


def _prototype_table(width: int, dtype: str, arch: int) -> dict[str, int]:
    return _tables.prototype_cross_entropy(BYTES[dtype], width, 65536, (arch // 10, arch % 10))


def _prototype_constants(kind, width, dtype, kernel, missing, arch: int) -> dict[str, object]:
    chosen = _prototype_table(width, dtype, arch)
    forward = kernel is prototype_cross_entropy_fwd.prototype_cross_entropy_fwd
    constants = dict.fromkeys(missing) | {
        "WIDTH": width,
        "BLOCK": _tables.PROTOTYPE_ROWS["block"],
        "BLOCK_N": chosen["block_n"],
        "BLOCK_K": chosen["block_k"],
        "BLOCK_D": chosen["block_d"],
        "BLOCK_M": chosen["block_m" if forward else "block_r"],
    }
    return constants | ({"HALF": True} if kind == "merge" else {})


def _prototype_options(kind, width, dtype, arch: int) -> dict[str, int]:
    chosen = _tables.PROTOTYPE_ROWS if kind in ("prepare", "merge") else _prototype_table(width, dtype, arch)
    warps = chosen["num_warps_backward" if kind.startswith(("backward", "usage")) else "num_warps"]
    return {"num_warps": warps, "num_stages": chosen["num_stages"]}


def _region_match() -> Iterator[Variant]:
    chosen = _tables.REGION_MATCH
    constants = {name.upper(): value for name, value in chosen.items() if name.startswith("block")}
    options = {name: value for name, value in chosen.items() if name.startswith("num")}
    for dtype, rounding in (("fp32", tl.float32), ("fp16", tl.float32), ("bf16", tl.float32), ("fp32", tl.bfloat16)):
        types = dict.fromkeys(("student", "teacher"), f"*{dtype}")
        types |= {"index": "*i64", "similarity": "*fp32", "margin": "*fp32"}
        rounded = "" if rounding is tl.float32 else f" rounded to {rounding}"
        yield Variant(
            f"region_match {dtype}{rounded}",
            region_match.region_match,
            types,
            lambda arch, rounding=rounding: constants | {"ROUNDING": rounding},
            lambda arch: options,
            ("channels",),
        )


def _soft_cross_entropy() -> Iterator[Variant]:
    of_row, of_column = _tables.SOFT_CROSS_ENTROPY, _tables.SOFT_CROSS_ENTROPY_USAGE
    kinds = {
        "rows": (soft_cross_entropy.soft_cross_entropy_rows, (), of_row),
        "usage": (soft_cross_entropy.soft_cross_entropy_usage, (), of_column),
        "with gradient": (soft_cross_entropy.soft_cross_entropy, (), of_row),
        "loss alone": (soft_cross_entropy.soft_cross_entropy, ("gradient",), of_row),
    }
    common = dict.fromkeys(("center", "found", "usage", "weight", "loss"), "*fp32")
    common |= dict.fromkeys(("best", "start", "teacher_row"), "*i64")
    common |= dict.fromkeys(("scale", "student_scale", "teacher_scale"), "fp32")
    for dtype in BYTES:
        types = common | dict.fromkeys(("logits", "student", "teacher", "gradient"), f"*{dtype}")
        for kind, (kernel, missing, chosen) in kinds.items():
            constants = dict.fromkeys(missing) | {"BLOCK": chosen["block"]}
            yield Variant(
                f"soft_cross_entropy {kind} {dtype}",
                kernel,
                types,
                lambda arch, constants=constants: constants,
                lambda arch, chosen=chosen: {"num_warps": chosen["num_warps"], "num_stages": 1},
                ("count",),
            )


def _multicrop_augment() -> Iterator[Variant]:
    chosen, kernels = _tables.MULTICROP_AUGMENT, multicrop_augment
    pixels, blur = (
        (block, {"num_warps": chosen[warps], "num_stages": 1})
        for block, warps in (("block", "num_warps"), ("block_blur", "num_warps_blur"))
    )
    kinds = {
        "mean": (kernels.multicrop_augment_mean, pixels),
        "color": (kernels.multicrop_augment_color, pixels),
        "blur along": (kernels.multicrop_augment_blur_along, blur),
        "blur across": (kernels.multicrop_augment_blur_across, blur),
    }
    common = dict.fromkeys(("parameters", "sums", "held", "blurred"), "*fp32") | {"images": "*u8"}
    common |= {f"{of}_{color}": "fp32" for of in ("mean", "scale") for color in ("red", "green", "blue")}
    for dtype in BYTES:
        for kind, (kernel, (block, options)) in kinds.items():
            if dtype == "fp32" or "out" in kernel.arg_names:
                yield Variant(
                    f"multicrop_augment {kind}" + (f" {dtype}" if "out" in kernel.arg_names else ""),
                    kernel,
                    common | {"out": f"*{dtype}"},
                    lambda arch, block=block: {"BLOCK": chosen[block], "BLOCKS": 64},
                    lambda arch, options=options: options,
                    ("width", "pixels"),
                )
