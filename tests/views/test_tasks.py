"""The section of the report on tasks: its figures, and its sentences with data that change them."""

import re
from dataclasses import replace

import numpy as np
import pytest

from charlm.api import load_any, report, write_report
from charlm.cli.main import run as charlm
from charlm.tasks.attention import Attention
from charlm.tasks.completion import Completed, Completions
from charlm.tasks.label_run import PredictedLabel
from charlm.tasks.labels import LabelScores, TaggedText, reliability, scores_of_labels
from charlm.views.attention import attention_figures, describe_attention
from charlm.views.completions import describe_completions, describe_examples
from charlm.views.confusion import (
    MAX_LABELS,
    confusion_figure,
    describe_calibration,
    describe_confusion,
    describe_scores,
    shown_labels,
)
from charlm.views.label_errors import describe_errors
from charlm.views.measurements import RunMeasurements
from charlm.views.measuring import measure
from charlm.views.options import ReportOptions
from charlm.views.report import make_report
from charlm.views.tags import STYLES, describe_tags, styles_of

OPTIONS = ReportOptions(passage_tokens=60, memory_tokens=30, probe_tokens=400, context_targets=20)
FIGURES = {
    "classify": {"labels", "reliability", "confusion-1", "errors-1"},
    "tag": {"labels", "reliability", "confusion-1", "tags-1", "errors-1"},
    "complete": {"errors-1", "examples-1"},
    "translate": {"errors-1", "examples-1", "attention-1-1", "attention-1-4"},
}


@pytest.fixture(scope="module")
def runs(task_folders):
    """A run of each task."""
    return {kind: load_any(task_folders[kind], device="cpu") for kind in FIGURES}


@pytest.fixture(scope="module")
def reports(runs):
    return {kind: run.report(**vars(OPTIONS)) for kind, run in runs.items()}


@pytest.fixture(scope="module")
def measured(runs) -> RunMeasurements:
    options = replace(OPTIONS, sections=("task",))
    return measure([runs["tag"].trained], options).runs[0]


def scores_of(confusion: dict[str, dict[str, int]], **changes) -> LabelScores:
    """Return scores with a confusion matrix."""
    counts = np.array([list(row.values()) for row in confusion.values()])
    values = {
        "records": 10,
        "predictions": 10,
        "accuracy": 0.8,
        "macro_f1": 0.7,
        "loss_nats": 0.5,
        "calibration_error": 0.1,
        "majority": 0.6,
        "span_f1": None,
        "confusion": confusion,
        "by_label": scores_of_labels(list(confusion), counts),
        "reliability": reliability(np.full(10, 0.9), np.arange(10) < 8),
        "errors": [],
        "examples": [],
        "settings": {"records_of_split": 10, "task": "classify"},
    }
    return LabelScores(**values | changes)


@pytest.mark.parametrize("kind", FIGURES)
def test_a_report_on_a_task_has_its_figures_and_the_sections_of_every_run(kind, reports):
    html = reports[kind].html
    sections = re.findall(r'<section id="([a-z]+)"', html)
    assert sections == ["curves", "task", "network", "embeddings", "omitted"]
    shared = {"loss", "accuracy", "learning-rate", "parameters", "embeddings"}
    assert FIGURES[kind] | shared <= set(reports[kind].figures)
    omitted = html.split('id="omitted"')[1]
    for title in ("Surprisal", "Memory", "Context length", "Cells"):
        assert title in omitted, title
    assert "NaN" not in html.split('id="data">')[1].split("</script>")[0]
    for name, figure in reports[kind].figures.items():
        assert "<script" not in figure._repr_html_(), name


def test_only_the_measures_of_a_task_are_reported_while_they_are_measured(runs):
    for kind in ("classify", "complete"):
        measured = []
        models = [runs[kind].trained, runs["tag"].trained]
        measure(models, OPTIONS, report_progress=measured.append)
        names = [runs[kind].folder.name, "tag"]
        assert measured == [
            f"{name}: {field}" for name in names for field in ("task", "embeddings")
        ]


def test_one_reason_for_several_sections_is_one_line(reports):
    omitted = reports["classify"].html.split('id="omitted"')[1]
    assert omitted.count(": the run labels texts (task classify), and") == 1


