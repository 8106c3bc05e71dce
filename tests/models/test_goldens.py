"""The published EsViT reference's numbers for Swin-T/7 (features, loss, centres, gradients), reproduced."""

import json
import zlib
from pathlib import Path

import pytest
import torch

from esvit_fast.methods import EsViT
from esvit_fast.models import create_model

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "swin_tiny_w7.json").read_text())


def formula(name: str, shape: torch.Size) -> torch.Tensor:
    """The weight that the goldens were computed with, from its name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    r = torch.randn(shape, generator=generator, dtype=torch.float32).double()
    if name.endswith("weight_g"):
        return 1 + 0.1 * r
    if len(shape) <= 1:
        return 1 + 0.1 * r if name.endswith("weight") else 0.1 * r
    if "bias_table" in name:
        return 0.5 * r
    return r / (r[0].numel() ** 0.5)


def published_name(name: str) -> str:
    return name.removeprefix("backbone.")


def image(n: int, size: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


@pytest.fixture(scope="module", params=[torch.float64, torch.float32])
def network(request):
    method = EsViT(create_model("swin_tiny_w7"), out_dim=512).to(request.param)
    state = {name: formula(published_name(name), tensor.shape) for name, tensor in method.student.state_dict().items()}
    method.student.load_state_dict(state)
    method.teacher.load_state_dict(state)
    return method


# without AVX2 torch draws normals of float32 with other last bits: images and weights are those of the goldens as far
# as float32 goes
DRAWN = 2e-5 if torch.backends.cpu.get_cpu_capability() == "DEFAULT" else 0.0


def precision(module: torch.nn.Module) -> tuple[torch.dtype, float]:
    dtype = next(module.parameters()).dtype
    return dtype, max({torch.float64: 1e-9, torch.float32: 2e-5}[dtype], DRAWN)


def assert_described(tensor: torch.Tensor, described: dict, tolerance: float) -> None:
    flat = tensor.detach().double().flatten()
    assert flat.numel() == described["numel"]
    sample = torch.tensor(described["sample"], dtype=torch.float64)
    scale = described["l2"] / described["numel"] ** 0.5
    assert abs(flat.norm().item() / described["l2"] - 1) <= tolerance
    assert abs(flat.std(correction=0).item() / described["std"] - 1) <= tolerance
    assert abs(flat.mean().item() - described["mean"]) <= tolerance * scale
    assert (flat[described["sample_index"]] - sample).norm() / sample.norm() <= tolerance


def test_state_dict_is_the_published_one(network):
    ours = {published_name(name): list(tensor.shape) for name, tensor in network.student.state_dict().items()}
    published = {name: shape for name, shape in GOLDENS["keys"] if not name.endswith("relative_position_index")}
    assert ours == published
    assert sum(p.numel() for p in network.student.backbone.parameters()) == GOLDENS["params"]


def test_features(network):
    backbone = network.student.backbone
    dtype, tolerance = precision(network)
    with torch.no_grad():
        view, region = backbone.forward_regions(torch.cat([image(2, 224, 1), image(2, 224, 2)]).to(dtype))
        assert_described(view, GOLDENS["global_view"], tolerance)
        assert_described(region, GOLDENS["global_region"], tolerance)
        head = torch.tensor(GOLDENS["global_view_head"], dtype=torch.float64)
        assert (view[:, :8].double() - head).norm() / head.norm() <= tolerance
        view, region = backbone.forward_regions(torch.cat([image(2, 96, seed) for seed in (10, 11, 12)]).to(dtype))
        assert_described(view, GOLDENS["local_view"], tolerance)
        assert_described(region, GOLDENS["local_region"], tolerance)
        assert_described(backbone(image(1, 160, 77).to(dtype)), GOLDENS["view_160"], tolerance)
        last = torch.cat(backbone.forward_last_blocks(image(2, 224, 3).to(dtype), 4), -1)
        assert_described(last, GOLDENS["last4"], tolerance)


def test_loss_centers_and_gradients(network):
    dtype, tolerance = precision(network)
    generator = torch.Generator().manual_seed(5)
    for task in ("view", "region"):
        center = 0.05 * torch.randn(1, 512, generator=generator)
        getattr(network.loss, f"{task}_center").copy_(center.flatten())
    crops = [image(2, 224, 1), image(2, 224, 2), *(image(2, 96, seed) for seed in (10, 11, 12))]
    noisy = [crop.double() + 0.3 * image(2, crop.shape[-1], 100 + i).double() for i, crop in enumerate(crops)]
    with torch.no_grad():
        teacher = network.teacher([crop.to(dtype) for crop in crops[:2]])
    student = network.student([crop.to(dtype) for crop in noisy])
    loss, statistics = network.loss(student, teacher, teacher_temp=0.055)
    assert student.tokens == (49, 49, 9, 9, 9)
    assert abs(loss.item() / GOLDENS["loss_epoch1"] - 1) <= tolerance
    assert loss.item() == pytest.approx(0.5 * statistics.view_loss.item() + 0.5 * statistics.region_loss.item())

    network.update_centers()
    assert_described(network.loss.view_center, GOLDENS["center_after"], tolerance)
    assert_described(network.loss.region_center, GOLDENS["center_grid_after"], tolerance)
    if dtype == torch.float64:
        loss.backward()
        grads = {published_name(name): p.grad for name, p in network.student.named_parameters()}
        for name, described in GOLDENS["grads"].items():
            assert_described(grads[name], described, max(1e-7, DRAWN))
