"""k-NN while training: each rank its share, images decoded once, and the accuracy that one process finds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from esvit_fast.data import eval_image, open_source
from esvit_fast.evaluation import extract_features, knn
from esvit_fast.evaluation.targets import subset
from esvit_fast.evaluation.task import Task
from esvit_fast.training import Ranks, build_backbone
from esvit_fast.training.monitoring import online_knn
from esvit_fast.training.monitoring.online_knn import OnlineKnn
from esvit_fast.training.monitoring.progress import accuracy_line
from tests.data.stand_ins import write_images

from ..runs import CPU, small

CONFIG = replace(small(), eval=replace(small().eval, knn_every_epochs=1.0, knn_bank=30, knn_queries=11))


def plain(backbone):
    """The accuracy by the parts, on images that are decoded anew."""
    sides = Task(open_source("sample:50"), open_source("sample:50", "test")).sides
    bank, queries = (
        extract_features(backbone, source, augment=CONFIG.data.augment, indices=[rows[i] for i in subset(len(rows), n)])
        for (source, rows), n in zip(sides, (30, 11), strict=True)
    )
    return knn(bank, queries, k=(20,))[20]


@pytest.fixture
def decoded(monkeypatch):
    """How often each image of a source was decoded."""
    counts = []
    monkeypatch.setattr(online_knn, "eval_image", lambda image, size: counts.append(1) or eval_image(image, size))
    return counts


def test_images_are_decoded_once_and_seen_as_they_are(decoded):
    backbone, evaluate = build_backbone(CONFIG), OnlineKnn(CONFIG, open_source("sample:50"), CPU)
    first, second = evaluate(backbone), evaluate(backbone)
    assert (first["k"], first["top1"], first["top5"]) == (20, *plain(backbone))
    assert (first["bank"], first["queries"]) == (30, 11)
    assert "(11 images among 30)" in accuracy_line({"epoch": 1.0, **first})
    assert {**first, "seconds": 0} == {**second, "seconds": 0} and second["seconds"] > 0
    assert len(decoded) == 41
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert tuple(evaluate(backbone)[name] for name in ("top1", "top5")) == plain(backbone)


def test_images_that_there_is_no_room_for_are_decoded_again(decoded, monkeypatch):
    backbone = build_backbone(CONFIG)
    monkeypatch.setattr(online_knn, "KEPT_BYTES", 10 * 3 * backbone.image_size**2)
    evaluate = OnlineKnn(CONFIG, open_source("sample:50"), CPU)
    assert {**evaluate(backbone), "seconds": 0} == {**evaluate(backbone), "seconds": 0}
    assert len(decoded) == 41 + (20 + 1)  # ten of the bank and ten of the queries are kept


def test_without_a_test_split_a_tenth_is_held_out(tmp_path):
    root = write_images(tmp_path, [f"set/train/{name}/{n}.png" for name in "ab" for n in range(10)])
    config = replace(CONFIG, data=replace(CONFIG.data, source=str(root)))
    evaluate = OnlineKnn(config, open_source(str(root)), CPU)
    assert evaluate.available and [len(rows) for _, rows in evaluate._sides] == [18, 2]


def test_the_view_of_a_view_is_the_view():
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    view = eval_image(image, 32)
    assert torch.equal(eval_image(view.permute(1, 2, 0).contiguous().numpy(), 32), view)


@pytest.mark.parametrize("world_size", [2, 3, 12])
def test_shares_of_ranks_together_are_the_whole(world_size, monkeypatch):
    """Twelve ranks: one has no query at all."""
    backbone, source = build_backbone(CONFIG), open_source("sample:50")
    evaluate = [OnlineKnn(CONFIG, source, Ranks(r, world_size, torch.device("cpu"))) for r in range(world_size)]
    side = [0]

    def gather(items):
        number, side[0] = side[0], side[0] + 1
        others = [rank._features(backbone, *rank._sides[number]) for rank in evaluate[1:]]
        return items + [item for part in others for item in part]

    monkeypatch.setattr(online_knn, "gather", gather)
    assert sum(len(rank._sides[0][1]) for rank in evaluate) == 30
    found = evaluate[0](backbone)
    assert (found["top1"], found["top5"]) == plain(backbone)
    monkeypatch.setattr(online_knn, "gather", lambda items: items)
    assert evaluate[1](backbone) == {}