def test_runs_of_tasks_and_language_models_share_a_page(runs, trained, tmp_path):
    every = [load_any(trained), *runs.values()]
    html = write_report(every, tmp_path / "report.html", **vars(OPTIONS)).read_text("utf-8")
    keys = re.findall(r'<figure id="f-([a-z0-9-]+)"', html)
    assert len(keys) == len(set(keys))
    assert {"confusion-2", "confusion-3", "tags-3", "errors-4", "memory", "surprisal"} <= set(keys)
    for text in ("only language models are compared", "nats per predicted token or label"):
        assert text in html
    assert "the run is a language model, which has no task" in html


def test_a_report_that_is_only_about_a_task_of_a_language_model_says_why_it_is_empty(trained):
    html = report(load_any(trained), sections=("task",)).html
    assert "the run is a language model, which has no task" in html


def test_a_training_of_a_task_ends_with_its_report(pairs_files, tmp_path, capfd):
    out = tmp_path / "run"
    arguments = ["train", str(pairs_files["classify"]), "--task", "classify", "--report"]
    assert charlm([*arguments, "--steps", "2", "--out", str(out)]) == 0
    assert f"report: {out / 'report.html'}" in capfd.readouterr().err
    assert charlm(["view", str(out), "--only", "task"]) == 0
    assert 'id="f-confusion-1"' in (out / "report.html").read_text("utf-8")


def test_only_the_first_records_are_scored_and_the_report_says_so(runs):
    for kind, run in runs.items():
        options = replace(OPTIONS, sections=("task",), task_records=8)
        writes = kind in ("complete", "translate")
        (found,) = measure([run.trained], options).runs
        number = 2 if writes else 8
        assert found.task.records == number
        html = make_report(measure([found.trained], options), ("task",)).html
        assert f"the first {number} of 30 records" in html, kind


def test_the_sentences_about_scores_follow_the_numbers():
    pair = {"a": {"a": 4, "b": 2}, "b": {"a": 0, "b": 4}}
    scores = scores_of(pair)
    assert describe_scores("x", scores) == (
        "x labels 80 % of 10 texts rightly, in all 10 records of the validation split; always the "
        "most frequent label would be right for 60 %. Macro F1: 0.700."
    )
    tags = scores_of(pair, span_f1=0.5, settings={"records_of_split": 12, "task": "tag"})
    sentence = describe_scores("x", tags)
    assert "of 10 tokens" in sentence and "the first 10 of 12 records" in sentence
    assert sentence.endswith("F1 of spans: 0.500.")
    settings = {"records_of_split": 1, "task": "tag"}
    one = scores_of(pair, records=1, predictions=1, settings=settings)
    assert "of 1 token rightly, in the only record of the" in describe_scores("x", one)


def test_the_sentence_about_calibration_names_the_direction():
    sure = {"x": scores_of({"a": {"a": 1}})}
    assert describe_calibration(sure) == (
        "Expected calibration error: x 0.100. On average the probabilities are too high for x by "
        "10.0 points."
    )
    unsure = replace(sure["x"], reliability=reliability(np.full(10, 0.5), np.arange(10) < 8))
    assert "too low for y by 30.0 points" in describe_calibration({"y": unsure})
    fair = replace(sure["x"], reliability=reliability(np.full(10, 0.79), np.arange(10) < 8))
    assert "On average" not in describe_calibration({"z": fair})


def test_the_sentence_about_confusion_names_the_largest_one():
    sentence = describe_confusion(scores_of({"a": {"a": 4, "b": 2}, "b": {"a": 1, "b": 3}}))
    assert sentence == "The most frequent confusion: b instead of a, 2 of 6."
    right = scores_of({"a": {"a": 4, "b": 0}, "b": {"a": 0, "b": 3}})
    assert describe_confusion(right) == "No label was confused with another one."


def test_a_matrix_of_many_labels_shows_those_that_are_confused_and_sums_the_others(measured):
    labels = [f"l{number:02}" for number in range(30)]
    confusion = {right: {other: 5 * (right == other) for other in labels} for right in labels}
    confusion["l29"]["l28"] = 7
    scores = scores_of(confusion)
    shown = shown_labels(scores)
    assert len(shown) == MAX_LABELS and shown[-2:] == ["l28", "l29"]
    figure = confusion_figure(measured, scores, "")
    assert figure.data["rows"][-1] == "10 others"
    assert figure.data["cells"][-1][-1] == "50 of 50 (100 %)"
    assert figure.data["at"] == 19 * 21 + 18
    assert sum(figure.numbers.columns[2]) == 30 * 5 + 7


