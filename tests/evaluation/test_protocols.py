"""What a protocol is told, which images it takes, and what its result says of them."""

import dataclasses

import pytest

from esvit_fast.config import AugmentConfig
from esvit_fast.evaluation.bench import (
    Bench,
    evaluate_correspondence,
    evaluate_linear,
    evaluated_images,
    pictured_images,
    shown_images,
)
from esvit_fast.evaluation.features import subset
from esvit_fast.evaluation.measures.correspondence import PAIRS
from esvit_fast.evaluation.result import EvalSettings
from esvit_fast.models import create_model

from .stand_ins import ArraySource, TinyModel, noise_images

AUGMENT = AugmentConfig()


OUT_OF_RANGE = {
    "bank": -1,
    "queries": -5,
    "pair_images": -2,
    "size": 0,
    "temperature": 0,
    "epochs": 0,
    "blocks": -1,
    "batch_size": 0,
    "k": (5, 0),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_settings_out_of_range(name):
    value = OUT_OF_RANGE[name]
    with pytest.raises(ValueError, match=f"^{name}={value if name != 'k' else 0} must be"):
        EvalSettings(**{name: value})


def test_a_model_of_fewer_blocks_is_refused_before_images_are_read(monkeypatch):
    monkeypatch.setattr("esvit_fast.evaluation.bench.extract_features", lambda *_, **__: pytest.fail("read first"))
    images, settings = (
        evaluated_images(
            ArraySource(noise_images(20), [i % 3 for i in range(20)], ("a", "b", "c")), None, EvalSettings()
        ),
        EvalSettings(blocks=99),
    )
    with pytest.raises(ValueError, match="blocks=99 must lie between 1 and 8, the number of blocks"):
        evaluate_linear(Bench({"trained": create_model("swin_nano_w4")}, images, settings, AUGMENT))


def test_correspondence_and_pictures_of_unlabelled_images_are_those_of_the_test_split():
    train, test = ArraySource(noise_images(12), broken=range(12)), ArraySource(noise_images(7, seed=1), name="held")
    images = evaluated_images(train, test, EvalSettings())
    assert images.shown == (test, "test split") and images.sides[0][0] is train
    found = evaluate_correspondence(Bench({"trained": TinyModel(patch=2)}, images, EvalSettings(), AUGMENT))
    assert (found.queries, found.data) == (7, "held, test split")
    assert shown_images(train, None) == (train, "training split") and shown_images(train, train) == (train, "")


def test_correspondence_says_what_it_hangs_on():
    source, seen = ArraySource(noise_images(9), name="flat"), []
    source.broken = {subset(9, 6)[-1]}
    images, settings = pictured_images(source, source), EvalSettings(pair_images=6, seed=3)
    result = evaluate_correspondence(
        Bench({"trained": TinyModel(patch=2)}, images, settings, AUGMENT, progress=lambda *at: seen.append(at))
    )
    assert result.queries == 5 and result.settings == {"pair_images": 6, "seed": 3}
    assert result.remarks == (
        "6 of 9 images drawn: others may give other numbers",
        "1 image could not be read and is left out",
    )
    assert seen == [(f"trained, correspondence, {views}", n, 6) for views in PAIRS for n in range(1, 7)]
    whole = dataclasses.replace(settings, pair_images=0)
    source.broken = set()
    assert not evaluate_correspondence(Bench({"trained": TinyModel(patch=2)}, images, whole, AUGMENT)).remarks
