"""Tasks: targets of any kind, which protocols they suit, and what a suite says of those that it leaves out."""

import numpy as np
import pytest

from esvit_fast.evaluation import (
    Bench,
    Entry,
    Needs,
    Protocol,
    RawPixels,
    Settings,
    Targets,
    Task,
    default_suite,
    evaluate,
    get_protocol,
    run_suite,
)

from .stand_ins import ArraySource, TinyModel, noise_images

CLASSES = ("a", "b", "c")


class Annotated(ArraySource):
    """Images with targets that are not classes."""

    def __init__(self, images, targets, name="annotated"):
        super().__init__(images, name=name)
        self.targets = targets


class Masks(Targets):
    name, plural, remedy = "mask", "masks", "lay them beside the images"

    def has(self, source):
        return hasattr(source, "targets")

    def of(self, source, index):
        return source.targets[index]


class Overlap(Protocol):
    """Percent of ones among the targets that it sees, whatever their shape."""

    name, description, needs, Settings = "overlap", "Of masks.", Needs(targets="mask"), Settings

    def run(self, bench, task, settings):
        images = task.draw()
        seen = [bench.features(name, images) for name in bench.networks][-1]
        row = {"ones": 100 * seen[1].labels.double().mean().item(), "shape": list(seen[1].labels.shape)}
        return bench.result(self.name, images, {name: [row] for name in bench.networks}, {}, seen)


@pytest.mark.parametrize("shape", [(), (5,), (6, 6), (2,)], ids=["number", "several classes", "mask", "pair"])
def test_targets_of_any_shape_reach_a_protocol(register, shape):
    register(Masks), register(Overlap)
    rng = np.random.default_rng(0)
    train, test = (
        Annotated(noise_images(n, seed=n), rng.integers(0, 2, (n, *shape)), name) for n, name in ((9, "x"), (7, "y"))
    )
    result = evaluate("overlap", Bench({"trained": TinyModel()}), Task(train, test))
    assert (result.bank, result.queries, result.classes, result.remarks) == (9, 7, 0, ())
    row = result.row()
    assert row["shape"] == [7, *shape] and row["ones"] == pytest.approx(100 * test.targets.mean())
    assert "chance" not in result.tree() and result.facts()[0] == "data: x, 7 test images among 9 training images"
    alone = evaluate("overlap", Bench({"trained": TinyModel()}), Task(train))
    assert (alone.bank, alone.queries) == (8, 1) and "no test split of its own" in alone.remarks[0]


def test_targets_that_are_not_there_are_said_with_the_remedy(register):
    register(Masks), register(Overlap)
    task = Task(ArraySource(noise_images(5), name="plain"))
    with pytest.raises(ValueError, match="source='plain' has no masks, which eval overlap needs: lay them beside"):
        evaluate("overlap", Bench({"trained": TinyModel()}), task)
    with pytest.raises(ValueError, match="source='plain' has no classes, which eval knn needs: put the images of each"):
        evaluate("knn", Bench({"trained": TinyModel()}), task)
    with pytest.raises(ValueError, match="targets='maks' is not a kind of targets; did you mean 'mask'"):
        _ = Task(task.train, targets="maks").sides


def test_a_suite_says_what_it_leaves_out_and_why(register):
    class Probe(Overlap):
        name, needs, title = "probe", Needs(test=True), "probe of the test split"

    class Looks(Overlap):
        name, needs = "looks", Needs(backbone=("look",))

    register(Masks), register(Overlap), register(Probe), register(Looks)
    source, bench = ArraySource(noise_images(12), [i % 3 for i in range(12)], CLASSES), Bench({"trained": TinyModel()})
    results = run_suite(default_suite(epochs=2, blocks=2), bench, Task(source, source))
    assert list(results) == ["knn", "linear", "correspondence", "health"]
    said = "no look in TinyModel: no looks", "no masks: no overlap", "no test split: no probe of the test split"
    assert sorted(results["knn"].remarks[:3]) == list(said) == sorted(results["health"].remarks[:3])
    for name, lack in (("probe", "no test split"), ("looks", "no look in TinyModel")):
        with pytest.raises(ValueError, match=f"^protocol='{name}' cannot be run: {lack}; pass what has it"):
            evaluate(name, bench, Task(source, source))
    with pytest.raises(ValueError, match="^protocol='linear' cannot be run: no network but raw pixels; pass"):
        evaluate("linear", Bench({"raw pixels": RawPixels()}), Task(source))


def test_a_suite_is_any_list_of_protocols_with_settings():
    source, bench = ArraySource(noise_images(20), [i % 3 for i in range(20)], CLASSES), Bench({"trained": TinyModel()})
    knn = get_protocol("knn").Settings(k=(3,), bank=10)
    results = run_suite([Entry("health", get_protocol("health").Settings()), Entry("knn", knn)], bench, Task(source))
    assert list(results) == ["health", "knn"]
    assert results["knn"].settings["k"] == [3] and (results["knn"].bank, results["health"].queries) == (10, 18)
    with pytest.raises(ValueError, match="suite names protocol 'knn' twice"):
        run_suite([Entry("knn", knn), Entry("knn", knn)], bench, Task(source))
    with pytest.raises(ValueError, match="protocol='knnn' is not a protocol; did you mean 'knn'"):
        run_suite([Entry("knnn", knn)], bench, Task(source))


def test_a_protocol_of_features_can_be_asked_while_training():
    """`score` gives the rows that `run` does."""
    source, bench = ArraySource(noise_images(20), [i % 3 for i in range(20)], CLASSES), Bench({"trained": TinyModel()})
    protocol, task = get_protocol("knn"), Task(source)
    settings = protocol.Settings(k=(2, 5))
    rows = protocol.score(*bench.features("trained", task.draw()), settings, "cpu")
    assert rows == evaluate("knn", bench, task, settings).numbers["trained"]


def test_the_headline_of_knn_is_that_of_twenty_neighbors_or_nearest_to_it():
    source = ArraySource(noise_images(60), [i % 3 for i in range(60)], CLASSES)
    for k, headline in (((5, 5, 30, 22, 17), 22), ((2,), 2), (None, 20)):
        settings = get_protocol("knn").Settings(k=k)
        result = evaluate("knn", Bench({"trained": TinyModel()}), Task(source), settings)
        assert result.row()["k"] == headline and "headline" not in result.tree()


def test_features_of_a_part_are_those_that_were_taken_of_the_same_images():
    source, bench = ArraySource(noise_images(20), [i % 3 for i in range(20)], CLASSES), Bench({"trained": TinyModel()})
    task = Task(source)
    all_of_them, taken = bench.features("trained", task.draw())[0], bench.part("trained", task.draw())
    assert taken.features.equal(all_of_them.features) and bench.part("trained", task.draw()) is taken
    assert len(bench.part("trained", task.draw(bank=6)).labels) == 6
    assert not bench.part("trained", task.draw(), 8).features.equal(taken.features)
