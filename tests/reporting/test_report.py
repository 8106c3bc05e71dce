import dataclasses
import errno
import json
import math
import os
import re
from html.parser import HTMLParser

import pytest
import torch

from esvit_fast.config import Config, CropConfig, DataConfig, EvalConfig, TrainConfig
from esvit_fast.data import denormalize, normalize
from esvit_fast.evaluation.features import extract_features
from esvit_fast.evaluation.measures.correspondence import correspondence_accuracy
from esvit_fast.evaluation.measures.health import feature_health
from esvit_fast.evaluation.measures.knn import knn
from esvit_fast.evaluation.measures.linear import linear_probe
from esvit_fast.evaluation.suite import default_suite, evaluate_run
from esvit_fast.evaluation.targets import subset
from esvit_fast.evaluation.task import Task
from esvit_fast.methods.esvit_settings import EsViTSettings
from esvit_fast.reporting.curves import charts, read_metrics, training_seconds
from esvit_fast.reporting.pictures import crops, overlay, readable
from esvit_fast.reporting.report import duration, sign, write_report

from ..evaluation.stand_ins import ArraySource, TinyModel, coloured_images, noise_images

CROPS = CropConfig(global_size=16, local_sizes=(8,), local_counts=(3,))
CONFIG = Config(
    method=EsViTSettings(out_dim=128),
    data=DataConfig(crops=CROPS),
    train=TrainConfig(batch_size=4),
    eval=EvalConfig(knn_bank=60, knn_queries=30),
)
AUGMENT = CONFIG.data.augment
CLASSES = ("ant & bee", "cow", "cat")


def labelled(count, seed, name="train", **options):
    labels = [i % 3 for i in range(count)]
    return ArraySource(coloured_images(labels, seed=seed), labels, CLASSES, name=name, **options)


def evaluate(train, test, **options):
    progress = options.pop("progress", None)
    suite = default_suite(**{"epochs": 3, "pair_images": 5, "blocks": 2, **options})
    return evaluate_run(TinyModel(patch=2), TinyModel(seed=1), train, test, AUGMENT, suite, progress=progress)


def run_folder(tmp_path, rows=4):
    lines = [
        {
            "kind": "train", "step": i, "samples": 100 * (i + 1), "epoch": i / 2, "loss": 4.5 - i / 4, "view_loss": 4.4,
            "region_loss": None, "teacher_entropy": 3.0, "region_teacher_entropy": None, "lr": 1e-3,
            "images_per_s": 50.0, "grad_norm": math.nan,
        }
        for i in range(rows)
    ]  # fmt: skip
    lines.append({"kind": "knn", "step": 1, "samples": 200, "top1": 40.0, "top5": 90.0, "k": 20})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "environment.json").write_text(json.dumps({"device": "<abacus>", "cuda": {"version": None}}))
    return tmp_path


