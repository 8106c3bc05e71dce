import logging

import numpy as np
import pytest
import torch

from esvit_fast.config import AugmentConfig
from esvit_fast.data import eval_image, normalize
from esvit_fast.evaluation.features import evaluating, extract_features
from esvit_fast.evaluation.targets import require_labels, subset

from .stand_ins import ArraySource, TinyModel, noise_images

AUGMENT = AugmentConfig()


def direct(model, images, size):
    model.eval()
    with torch.no_grad():
        return torch.cat([model(normalize(eval_image(image, size)[None], AUGMENT)) for image in images])


@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_features_are_those_of_the_model_in_source_order(batch_size):
    images, seen = noise_images(9), []
    source = ArraySource(images, labels=range(9), classes="abcdefghi")
    result = extract_features(
        TinyModel(), source, augment=AUGMENT, batch_size=batch_size, progress=lambda *at: seen.append(at)
    )
    torch.testing.assert_close(result.features, direct(TinyModel(), images, 16))
    assert result.labels.tolist() == result.indices.tolist() == list(range(9))
    assert seen[-1] == (9, 9)
    assert len(seen) == -(-9 // batch_size)
    assert result.features.dtype == torch.float32
    (result.features.requires_grad_() * 2).sum().backward()


def test_blocks_are_concatenated_and_indices_and_size_respected():
    images, model = noise_images(6), TinyModel()
    result = extract_features(model, ArraySource(images), augment=AUGMENT, blocks=3, indices=[4, 1], size=8)
    pooled = direct(model, [images[4], images[1]], 8)
    torch.testing.assert_close(result.features, torch.cat([pooled, 2 * pooled, 3 * pooled], dim=1))
    assert result.indices.tolist() == [4, 1]
    assert result.labels.tolist() == [-1, -1]


def test_every_module_gets_its_own_mode_back_even_after_an_error():
    model = TinyModel().train()
    model.drop.eval()
    extract_features(model, ArraySource(noise_images(2)), augment=AUGMENT)
    assert (model.training, model.drop.training) == (True, False)
    model.drop.train()
    with evaluating(model):
        assert not model.drop.training
        assert torch.is_inference_mode_enabled()
    with pytest.raises(ZeroDivisionError), evaluating(model):
        _ = 1 / 0
    assert (model.training, model.drop.training) == (True, True)


def test_unreadable_images_are_left_out_logged_and_listed(caplog):
    images = noise_images(7)
    source = ArraySource(images, labels=range(7), classes="abcdefg", broken={0, 4, 5})
    with caplog.at_level(logging.WARNING):
        result = extract_features(TinyModel(), source, augment=AUGMENT, batch_size=2)
    assert result.labels.tolist() == result.indices.tolist() == [1, 2, 3, 6]
    assert [failure[0] for failure in result.failures] == [0, 4, 5]
    assert result.failures[0][1:] == ("arrays/0.png", "truncated")
    assert "arrays/4.png" in caplog.text
    torch.testing.assert_close(result.features, direct(TinyModel(), [images[i] for i in (1, 2, 3, 6)], 16))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (ArraySource(noise_images(2), broken={0, 1}), "none of its 2 images can be read, the first one .arrays/0.png."),
        (ArraySource([]), "source='arrays' gives no images"),
    ],
)
def test_nothing_to_take_features_of(source, words):
    with pytest.raises(ValueError, match=words) as error:
        extract_features(TinyModel(), source, augment=AUGMENT)
    assert "\n" not in str(error.value)


def test_no_more_is_needed_than_the_signature_says():
    """A plain network and three methods of a source; where something is missing, the sentence says what."""

    class Plain:
        def __len__(self):
            return 3

        def image(self, index):
            return noise_images(3)[index]

        def label(self, index):
            return index

    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 5))
    result = extract_features(net, Plain(), size=16)
    torch.testing.assert_close(result.features, direct(net, noise_images(3), 16))
    assert result.labels.tolist() == [0, 1, 2]
    assert extract_features(torch.nn.Flatten(), Plain(), size=4).features.shape == (3, 48)  # without parameters
    for change, words in (
        ({}, "size=None needs a model with an image_size, which Sequential has not; pass one, such as 224"),
        (
            {"size": 16, "blocks": 2},
            "blocks=2 needs a model with forward_last_blocks, which Sequential has not; pass 0",
        ),
        ({"size": 16, "indices": []}, "source='Plain' gives no images"),
    ):
        with pytest.raises(ValueError, match=words):
            extract_features(net, Plain(), **change)
    with pytest.raises(ValueError, match=r"model Identity gives \[3, 3, 16, 16\] instead of \[B, C\]"):
        extract_features(torch.nn.Identity(), Plain(), size=16)


def test_a_model_stays_on_its_device_unless_another_is_named():
    model = TinyModel().to("meta")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta|Cannot copy"):  # it was not moved to the CPU
        extract_features(model, ArraySource(noise_images(2)))
    assert model.weight.device.type == "meta"


def test_a_source_without_classes_is_refused_where_they_are_needed():
    with pytest.raises(
        ValueError, match=r"source='flat' has no classes, which k-NN needs: put the images of each class"
    ):
        require_labels(ArraySource(noise_images(1), name="flat"), "k-NN")
    require_labels(ArraySource(noise_images(1), [0], classes=["one"]), "k-NN")


def test_subset_is_fixed_nested_and_misses_no_class():
    assert subset(3, 5) == subset(3, None) == subset(3, 0) == [0, 1, 2]
    few, many = subset(5000, 500), subset(5000, 1000)
    assert few == subset(5000, 500) == sorted(set(few))
    assert (len(few), len(many)) == (500, 1000)
    assert set(few) < set(many) < set(range(5000))
    # where labels alternate, and where they come in blocks
    for counts in (np.bincount(np.array(few) % 10, minlength=10), np.bincount(np.array(few) // 500, minlength=10)):
        assert counts.min() > 25