def test_the_sentence_about_errors_counts_them(measured):
    none = scores_of({"a": {"a": 1}}, accuracy=1.0)
    assert describe_errors(none) == "No label is wrong."
    found = measured.task.errors
    assert found == sorted(found, key=lambda error: error.right_probability)
    assert all(error.right != error.predicted for error in found)
    one = describe_errors(scores_of({"a": {"a": 1}}, accuracy=0.9, errors=found[:1]))
    assert one.startswith("1 of 10 labels is wrong. The right one has the probability ")
    two = describe_errors(scores_of({"a": {"a": 1}}, accuracy=0.8, errors=found[:2]))
    assert two.startswith("2 of 10 labels are wrong. Shown are the 2 whose right label")


def tagged(right: str, predicted: str) -> TaggedText:
    labels = [PredictedLabel(label, 0.9, {label: 0.9}) for label in predicted.split()]
    return TaggedText(list("abcdefghijkl"[: len(labels)]), right.split(), labels)


def test_the_sentence_about_tags_counts_wrong_ones():
    for predicted, errors in (("x y", "none is wrong"), ("x x", "1 of them is wrong")):
        sentence = describe_tags([tagged("x y", predicted)])
        assert sentence == (
            f"Shown: the first text of the validation split with 2 labels; {errors}."
        )
    assert describe_tags([tagged("x", "x")] * 2).startswith("Shown: the first 2 texts of")
    assert describe_tags([tagged("x", "x")]).endswith("with 1 label; none is wrong.")


def test_labels_have_different_styles_and_those_of_one_kind_of_span_the_same():
    assert styles_of([tagged("B-P I-P O", "B-P I-Q O")]) == {"P": "t1", "Q": "t2", "O": "t0"}
    many = " ".join(f"l{number}" for number in range(12))
    styles = list(styles_of([tagged(many, many)]).values())
    assert styles[:STYLES] == [f"t{number}" for number in range(1, STYLES + 1)]
    assert set(styles[STYLES:]) == {"t0"}


def test_the_sentences_about_completions_follow_the_numbers():
    error = Completed("a", "bc", "b", edit_distance=1, nats=2.0)
    settings = {"records_of_split": 9}
    result = Completions(
        records=4,
        exact_match=0.75,
        edit_distance=0.25,
        edits_per_character=0.1,
        loss_nats=1.0,
        accuracy=0.5,
        errors=[error],
        examples=[],
        settings=settings,
    )
    sentence = describe_completions("x", result)
    assert sentence.startswith("x writes 75 % of the targets exactly, in the first 4 of 9 records")
    assert "Shown is the only error. Edits:" in sentence
    assert "Shown are the 2 errors" in describe_completions(
        "x", replace(result, errors=[error] * 2)
    )
    assert "Shown" not in describe_completions("x", replace(result, errors=[]))
    exact = replace(error, written="bc")
    assert describe_examples([error, exact]) == (
        "Shown: the first 2 records of the validation split, 1 of 2 written exactly."
    )
    assert describe_examples([error]).startswith("Shown: the first record of the validation split")


def test_attention_is_drawn_as_rows_of_weights(measured):
    attention = Attention(["a", " "], ["x", "<EOS>"], [[0.25, 0.75], [0.9, 0.1]])
    assert describe_attention(attention) == (
        "The largest weight of a row is 82 % on average; it is largest for <EOS>, 90 % on a."
    )
    (figure,) = attention_figures(measured, [attention], "")
    assert figure.data["columns"] == ["a", "␣"]
    assert figure.data["at"] == 1
    assert figure.data["cells"] == [["25 %", "75 %"], ["90 %", "10 %"]]
    for step in (3, 6, 7, 2):
        assert f'class="c{step}"' in figure.body, step
    assert "Drawn" not in figure.findings
    weights = [[0.005] * 88 + [0.26, 0.3]] * 90
    long = Attention(["a"] * 89 + ["z"], ["b"] * 90, weights)
    (figure,) = attention_figures(measured, [long], "")
    assert len(figure.data["rows"]) == len(figure.data["columns"]) == 40
    assert "30 % on average" in figure.findings and "30 % on z" in figure.findings
    assert "Drawn: at most 40 tokens of each text." in figure.findings
    empty = Attention(["a"], [], [])
    assert attention_figures(measured, [empty], "") == []
