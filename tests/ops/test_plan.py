"""Which backend is chosen, and what is said about the others."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from esvit_fast import ops
from esvit_fast.ops import BackendError, Facts, plan
from esvit_fast.ops._core import native
from esvit_fast.ops._core import plan as _plan
from esvit_fast.ops._core import proven as _proven
from esvit_fast.ops._core import triton as _device

RULES = {
    ("op", "cuda"): lambda f: None if f.capability and f.capability >= (8, 0) else "it needs an sm_80 GPU",
    ("op", "triton"): lambda f: None if f.device_type == "cuda" else "it needs a GPU",
    ("op", "cpu"): lambda f: None if f.dtype != torch.float16 else "float16 is not supported",
    ("op", "reference"): lambda f: None,
}


def facts(device="cpu", **changes):
    return Facts(device, changes.pop("dtype", torch.float32), {}, **changes)


@pytest.mark.parametrize(
    ("given", "backend"),
    [
        (facts("cuda", capability=(9, 0)), "cuda"),
        (facts("cuda", capability=(7, 5)), "triton"),
        (facts("cpu"), "cpu"),
        (facts("cpu", dtype=torch.float16), "reference"),
        (facts("cuda", capability=(9, 0), forced="reference"), "reference"),
    ],
)
def test_first_that_can_run(given, backend):
    assert plan("op", given, RULES).backend == backend


def test_refused_backends_have_reasons():
    chosen = plan("op", facts(dtype=torch.float16), RULES)
    assert chosen.refused == {
        "cuda": "it needs an sm_80 GPU",
        "triton": "it needs a GPU",
        "cpu": "float16 is not supported",
    }


def test_forced_backend_never_degrades():
    with pytest.raises(BackendError, match="no backend can run op: triton: it needs a GPU"):
        plan("op", facts(forced="triton"), RULES)
    with pytest.raises(BackendError, match="this version has no cuda implementation of region_match"):
        plan("region_match", facts(forced="cuda"))


def test_unknown_names():
    with pytest.raises(ValueError, match=r"op='attention' is not an operator; known: .*window_attention"):
        plan("attention", facts())
    with pytest.raises(ValueError, match="backend='mps' must be one of"), ops.backend("mps"):
        pass


@pytest.mark.parametrize("force", ["context", "environment", "argument"])
def test_three_ways_to_force(force, monkeypatch):
    student = torch.randn(1, 2, 3)
    if force == "environment":
        monkeypatch.setenv("ESVIT_FAST_BACKEND", "triton")
    with ops.backend("triton" if force == "context" else None), pytest.raises(BackendError, match="triton"):
        ops.region_match(student, student, backend="triton" if force == "argument" else None)
    monkeypatch.delenv("ESVIT_FAST_BACKEND", raising=False)
    assert ops.region_match(student, student)[0].tolist() == [[0, 1]]


def test_fallback_warns_once_with_the_reason(monkeypatch):
    monkeypatch.setattr(_plan, "_RULES", _plan._RULES | {("region_match", "cpu"): lambda f: "it was built without it"})
    monkeypatch.setattr(plan, "__defaults__", (_plan._RULES,))
    student = torch.randn(1, 2, 3)
    with pytest.warns(UserWarning, match="region_match runs on reference because cpu: it was built without it"):
        ops.region_match(student, student)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops.region_match(student, student)


def test_a_backend_of_another_device_is_no_reason_to_warn():
    tensors = {"qkv": torch.empty(1, 2, 2, 6, device="meta"), "bias": torch.empty(1, 1, device="meta")}
    _plan._warned.clear()
    assert _plan.choose("window_attention", tensors, {}, None) == "reference"
    assert not _plan._warned


@pytest.fixture(autouse=True)
def no_cuda_library(monkeypatch):
    monkeypatch.delenv("ESVIT_FAST_UNPROVEN", raising=False)
    monkeypatch.setattr(native, "CUDA_MISSING", "the library _C_cuda was not built")


SHAPES = {"qkv": (64, 56, 56, 288), "bias": (169, 3), "pad_kv": (192,)}
OPTIONS = {"num_heads": 3, "window_size": (7, 7), "shift_size": (3, 3), "pad_mode": "before_roll"}


def attention(capability, dtype=torch.bfloat16, forced=None, unproven=True, **changes):
    shapes = SHAPES | changes.pop("shapes", {})
    options = OPTIONS | changes
    return plan("window_attention", Facts("cuda", dtype, shapes, options, capability, forced=forced, unproven=unproven))


@pytest.mark.parametrize(
    ("capability", "dtype", "config"),
    [
        ((8, 0), torch.bfloat16, {"programs": 432, "num_warps": 4, "num_warps_backward": 4}),
        ((8, 9), torch.float16, {"programs": 432, "num_warps": 4, "num_warps_backward": 4}),
        ((9, 0), torch.bfloat16, {"programs": 528, "num_warps": 4, "num_warps_backward": 4}),
        ((9, 0), torch.float32, {"programs": 528, "num_warps": 8, "num_warps_backward": 8}),
        ((10, 0), torch.bfloat16, {"programs": 592, "num_warps": 4, "num_warps_backward": 8}),
        ((12, 0), torch.bfloat16, {"programs": 592, "num_warps": 4, "num_warps_backward": 8}),
    ],
)
def test_window_attention_on_gpus(capability, dtype, config):
    chosen = attention(capability, dtype)
    assert chosen.backend == "triton"
    assert chosen.config == {"block": 64, "blocks": 1, "block_d": 32, "num_stages": 1, **config}


@pytest.mark.parametrize(
    ("changes", "config"),
    [
        ({"shapes": {"qkv": (8, 3, 3, 2304)}, "num_heads": 24}, {"block": 16, "blocks": 1}),  # 9 tokens, 10 keys
        ({"shapes": {"qkv": (8, 4, 4, 2304)}, "num_heads": 24}, {"block": 32, "blocks": 1}),  # 16 tokens, 17 keys
        ({"shapes": {"qkv": (8, 14, 14, 288)}, "window_size": (14, 14)}, {"block": 64, "blocks": 4}),
        ({"shapes": {"qkv": (8, 12, 12, 180)}}, {"block_d": 32}),  # head_dim 20
        ({"shapes": {"qkv": (8, 12, 12, 72)}}, {"block_d": 16}),  # head_dim 8
        ({"shapes": {"qkv": (8, 12, 12, 576)}}, {"num_warps": 4, "num_warps_backward": 8}),  # head_dim 64
        ({"shapes": {"cosine_scale": (3,)}}, {"num_warps": 4, "num_warps_backward": 8}),
        ({"shapes": {"cosine_scale": (3,)}, "dtype": torch.float32}, {"num_warps": 8, "num_warps_backward": 16}),
    ],
)
def test_window_attention_of_other_sizes(changes, config):
    chosen = attention((9, 0), **changes)
    assert chosen.backend == "triton" and config.items() <= chosen.config.items()


@pytest.mark.parametrize(
    ("capability", "changes", "reason"),
    [
        ((7, 5), {}, "compute capability 7.5 is below 8.0"),
        ((9, 0), {"dtype": torch.float64}, "dtype torch.float64 is none of"),
        ((9, 0), {"shapes": {"qkv": (1, 14, 14, 864)}}, "head_dim=96 is more than 64"),
        ((9, 0), {"shapes": {"qkv": (1, 96, 96, 288)}, "window_size": (24, 24)}, "windows of 576 tokens are larger"),
    ],
)
def test_window_attention_that_triton_refuses(capability, changes, reason):
    chosen = attention(capability, **changes)
    assert chosen.backend == "reference" and reason in chosen.refused["triton"]
    assert chosen.config == {}


def test_without_triton(monkeypatch):
    monkeypatch.setattr(_device, "MISSING", "triton is not installed; it comes with torch on Linux")
    assert attention((9, 0)).refused["triton"] == "triton is not installed; it comes with torch on Linux"


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_a_kernel_that_has_not_run_on_a_gpu_is_never_the_default(capability, monkeypatch):
    """No record is of any GPU: nothing but that keeps these facts from being planned for it."""
    monkeypatch.setattr(native, "CUDA_MISSING", None)
    named = ".".join(map(str, capability))
    chosen = attention(capability, unproven=False)
    assert chosen.backend == "reference"
    assert chosen.refused == dict.fromkeys(
        ("cuda", "triton"),
        f"it has not run on a GPU of compute capability {named} yet; set ESVIT_FAST_UNPROVEN=1 to run it all the same",
    ) | {"cpu": "the map is on cuda"}
    assert attention(capability).backend == "cuda"
    for backend in ("cuda", "triton"):
        assert attention(capability, forced=backend, unproven=False).backend == backend
        monkeypatch.setitem(_proven.PROVEN, ("window_attention", backend), frozenset({capability}))
        assert attention(capability, unproven=False).backend == backend
        assert attention((8, 6), unproven=False).backend == "reference"
        monkeypatch.setitem(_proven.PROVEN, ("window_attention", backend), frozenset())


def test_every_kernel_for_gpus_has_to_be_proven():
    assert _proven.PROVEN.keys() == {(op, backend) for op, backend in _plan._RULES if backend in ("cuda", "triton")}


@pytest.mark.parametrize(
    ("capability", "prototypes", "reason"),
    [
        ((8, 0), 65536, None),
        ((9, 0), 114688, None),
        ((8, 9), 49152, None),
        ((8, 0), 131072, "a row of K=131072 logits needs 262272 bytes, and a block's shared memory has 166912"),
        ((8, 9), 65536, "a row of K=65536 logits needs 131200 bytes, and a block's shared memory has 101376"),
        ((12, 0), 65536, "a row of K=65536 logits needs 131200 bytes, and a block's shared memory has 101376"),
        ((9, 0), 4092, "K=4092 is no multiple of 8"),
    ],
)
def test_rows_of_logits_that_fit_the_chip(capability, prototypes, reason, monkeypatch):
    monkeypatch.setattr(native, "CUDA_MISSING", None)
    given = Facts("cuda", torch.float16, {"student_logits": (176, prototypes)}, {}, capability, unproven=True)
    chosen = plan("soft_cross_entropy", given)
    assert chosen.backend == ("triton" if reason else "cuda")
    assert chosen.refused.get("cuda") == reason


@pytest.mark.parametrize(
    ("capability", "changes", "config"),
    [
        ((8, 0), {}, {"key_tiles": 7, "programs": 3 * 108, "programs_backward": 2 * 108}),
        ((9, 0), {}, {"key_tiles": 7, "programs": 3 * 132, "programs_backward": 3 * 132}),
        ((10, 0), {}, {"key_tiles": 7, "programs": 3 * 148, "programs_backward": 3 * 148}),
        ((9, 0), {"shapes": {"qkv": (8, 3, 3, 2304)}, "num_heads": 24}, {"key_tiles": 2}),  # 9 tokens, 10 keys
        ((9, 0), {"shapes": {"qkv": (8, 4, 4, 2304)}, "num_heads": 24}, {"key_tiles": 4}),  # 16 tokens, 17 keys
        ((9, 0), {"shapes": {"qkv": (8, 16, 16, 288)}, "window_size": (8, 8)}, {"key_tiles": 8}),
        ((9, 0), {"shapes": {"qkv": (8, 12, 12, 576)}}, {"key_tiles": 7, "programs": 2 * 132}),  # head_dim 64
        ((9, 0), {"dtype": torch.float16}, {"key_tiles": 7}),
    ],
)
def test_window_attention_in_cuda(capability, changes, config, monkeypatch):
    monkeypatch.setattr(native, "CUDA_MISSING", None)
    chosen = attention(capability, forced="cuda", **changes)
    assert chosen.backend == "cuda" and config.items() <= chosen.config.items()


@pytest.mark.parametrize(
    ("capability", "changes", "reason"),
    [
        ((7, 5), {}, "compute capability 7.5 is below 8.0"),
        ((9, 0), {"dtype": torch.float32}, "dtype torch.float32 is none of torch.float16, torch.bfloat16"),
        ((9, 0), {"shapes": {"cosine_scale": (3,)}}, "it has dot products only, no cosines"),
        ((9, 0), {"shapes": {"qkv": (8, 12, 12, 180)}}, "head_dim=20 is none of 16, 32, 64"),
        ((9, 0), {"shapes": {"qkv": (8, 14, 14, 288)}, "window_size": (14, 14)}, "windows of 196 tokens are larger"),
        ((9, 0), {"shapes": {"qkv": (8, 9, 9, 288)}, "window_size": (9, 9)}, "windows of 81 tokens are larger than 64"),
        ((9, 0), {"shapes": {"qkv": (8, 5, 13, 288)}, "window_size": (5, 13)}, "windows of 65 tokens are larger"),
        # 64 of its 81 positions hold tokens, and the virtual key is one more
        ((9, 0), {"shapes": {"qkv": (8, 8, 8, 288)}, "window_size": (9, 9)}, "windows of 65 tokens are larger than 64"),
    ],
)
def test_window_attention_that_cuda_refuses(capability, changes, reason, monkeypatch):
    monkeypatch.setattr(native, "CUDA_MISSING", None)
    with pytest.raises(BackendError, match=f"cuda: {reason}"):
        attention(capability, forced="cuda", **changes)


def test_what_is_passed_over_on_a_gpu(monkeypatch):
    """One kernel for another that no record is of is no loss; all kernels are, and one that a record is of."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    first = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32, shape=(1, 2, 2, 48), requires_grad=False)
    options = {"num_heads": 1, "window_size": (2, 2), "shift_size": (0, 0), "pad_mode": "before_roll"}

    def choose():
        _plan._warned.clear()
        return _plan.choose("window_attention", {"qkv": first}, options, None)

    with pytest.warns(UserWarning, match="runs on reference because .*triton: it has not run on a GPU"):
        assert choose() == "reference"
    monkeypatch.setitem(_proven.PROVEN, ("window_attention", "triton"), frozenset({(9, 0)}))
    monkeypatch.setattr(native, "CUDA_MISSING", None)
    first.dtype = torch.float16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose() == "triton"
        monkeypatch.setenv("ESVIT_FAST_UNPROVEN", "true")
        with pytest.raises(ValueError, match="ESVIT_FAST_UNPROVEN='true' must be 0 or 1"):
            choose()
        monkeypatch.setenv("ESVIT_FAST_UNPROVEN", "1")
        assert choose() == "cuda"
    first.dtype = torch.float32
    with pytest.warns(UserWarning, match="runs on triton because cuda: dtype torch.float32 is none of"):
        assert choose() == "triton"