class Checker(HTMLParser):
    """Collects what a page loads, and fails if tags are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def check(path):
    page, checker = path.read_text(), Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.links
    assert all(link.startswith("data:image/") for link in checker.links)
    assert "<script" not in page
    assert "url(" not in page
    assert "@import" not in page
    return page, " ".join(checker.text)


def test_evaluation_of_a_labelled_run():
    seen, train, test = [], labelled(90, 0), labelled(36, 1, "test", broken={3})
    results = evaluate(train, test, bank=60, queries=30, progress=lambda *at: seen.append(at))
    assert list(results) == ["knn", "linear", "correspondence", "health"]
    for protocol, result in results.items():
        tree = json.loads(json.dumps(result.tree()))
        assert tree["protocol"] == protocol and tree["transform"] and tree["numbers"]
    knn, linear = results["knn"], results["linear"]
    assert (
        (knn.bank, knn.queries, knn.classes, knn.chance)
        == (60, 29, 3, 100 / 3)
        == (linear.bank, linear.queries, 3, linear.chance)
    )
    assert [row["k"] for row in knn.numbers["trained"]] == knn.settings["k"] == [10, 20, 60]
    assert list(knn.numbers) == ["trained", "untrained", "raw pixels"] and list(linear.numbers) == [
        "trained",
        "untrained",
    ]
    assert knn.row()["k"] == 20 and knn.row()["top1"] > 90  # the class is the colour
    assert knn.row("raw pixels")["top1"] > 90
    for remark in (
        "1 image could not be read and is left out",
        "60 of 90 training images drawn",
        "30 of 36 test images",
    ):
        assert any(remark in line for line in knn.facts())
    assert set(linear.row()["table"][0]) == {"learning_rate", "held_out", "test"}
    assert [row["views"] for row in results["correspondence"].numbers["trained"]] == ["published", "crops"]
    assert set(results["health"].numbers) == {"trained", "untrained"} and results["health"].queries == 60
    assert ("trained, linear probe", 3, 3) in seen
    assert ("untrained, correspondence, crops", 5, 5) in seen


def test_all_images_are_the_default_and_k_is_lowered_to_the_bank():
    train = labelled(20, 0)
    for test in (None, train, ArraySource(noise_images(3), name="bare")):
        knn = evaluate(train, test)["knn"]
        assert (knn.bank, knn.queries, knn.settings["k"]) == (18, 2, [10, 18])
        assert "no test split of its own" in knn.remarks[0] and knn.row()["k"] == 18
    with pytest.raises(ValueError, match="k=20 must lie between 1 and the 18 images of the bank"):
        evaluate(train, None, k=(20,))
    (_, bank), (_, queries) = Task(train, train).sides
    assert len(queries) == 2
    assert sorted(bank + queries) == list(range(20))


def test_a_result_is_that_of_the_functions_by_hand():
    train, test = labelled(50, 0), labelled(20, 1, "test")
    results, model = evaluate(train, test), TinyModel(patch=2)
    bank, queries = (extract_features(model, source, augment=AUGMENT) for source in (train, test))
    for row in results["knn"].numbers["trained"]:
        assert knn(bank, queries, k=(row["k"],))[row["k"]] == (row["top1"], row["top5"])
    deep = [extract_features(model, source, augment=AUGMENT, blocks=2) for source in (train, test)]
    probe, row = linear_probe(*deep, epochs=3), results["linear"].row()
    assert (probe.learning_rate, probe.top1, probe.top5) == (row["learning_rate"], row["top1"], row["top5"])
    assert feature_health(bank.features)._asdict() == results["health"].row()
    for row in results["correspondence"].numbers["trained"]:
        found = correspondence_accuracy(model, test, augment=AUGMENT, views=row["views"], images=5)
        assert {"views": row["views"], **found._asdict()} == row


def test_images_without_a_label_are_in_neither_side():
    train, test = labelled(20, 0), labelled(6, 1, "test")
    train.labels[3] = train.labels[7] = test.labels[0] = -1
    (_, bank), (_, queries) = Task(train, test).sides
    assert bank == [i for i in range(20) if i not in (3, 7)] and queries == [1, 2, 3, 4, 5]
    for other in (None, ArraySource(test.images, [-1] * 6, CLASSES, name="bare")):
        assert Task(train, other).sides[1][0] is train
    (_, bank), (_, queries) = Task(train, None).sides
    assert len(queries) == 1 and sorted(bank + queries) == [i for i in range(20) if i not in (3, 7)]


def test_evaluation_without_classes_has_no_accuracies():
    results = evaluate(ArraySource(noise_images(12)), None)
    assert list(results) == ["correspondence", "health"]
    assert "no classes" in results["health"].remarks[0]


def test_classes_are_the_same_by_name_and_a_new_one_of_the_test_split_counts_as_wrong():
    train, test = labelled(30, 0), labelled(12, 1, "test")
    whole = evaluate(train, test)["knn"].row()["top1"]
    test.classes, order = ("cat", "cow", "ant & bee"), [2, 1, 0]  # another order
    test.labels = [order[label] for label in test.labels]
    assert evaluate(train, test)["knn"].row()["top1"] == whole > 90
    test.classes = ("cat", "cow", "dog")  # a third of the images are of no class of the training images
    results = evaluate(train, test)
    for protocol in ("knn", "linear"):
        result = results[protocol]
        assert result.row()["top1"] <= 100 * 8 / 12 and result.classes == 3 and result.queries == 12
        told = "4 of 12 test images are of 1 class of which no training image is ('dog'): they count as wrong"
        assert told in result.remarks
    (_, _), (other, rows) = Task(train, test).sides
    assert other.classes == ("ant & bee", "cow", "cat", "dog")
    assert [other.classes[other.label(i)] for i in rows] == [test.classes[test.label(i)] for i in rows]


def test_a_test_split_that_lacks_a_class_is_fine():
    train, test = labelled(30, 0), labelled(12, 1, "test")
    test.labels, test.classes = [label % 2 for label in test.labels], CLASSES[:2]
    assert not evaluate(train, test)["knn"].remarks[1:]
    test.classes = ("x", "y")
    with pytest.raises(ValueError, match="test source 'test' has no class of 'train': 'x', 'y' instead of 'ant & bee'"):
        evaluate(train, test)


def test_report_of_a_labelled_run_is_complete_and_self_contained(tmp_path):
    train, test = labelled(90, 0), labelled(40, 1, "test")
    evaluation = evaluate(train, test)
    path = write_report(
        run_folder(tmp_path),
        model=TinyModel(patch=2),
        untrained=TinyModel(seed=1, patch=2),
        source=train,
        test_source=test,
        config=CONFIG,
        evaluation=evaluation,
    )
    assert path == tmp_path / "report.html"
    page, text = check(path)
    for key in ("knn", "linear"):
        for network in ("trained", "untrained"):
            assert f"{evaluation[key].row(network)['top1']:.1f}" in text
    published, crops = evaluation["correspondence"].numbers["trained"]
    for number in (published["top10"], published["exact"], crops["top10"]):
        assert f"{number:.1f}" in text
    for line in evaluation["knn"].facts():
        assert line in text
    for word in (
        "k-NN",
        "Linear probe",
        "raw pixels",
        "Nearest neighbours",
        "Attention",
        "Region correspondence",
        "Crops",
    ):
        assert word in text
    assert "ant & bee" in text
    assert "ant & bee" not in page.replace("ant &amp; bee", "")
    assert "<abacus>" in text  # escaped in the page
    assert f"ln K = {math.log(128):.2f}" in text
    assert "out_dim: 128" in text
    assert page.count('class="card crops"') == 3
    assert page.count('class="card near"') == 6
    assert page.count('class="shot hit"') + page.count('class="shot miss"') == 6 * 2 * 6


def test_report_without_classes_says_so(tmp_path):
    source = ArraySource(noise_images(15), name="folder/flat", broken={0})
    path = write_report(
        run_folder(tmp_path),
        model=TinyModel(patch=2),
        untrained=TinyModel(patch=2, seed=1),
        source=source,
        test_source=None,
        config=CONFIG,
        evaluation=evaluate(source, None),
    )
    page, text = check(path)
    assert "No classes: neither k-NN nor linear probe." in text
    assert "swin_tiny_w7 on flat" in text
    assert "1 image could not be read and is left out." in text
    assert "shot hit" not in page
    assert "raw pixels" not in text


def test_the_precision_is_the_one_that_ran(tmp_path):
    source, folder = labelled(12, 0), run_folder(tmp_path)
    arguments = {"model": TinyModel(), "untrained": TinyModel(), "source": source, "test_source": None}
    kept = {"precision": "auto is bf16, as it is fast here"}
    for asked, environment, told in (
        ("fp32", kept, "fp32"),
        ("auto", kept, kept["precision"]),
        ("auto", {}, "auto; what that became was not kept"),
    ):
        config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, precision=asked))
        (folder / "environment.json").write_text(json.dumps(environment))
        page = check(write_report(folder, config=config, evaluation=None, **arguments))[0]
        assert f"<dt>precision</dt><dd>{told}</dd>" in page


def test_report_without_an_evaluation_says_so(tmp_path):
    source = labelled(12, 0)
    arguments = {"source": source, "test_source": None, "config": CONFIG, "evaluation": None}
    path = write_report(run_folder(tmp_path), model=TinyModel(), untrained=TinyModel(), **arguments)
    assert "written without an evaluation" in check(path)[1]


def test_a_full_disk_is_said_and_leaves_the_page_of_before(tmp_path, monkeypatch):
    arguments = {"source": labelled(12, 0), "test_source": None, "config": CONFIG, "evaluation": None}
    arguments |= {"model": TinyModel(), "untrained": TinyModel()}
    run_folder(tmp_path), (tmp_path / "report.html").write_text("before")

    def full(path, data):
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(ValueError, match="cannot be written .No space left on device.; make room, or write the page"):
        write_report(tmp_path, **arguments)
    assert (tmp_path / "report.html").read_text() == "before" and not list(tmp_path.glob(".*"))


def test_warnings_of_a_run_are_told_first_and_a_healthy_run_has_no_such_part(tmp_path):
    arguments = {"model": TinyModel(), "untrained": TinyModel(), "source": ArraySource(noise_images(5), name="bare")}
    arguments |= {"test_source": None, "config": CONFIG, "evaluation": None}
    run = run_folder(tmp_path)
    assert "<h2>Warnings" not in check(write_report(run, **arguments))[0]
    warning = {"kind": "warning", "step": 3, "samples": 300, "epoch": 1.5, "since": 1200, "remedy": "lower a.b=2 to 1"}
    with (run / "metrics.jsonl").open("a") as file:
        for kind in ("divergence", "dead <student>"):
            file.write(json.dumps(warning | {"finding": kind, "evidence": "loss > 9"}) + "\n")
    page, text = check(write_report(run, **arguments))
    assert page.index("<h2>Warnings") < page.index("<h2>Results")
    assert "dead <student>" in text and text.index("divergence") > text.index("dead <student>")
    assert "since step 1,200" in text and "loss > 9" in text and "lower a.b=2 to 1" in text


@pytest.mark.parametrize(("metrics", "words"), [(False, "has no metrics.jsonl; pass"), (True, "none of the images")])
def test_bad_input_of_a_report(tmp_path, metrics, words):
    if metrics:
        run_folder(tmp_path)
    source = ArraySource(noise_images(2), broken={0, 1})
    with pytest.raises(ValueError, match=words) as error:
        write_report(
            tmp_path,
            model=TinyModel(),
            untrained=TinyModel(),
            source=source,
            test_source=None,
            config=CONFIG,
            evaluation=None,
        )
    assert "\n" not in str(error.value)


def test_metrics_keep_the_last_line_of_a_step_and_survive_a_torn_one(tmp_path, caplog):
    rows = [{"kind": "train", "step": s, "samples": 10 * s, "loss": v} for s, v in ((2, 1.0), (1, 5.0), (2, 3.0))]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"kind": "train", "st')
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in metrics.train] == [(1, 5.0), (2, 3.0)]
    assert "line 4 is not JSON" in caplog.text


def test_charts_without_values_are_left_out(tmp_path):
    metrics = read_metrics(run_folder(tmp_path) / "metrics.jsonl")
    outcome, course = charts(metrics, CONFIG)
    assert re.findall(r'aria-label="([^"]+)"', outcome) == ["Loss", "Entropy of the teacher", "k-NN while training"]
    assert re.findall(r'aria-label="([^"]+)"', course) == ["Learning rate", "Throughput"]
    assert "region" not in outcome.split("Entropy")[0]
    assert training_seconds(metrics.train) == pytest.approx(400 / 50)
    assert math.isnan(training_seconds([{"samples": 10}]))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(45, "45 s"), (720, "12 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h"), (math.nan, "unknown")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_signs_are_typographic():
    assert [sign(x) for x in (1.25, -3.0)] == ["+1.2", "\N{MINUS SIGN}3.0"]


def test_denormalising_undoes_normalising():
    image = torch.from_numpy(noise_images(1)[0]).permute(2, 0, 1)[None]
    assert (
        denormalize(normalize(image, CONFIG.data.augment), CONFIG.data.augment) == image.permute(0, 2, 3, 1).numpy()
    ).all()


def test_overlay_colours_follow_the_attention():
    dark, light = (overlay(noise_images(1)[0][:16, :16] * 0, torch.full((4, 4), v), (0.0, 2.0)) for v in (0.0, 2.0))
    assert dark.shape == light.shape == (160, 160, 3)
    assert dark[0, 0].tolist() == [round(0.62 * c) for c in (11, 7, 36)]
    assert light[80, 80].tolist() == [round(0.62 * c) for c in (252, 255, 164)]


def test_pictures_skip_what_cannot_be_read():
    wanted = subset(20, 4)
    assert [index for index, _ in readable(ArraySource(noise_images(20)), range(20), 4)] == wanted
    source = ArraySource(noise_images(20), broken=wanted[1:])
    found = [index for index, _ in readable(source, range(20), 4)]
    assert len(found) == 4
    assert set(found) & set(wanted) == {wanted[0]}
    assert [index for index, _ in readable(ArraySource(noise_images(20), broken={10}), [3, 10, 17], 5)] == [3, 17]


def test_crops_are_shown_without_the_gpu_that_decodes_for_the_run():
    source, data = labelled(6, seed=0), dataclasses.replace(CONFIG.data, decode="gpu")
    assert crops(source, dataclasses.replace(CONFIG, data=data), 2) == crops(source, CONFIG, 2)
