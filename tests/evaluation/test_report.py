import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import pytest
import torch

from esvit_fast.config import Config, CropConfig, DataConfig, EvalConfig, MethodConfig, TrainConfig
from esvit_fast.data import denormalize, normalize
from esvit_fast.evaluation.curves import charts, read_metrics, training_seconds
from esvit_fast.evaluation.features import split_labelled, subset
from esvit_fast.evaluation.pictures import crops, overlay, readable
from esvit_fast.evaluation.report import duration, sign, write_report
from esvit_fast.evaluation.suite import evaluate_run

from .stand_ins import ArraySource, TinyModel, coloured_images, noise_images

CROPS = CropConfig(global_size=16, local_sizes=(8,), local_counts=(3,))
CONFIG = Config(
    method=MethodConfig(out_dim=128),
    data=DataConfig(crops=CROPS),
    train=TrainConfig(batch_size=4),
    eval=EvalConfig(knn_bank=60, knn_queries=30),
)
CLASSES = ("ant & bee", "cow", "cat")


def labelled(count, seed, name="train", **options):
    labels = [i % 3 for i in range(count)]
    return ArraySource(coloured_images(labels, seed=seed), labels, CLASSES, name=name, **options)


def evaluate(train, test, **options):
    options = {"epochs": 3, "correspondence_images": 5, "blocks": 2} | options
    return evaluate_run(TinyModel(patch=2), TinyModel(seed=1), train, test, CONFIG, **options)


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
    seen = []
    result = evaluate(labelled(90, 0), labelled(36, 1, "test", broken={3}), progress=lambda *at: seen.append(at))
    assert json.loads(json.dumps(result)) == result
    assert (result["train_images"], result["test_images"], result["unreadable"]) == (60, 29, 1)
    assert (result["k"], result["classes"], result["held_out"]) == (20, 3, False)
    assert result["knn"]["after"]["top1"] > 90  # the class is the colour
    assert result["knn"]["pixels"]["top1"] > 90
    assert set(result["linear"]["after"]["table"][0]) == {"learning_rate", "held_out", "test"}
    assert set(result["health"]) == set(result["correspondence"]) == {"before", "after"}
    assert ("linear probe, trained", 3, 3) in seen
    assert ("correspondence, untrained", 5, 5) in seen


def test_evaluation_without_a_test_split_holds_images_back_and_lowers_k():
    train = labelled(20, 0)
    for test in (None, train, ArraySource(noise_images(3), name="bare")):
        result = evaluate(train, test, linear=False)
        assert (result["held_out"], result["train_images"], result["test_images"], result["k"]) == (True, 18, 2, 18)
        assert "linear" not in result
    (_, bank), (_, queries) = split_labelled(train, train)
    assert len(queries) == 2
    assert sorted(bank + queries) == list(range(20))


def test_images_without_a_label_are_in_neither_side():
    train, test = labelled(20, 0), labelled(6, 1, "test")
    train.labels[3] = train.labels[7] = test.labels[0] = -1
    (_, bank), (_, queries) = split_labelled(train, test)
    assert bank == [i for i in range(20) if i not in (3, 7)] and queries == [1, 2, 3, 4, 5]
    for other in (None, ArraySource(test.images, [-1] * 6, CLASSES, name="bare")):
        assert split_labelled(train, other)[1][0] is train
    (_, bank), (_, queries) = split_labelled(train, None)
    assert len(queries) == 1 and sorted(bank + queries) == [i for i in range(20) if i not in (3, 7)]


def test_evaluation_without_classes_has_no_accuracies():
    result = evaluate(ArraySource(noise_images(12)), None)
    assert set(result) == {"labelled", "unreadable", "health", "correspondence"}
    assert result["labelled"] is False


def test_other_classes_in_the_test_split_are_refused():
    test = labelled(6, 1, "test")
    test.classes = ("ant & bee", "cow", "dog")
    with pytest.raises(ValueError, match=r"test source 'test' has other classes than 'train' \(cat, dog in only one"):
        evaluate(labelled(20, 0), test)


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
        assert f"{evaluation[key]['after']['top1']:.1f}" in text
        assert f"{evaluation[key]['before']['top1']:.1f}" in text
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
    assert "The images have no classes, so there is no k-NN, no linear probe" in text
    assert "swin_tiny_w7 on flat" in text
    assert "1 images could not be read" in text
    assert "shot hit" not in page
    assert "raw pixels" not in text


def test_report_without_an_evaluation_says_so(tmp_path):
    source = labelled(12, 0)
    arguments = {"source": source, "test_source": None, "config": CONFIG, "evaluation": None}
    path = write_report(run_folder(tmp_path), model=TinyModel(), untrained=TinyModel(), **arguments)
    assert "written without an evaluation" in check(path)[1]


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
    outcome, course = charts(metrics, 128)
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
