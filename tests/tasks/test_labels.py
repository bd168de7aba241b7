"""The tasks `classify` and `tag`: labels, windows, scores, predictions, and one line per mistake."""

import io
import json
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PAIRS, small_config, train_all, unseal

from charlm import api as charlm_api
from charlm.api import load, load_labels
from charlm.cli.main import run as charlm
from charlm.config.model import Model
from charlm.config.task import Task
from charlm.data.builders.pairs import character_kinds, code_kinds, script_names
from charlm.data.labels import label_targets, learn_labels, tags_of
from charlm.data.tokenizer import EOS
from charlm.data.windows.directions import read_in_direction
from charlm.data.windows.scoring import scoring_record_windows
from charlm.data.windows.window import PADDING
from charlm.errors import CharlmError, CorpusError
from charlm.model.heads.sequence_label import pool
from charlm.model.label_model import LabelHead, LabelModel
from charlm.runs.warm_start import inherit, open_ancestor
from charlm.tasks.label_run import predict_ids
from charlm.tasks.labels import calibration_error, confusion, macro_f1, span_f1
from charlm.training.loss import score

SETTINGS = {
    "classify": ["task.kind=classify"],
    "tag": ["task.kind=tag", "model.direction=both"],
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(pairs_files, tmp_path_factory):
    """A run of each kind that has learned its task."""
    found = {}
    for kind, settings in SETTINGS.items():
        folder = tmp_path_factory.mktemp(kind) / "run"
        budget = ["training.steps=150", "training.learning_rate=2e-2", "training.batch_size=16"]
        train_all(small_config(pairs_files[kind], *settings, *budget), folder)
        found[kind] = load_labels(folder, device="cpu")
    return found


def make_label_model(kind="classify", direction="forward", pooling="mean", **options):
    torch.manual_seed(1)
    section = Model(hidden_size=8, embedding_size=4, direction=direction, **options)
    task = Task(kind=kind, pooling=pooling) if kind == "classify" else Task(kind=kind)
    return LabelModel(section, 8, LabelHead(task, 3)).eval()


def random_records(lengths):
    draw = np.random.default_rng(1)
    rows = [draw.integers(2, 8, length).tolist() for length in lengths]
    return np.array([index for row in rows for index in (*row, EOS)], dtype=np.uint8)


def targets_of(ids, kind):
    labels = ("a", "b", "c")
    counts = np.diff(np.flatnonzero(ids == EOS), prepend=-1) - 1
    found = [["b"] if kind == "classify" else ["b"] * int(count) for count in counts]
    return label_targets(ids, found, labels, Task(kind=kind))


def predictions(model, ids, kind, batch_size):
    """Return log-probabilities by position, from batches of a size."""
    run = SimpleNamespace(model=model, device=CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "charlm.data.windows.scoring.scoring_record_windows",
            partial(scoring_record_windows, batch_size=batch_size),
        )
        return predict_ids(run, ids, targets_of(ids, kind)).log_probabilities


MODELS = [
    *(("classify", direction, pooling) for direction in ("forward", "both")
      for pooling in ("last", "mean", "max")),
    *(("tag", direction, "mean") for direction in ("forward", "both")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "direction", "pooling"), MODELS)
def test_a_prediction_does_not_depend_on_padding(kind, direction, pooling):
    model = make_label_model(kind, direction, pooling)
    ids = random_records([1, 9, 3, 14, 2, 5, 30])
    alone = predictions(model, ids, kind, 1)
    for batch_size in (2, 7):
        assert np.allclose(predictions(model, ids, kind, batch_size), alone, atol=1e-6)
    # Nor on the records beside a record.
    assert np.allclose(predictions(model, ids[:2], kind, 1), alone[:1], atol=1e-6)


@pytest.mark.parametrize(("kind", "direction", "pooling"), MODELS)
def test_a_score_does_not_depend_on_padding(kind, direction, pooling):
    model = make_label_model(kind, direction, pooling)
    ids = random_records([1, 9, 3, 14, 2, 5, 30])
    scores = []
    for size in (1, 3, 7):
        windows = read_in_direction(
            direction,
            ids,
            targets_of(ids, kind),
            mode="records",
            read=partial(scoring_record_windows, batch_size=size),
        )
        scores.append(score(model, windows, device=CPU, precision=torch.float32))
    assert {found.tokens for found in scores} == {7 if kind == "classify" else 64}
    for found in scores:
        assert found.nats == pytest.approx(scores[0].nats, rel=1e-6)


def test_a_tag_sees_the_tokens_before_and_after_it_and_a_forward_one_those_before():
    ids = random_records([9])
    for direction, changed_before in (("forward", False), ("both", True)):
        model = make_label_model("tag", direction)
        before = predictions(model, ids, "tag", 1)
        other = ids.copy()
        other[5] = 2 + (other[5] - 1) % 6
        after = predictions(model, other, "tag", 1)
        differs = np.abs(before - after).max(axis=1) > 1e-9
        assert differs[5:].all()
        assert differs[:5].all() == changed_before
        assert changed_before or not differs[:5].any()


def test_backward_features_are_those_of_the_reversed_text():
    """Of the last token, the backward recurrence has read only this token."""
    model = make_label_model("tag", "both")
    first, second = random_records([5]), random_records([5])
    second[:4] = 2 + (second[:4] - 1) % 6
    with torch.no_grad():
        model.head.weight[:, : model.encoder.hidden_size] = 0
    assert np.allclose(
        predictions(model, first, "tag", 1)[-1], predictions(model, second, "tag", 1)[-1]
    )


def test_pooling_by_hand():
    features = torch.tensor([[[1.0], [5.0]], [[3.0], [-7.0]], [[-9.0], [8.0]]])
    is_read = torch.tensor([[True, True], [True, False], [False, False]])
    pooled = {
        how: pool(features, is_read, how).flatten().tolist() for how in ("last", "mean", "max")
    }
    assert pooled == {"last": [3, 5], "mean": [2, 5], "max": [3, 5]}


def test_targets_by_hand():
    ids = np.array([4, 5, EOS, 6, EOS])
    assert label_targets(ids, [["b"], ["a"]], ("a", "b"), Task(kind="classify")).tolist() == [
        PADDING, PADDING, 1, PADDING, 0,
    ]  # fmt: skip
    assert label_targets(ids, [["a", "b"], ["b"]], ("a", "b"), Task(kind="tag")).tolist() == [
        PADDING, 0, 1, PADDING, 1,
    ]  # fmt: skip


def test_tags_are_words_or_characters():
    assert tags_of("DET NOUN", 2) == ["DET", "NOUN"]
    assert tags_of("a_", 2) == ["a", "_"]
    assert tags_of("a b", 3) == ["a", " ", "b"]
    assert tags_of("abc", 2) is None


@pytest.mark.parametrize(
    ("train", "valid", "problem"),
    [
        (["a", "a"], [], "every label is 'a', and at least two are needed"),
        (["a", "a", "b"], [], "1 of 2 labels have a single example, such as 'b'"),
        (["a", "a", "c", "c"], ["b", "b"], "the label 'b' is in the valid part, but not in"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused_in_one_line(train, valid, problem):
    found = {"train": [[label] for label in train], "valid": [[label] for label in valid]}
    with pytest.raises(CorpusError, match=problem) as caught:
        learn_labels(found, Task(kind="classify"))
    assert "\n" not in str(caught.value)


MISTAKES = {
    "a single class": (["text,label"] + ["good,yes"] * 30, "every label is 'yes'"),
    "a class with one example each": (
        ["text,label", *(f"t{n},l{n}" for n in range(30))],
        "30 of 30 labels have a single example, such as 'l",
    ),
    "an empty text": (["text,label", "good,yes", ",no"], "line 3: field 'text', the source, is em"),
    "an empty label": (["text,label", "good,yes", "bad,"], "line 3: field 'label', the target, is"),
    "three fields": (["a,b,c", "1,2,3"], "corpus.source: which field is the source?"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_table_is_one_line(name, tmp_path, capsys):
    lines, problem = MISTAKES[name]
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = ["--out", str(tmp_path / "run"), "--steps", "1"]
    assert charlm(["train", str(path), "--task", "classify", *out]) == 1
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["abc\tx", "abcd"], "the record 'abcd' has no tab"),
        (["abc\tx", "ab " * 90], f"the record '{'ab ' * 20}...' has no tab"),
        (["abc\tx", "\tx"], r"the record '\tx' has no source before the tab"),
        (["abc\tx", "abc\t"], r"the record 'abc\t' has no target after the tab"),
        (["abc\tx", "\t"], r"the record '\t' has no target after the tab"),
    ],
)
def test_a_line_that_is_no_pair_is_refused_with_its_text(lines, problem, tmp_path, capsys):
    path = tmp_path / "pairs.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert charlm(["train", str(path), "--task", "classify", "--steps", "1"]) == 1
    assert problem in capsys.readouterr().err


def test_tags_of_another_number_than_tokens_are_refused(tmp_path, capsys):
    path = tmp_path / "pairs.txt"
    path.write_text("ab\txy\nabc\txy\n" * 20, encoding="utf-8")
    assert charlm(["train", str(path), "--task", "tag", "--steps", "1"]) == 1
    assert "source has 3 tokens, but its target 'xy'" in capsys.readouterr().err


WHITESPACE = ["tokenizer.level=word", "tokenizer.words=whitespace"]
WORDS = [f"the {noun} {verb}" for noun in ("cat", "dog", "owl") for verb in ("sat", "ran")] * 4


@pytest.mark.parametrize(("kind", "labels"), [("classify", ["x", "y"]), ("tag", ["D N V"] * 2)])
def test_a_source_with_the_word_for_its_end_is_refused(kind, labels, tmp_path):
    pairs = [f"{text}\t{labels['cat' in text]}\n" for text in [*WORDS, "the <EOS> sat"]]
    (tmp_path / "pairs.txt").write_text("".join(pairs), encoding="utf-8")
    config = small_config(tmp_path / "pairs.txt", f"task.kind={kind}", *WHITESPACE)
    with pytest.raises(CorpusError, match=r"pairs.txt: a source has the word <EOS>.*; remove it$"):
        train_all(config, tmp_path / "run")


@pytest.mark.parametrize(("kind", "labels"), [("classify", ["x", "y"]), ("tag", ["D N V"] * 2)])
def test_a_text_with_an_end_inside_is_not_labelled(kind, labels, tmp_path):
    pairs = [f"{text}\t{labels['cat' in text]}\n" for text in WORDS]
    (tmp_path / "pairs.txt").write_text("".join(pairs), encoding="utf-8")
    config = small_config(tmp_path / "pairs.txt", f"task.kind={kind}", *WHITESPACE)
    train_all(config, tmp_path / "run")
    run = load_labels(tmp_path / "run")
    for text in ("the <EOS> sat", "the\nsat", "the cat sat\n"):
        with pytest.raises(CharlmError, match="has a line end or the word <EOS>"):
            run.predict(["the cat sat", text, "the dog ran"])
    assert len(run.predict(["the cat sat"])) == 1


def test_a_table_is_classified_without_a_configuration(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{name},{label}\n" for name, label in PAIRS["classify"])
    (tmp_path / "reviews.csv").write_text(f"name,ending\n{rows}", encoding="utf-8")
    out = ["--out", "run", "--steps", "150"]
    assert charlm(["train", "reviews.csv", "--task", "classify", *out]) == 0
    _, err = capsys.readouterr()
    assert "task: classify; the source is the field 'name', the target the field 'ending'" in err
    assert "accuracy" in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"bas\ndedo\n")))
    assert charlm(["predict", "run"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["ess", "vowel"]
    assert [sum(map(float, row[1::2])) for row in rows] == pytest.approx([1, 1], abs=1e-3)


def test_a_run_that_has_learned_scores_well_and_predicts_what_it_scores(runs):
    for kind, run in runs.items():
        scores = run.scores("valid")
        assert scores.accuracy > 0.95 > scores.majority
        assert sum(sum(row.values()) for row in scores.confusion.values()) == scores.predictions
        pairs = PAIRS[kind]
        predicted = run.predict([source for source, _ in pairs])
        right = [label_list(kind, target) for _, target in pairs]
        assert [[label.label for label in p.labels] for p in predicted[:5]] == right[:5]
        assert all(len(p.tokens) == len(p.labels) for p in predicted)
        again = run.predict([pairs[3][0]])[0].labels[0].probabilities
        assert again == pytest.approx(predicted[3].labels[0].probabilities, abs=1e-6)


def label_list(kind, target):
    return [target] if kind == "classify" else list(target)


def test_scores_by_hand():
    right, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    counts = confusion(right, predicted, 3)
    assert counts.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert macro_f1(counts) == pytest.approx((2 / 3 + 4 / 5) / 2)
    sure = np.array([0.9, 0.9, 0.5, 0.5])
    is_right = np.array([True, False, True, False])
    assert calibration_error(sure, is_right) == pytest.approx(0.2)


def test_span_scores_by_hand():
    right = [["B-A", "I-A", "O", "B-B"], ["O"]]
    assert span_f1(right, right) == 1
    assert span_f1(right, [["B-A", "I-A", "O", "B-A"], ["O"]]) == pytest.approx(0.5)
    assert span_f1(right, [["B-A", "B-A", "O", "O"], ["B-B"]]) == 0


def test_the_score_of_a_task_is_printed(runs, capfd):
    for run in runs.values():
        assert charlm(["eval", "task", str(run.folder), "--json"]) == 0
        found = json.loads(capfd.readouterr().out)
        assert found["accuracy"] == run.scores().accuracy
        assert charlm(["eval", "task", str(run.folder)]) == 0
        assert "calibration_error" in capfd.readouterr().out


def test_tags_are_printed_one_per_token_and_as_json(runs, capfd, monkeypatch):
    for options in ([], ["--json"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"bano\n")))
        assert charlm(["predict", str(runs["tag"].folder), *options]) == 0
        out = capfd.readouterr().out
        if options:
            assert json.loads(out)["tokens"] == list("bano")
        else:
            assert out == "c v c v\n"


@pytest.mark.parametrize("data", [b"bano\n\n", b"bano\n\xff\n"])
def test_a_wrong_line_of_stdin_is_refused_with_its_number(data, runs, capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert charlm(["predict", str(runs["classify"].folder)]) == 1
    assert "stdin: line 2: " in capfd.readouterr().err


def test_what_does_not_apply_is_refused_with_what_to_use_instead(runs, trained, capfd):
    folder = str(runs["classify"].folder)
    refused = {
        ("sample", folder): "charlm predict",
        ("eval", "perplexity", folder): "charlm eval task",
        ("export", folder, "--to", "torch", "--out", "x"): "charlm predict",
        ("compress", folder, __file__): "charlm predict",
        ("predict", str(trained)): "--task classify",
        ("eval", "task", str(trained)): "--task complete",
        ("eval", "task", folder, "--beams", "2"): "--beams",
    }
    for arguments, remedy in refused.items():
        assert charlm(list(arguments)) == 1, arguments
        error = capfd.readouterr().err
        assert remedy in error and error.count("\n") == 1, arguments


@pytest.mark.parametrize("labels", [[], ["a"], ["a", "a"], None, ["a", 3]])
def test_labels_that_do_not_suit_a_run_are_refused(labels, pairs_files, tmp_path):
    folder = tmp_path / "run"
    train_all(small_config(pairs_files["classify"], "task.kind=classify"), folder)
    unseal(folder)
    facts = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    (folder / "corpus.json").write_text(json.dumps(facts | {"labels": labels}), encoding="utf-8")
    with pytest.raises(CharlmError, match=r"corpus.json|labels"):
        load_labels(folder, device="cpu")


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_task_starts_from_the_encoder_of_a_language_model(
    kind, records_file, pairs_files, tmp_path
):
    settings = ["corpus.mode=records", "model.tied=true", "model.embedding_size=16"]
    train_all(small_config(records_file, *settings), tmp_path / "old")
    ancestor = open_ancestor(tmp_path / "old")
    config = small_config(pairs_files[kind], *SETTINGS[kind], "model.embedding_size=16")
    config = inherit(config, ancestor).model_copy(update={"training": config.training})
    from charlm.runs import prepare

    experiment = prepare.begin(config, tmp_path / "new", ancestor=ancestor)
    weights = dict(experiment.model.named_parameters())
    shared = {
        name: tensor for name, tensor in ancestor.weights.items() if f"encoder.{name}" in weights
    }
    assert len(shared) > 3
    for name, tensor in shared.items():
        assert torch.equal(weights[f"encoder.{name}"][: len(tensor)], tensor), name
    experiment.lock.release()
    with pytest.raises(CharlmError, match="start from a language model"):
        open_ancestor(tmp_path / "new")


def test_the_kinds_of_characters_are_those_of_their_tokens():
    assert character_kinds('x = "a"  # b\n') == 'a_+_"""__###_'
    assert character_kinds("(") is None
    pieces = [piece.split("\t") for piece in code_kinds(pieces=40)]
    assert len(pieces) == 40
    for source, kinds in pieces:
        assert len(source) == len(kinds) <= 1000
        assert set(kinds) <= set('"#a0+_')


def test_names_have_their_scripts():
    pairs = dict(line.split("\t") for line in script_names())
    assert pairs["GREEK SMALL LETTER BETA"] == "greek"
    assert pairs["PILE OF POO"] == "none"
    assert len(set(pairs.values())) > 30


def test_a_model_of_labels_is_trained_from_python(pairs_files, tmp_path):
    config = small_config(pairs_files["tag"], "task.kind=tag")
    run = charlm_api.train_labels(config, out=tmp_path / "run", progress=False)
    assert len(run.predict(["bano"])[0].labels) == 4
    assert repr(run).startswith("LabelRun ") and repr(run).count("\n") == 2
    with pytest.raises(CharlmError, match=r"charlm.train_labels"):
        charlm_api.train(config, out=tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists()
    resumed = charlm_api.resume(tmp_path / "run", steps=14, progress=False)
    assert isinstance(resumed, charlm_api.LabelRun) and resumed.history[-1]["step"] == 14


def test_a_model_of_labels_is_trained_with_several_seeds_from_python(pairs_files, tmp_path):
    config = small_config(pairs_files["classify"], "task.kind=classify", "training.steps=2")
    scores = charlm_api.train_seeds(config, [1, 2], out=tmp_path, progress=False)
    assert [run.seed for run in scores.runs] == [1, 2]


def test_a_model_of_labels_is_inspected_and_listed(runs, capfd):
    folder = str(runs["tag"].folder)
    assert charlm(["inspect", folder]) == 0
    out = capfd.readouterr().out
    assert "labels, weights" in out and "task tag" in out
    assert charlm(["runs", folder, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["runs"][0]["task"] == "tag"


def test_the_settings_of_a_task_are_searched(pairs_files, tmp_path, capfd):
    settings = ["task.kind=classify", "training.steps=4", "model.hidden_size=8"]
    changes = [part for setting in settings for part in ("--set", setting)]
    search = ["--search", "task.pooling=last,max", "--trials", "2"]
    out = tmp_path / "tuned"
    text = str(pairs_files["classify"])
    assert charlm(["tune", text, *changes, *search, "--out", str(out)]) == 0
    _, err = capfd.readouterr()
    assert f"use its model with: charlm eval task {out}" in err
    assert charlm(["eval", "task", str(next(out.glob("trials/*")))]) == 0


def test_a_model_of_labels_is_no_language_model(runs):
    with pytest.raises(CharlmError, match="charlm predict"):
        load(runs["tag"].folder, device="cpu")
