"""What a protocol is told, which images it takes, and what its result says of them."""

import dataclasses

import pytest

from esvit_fast.config import AugmentConfig
from esvit_fast.evaluation import Bench, Task, default_suite, evaluate
from esvit_fast.evaluation.catalog import get_protocol
from esvit_fast.evaluation.measures.correspondence import PAIRS
from esvit_fast.evaluation.targets import subset
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
    "k": (5, 0),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_settings_out_of_range(name):
    value = OUT_OF_RANGE[name]
    with pytest.raises(ValueError, match=f"^{name}={value if name != 'k' else 0} must be"):
        default_suite(**{name: value})


def test_a_bench_out_of_range():
    with pytest.raises(ValueError, match="^batch_size=0 must be 1 or more images$"):
        Bench({}, batch_size=0)


def test_a_setting_that_no_protocol_reads_is_refused():
    with pytest.raises(ValueError, match="^epoch=3 is no setting of a protocol; did you mean 'epochs'\\?$"):
        default_suite(epoch=3)


def test_a_model_of_fewer_blocks_is_refused_before_images_are_read(monkeypatch):
    monkeypatch.setattr("esvit_fast.evaluation.bench.extract_features", lambda *_, **__: pytest.fail("read first"))
    task = Task(ArraySource(noise_images(20), [i % 3 for i in range(20)], ("a", "b", "c")))
    settings = get_protocol("linear").Settings(blocks=99)
    with pytest.raises(ValueError, match="blocks=99 must lie between 1 and 8, the number of blocks"):
        evaluate("linear", Bench({"trained": create_model("swin_nano_w4")}), task, settings)


def test_correspondence_and_pictures_of_unlabelled_images_are_those_of_the_test_split():
    train, test = ArraySource(noise_images(12), broken=range(12)), ArraySource(noise_images(7, seed=1), name="held")
    task = Task(train, test)
    assert task.shown == (test, "test split") and task.draw().sides[0][0] is train
    found = evaluate("correspondence", Bench({"trained": TinyModel(patch=2)}, AUGMENT), task)
    assert (found.queries, found.data) == (7, "held, test split")
    assert Task(train).shown == (train, "training split") and Task(train, train).shown == (train, "")


def test_correspondence_says_what_it_hangs_on():
    source, seen = ArraySource(noise_images(9), name="flat"), []
    source.broken = {subset(9, 6)[-1]}
    task, settings = Task(source, source), get_protocol("correspondence").Settings(pair_images=6, seed=3)
    bench = Bench({"trained": TinyModel(patch=2)}, AUGMENT, progress=lambda *at: seen.append(at))
    result = evaluate("correspondence", bench, task, settings)
    assert result.queries == 5 and result.settings == {"pair_images": 6, "seed": 3}
    assert result.remarks == (
        "6 of 9 images drawn: others may give other numbers",
        "1 image could not be read and is left out",
    )
    assert seen == [(f"trained, correspondence, {views}", n, 6) for views in PAIRS for n in range(1, 7)]
    whole = dataclasses.replace(settings, pair_images=0)
    source.broken = set()
    assert not evaluate("correspondence", Bench({"trained": TinyModel(patch=2)}), task, whole).remarks
