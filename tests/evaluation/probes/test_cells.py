"""Probes of single units: labels, scores against brute force, and a grammar with quotations."""

import numpy as np
import pytest
import torch
from conftest import small_config, train_all
from small_models import make_model, random_ids, random_records

from charlm.api import load
from charlm.data.tokenizer import EOS
from charlm.errors import CharlmError, CorpusError, OptionError
from charlm.evaluation.probes.cells import (
    BestUnit,
    Cells,
    Unit,
    UnitValues,
    find_units,
    measure_cells,
    read_units,
    track_units,
)
from charlm.evaluation.probes.labels import Label, label_characters


def labels_of(text: str) -> dict[str, list[float]]:
    return {label.name: label.values.tolist() for label in label_characters(text)}


def test_labels_describe_the_position_after_each_character():
    labels = labels_of('He "A1" # x\n\t ([b])\n')
    expected = {
        "inside quotation marks": "000111000000" + "00000000",
        "inside a comment": "000000001110" + "00000000",
        "capital letter": "100010000000" + "00000000",
        "digit": "000001000000" + "00000000",
        "bracket depth": "000000000000" + "00122100",
        "position in the word": "120012000010" + "00001000",
        "indentation": "000000000000" + "12222220",
    }
    for name, digits in expected.items():
        assert labels[name] == [float(digit) for digit in digits], name
    assert labels["position in the line"] == [*range(1, 12), 0, *range(1, 8), 0]


def test_an_empty_line_closes_what_is_open():
    labels = labels_of('"(a\n\n"b"')
    assert labels["inside quotation marks"] == [1, 1, 1, 1, 0, 1, 1, 0]
    assert labels_of("((a\n\nb")["bracket depth"] == [1, 2, 2, 2, 0, 0]


def test_a_quotation_ends_at_its_own_mark():
    assert labels_of('\u201ca"b\u201dc')["inside quotation marks"] == [1, 1, 1, 1, 0, 0]


def table(values: np.ndarray) -> UnitValues:
    return UnitValues([Unit("layer_0", "hidden", n) for n in range(values.shape[1])], values)


def test_the_score_is_the_auc_of_the_best_unit_on_the_other_half():
    random = np.random.default_rng(1)
    label = (random.random(600) < 0.3).astype(float)
    values = random.normal(size=(600, 5))
    values[:, 3] -= 2 * label  # It falls with the label.
    (best,) = find_units(table(values), [Label("x", label, True)], shifts=5, seed=1).best
    positives, negatives = (values[300:, 3][label[300:] == value] for value in (1, 0))
    auc = np.mean([[negative > positive for negative in negatives] for positive in positives])
    assert best.unit.number == 3
    assert not best.rises
    assert best.score == pytest.approx(auc)
    assert best.share == pytest.approx(label.mean())
    assert best.control < 0.65


def test_a_row_counts_layers_from_one_as_reports_do():
    best = BestUnit("digit", "auc", Unit("layer_0", "memory", 3), True, 0.9, 0.6, 0.1)
    row = str(Cells([best], {}, {})).splitlines()[1]
    assert row.endswith("layer 1 memory 3, rises with the label")


def test_the_score_of_a_number_is_the_rank_correlation_on_the_other_half():
    random = np.random.default_rng(2)
    label = random.integers(0, 9, 400).astype(float)
    values = random.normal(size=(400, 4))
    values[:, 1] = np.exp(label + random.normal(size=400))
    (best,) = find_units(table(values), [Label("x", label, False)], shifts=5, seed=1).best
    ranks = [np.argsort(np.argsort(values[200:, 1])).astype(float)]
    order = label[200:]
    ranks.append(np.array([(order < v).sum() + ((order == v).sum() - 1) / 2 for v in order]))
    assert best.unit.number == 1
    assert best.rises
    assert best.score == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_shifted_labels_keep_their_correlation_in_the_control():
    # Slow units and slow labels are related by chance; independent permutation would hide it.
    random = np.random.default_rng(3)
    time = np.arange(2000)[:, None]
    values = np.sin(time / random.uniform(40, 400, size=30) + random.uniform(0, 6, size=30))
    label = (np.sin(time[:, 0] / 90) > 0).astype(float)
    (best,) = find_units(table(values), [Label("x", label, True)], shifts=20, seed=1).best
    assert best.control > 0.6


def test_a_label_that_is_too_rare_is_omitted_with_its_count():
    label = np.zeros(400)
    label[:15] = 1
    labels = [Label("rare", label, True), Label("constant", np.ones(400), False)]
    cells = find_units(table(np.ones((400, 2))), labels, shifts=2, seed=1)
    assert cells.best == []
    assert "15 of 200" in cells.omitted["rare"]
    assert "1 in a half" in cells.omitted["constant"]


def test_the_control_leaves_out_shifts_that_move_a_label_out_of_a_half():
    values = np.random.default_rng(4).normal(size=(1000, 3))
    label = np.zeros(1000)
    label[475:525] = 1  # Any shift of more than 5 tokens leaves a half with too few.
    cells = find_units(table(values), [Label("x", label, True)], shifts=5, seed=1)
    assert cells.best == []
    assert cells.omitted == {"x": "no shifted label is often enough in both halves of the text"}
    label[:30] = label[500:530] = 1  # Shifts by about half of the text leave enough.
    (best,) = find_units(table(values), [Label("x", label, True)], shifts=200, seed=1).best
    assert 0.5 < best.control < 0.8


def test_values_are_the_states_after_each_token():
    for mode, ids in (("stream", random_ids(30)), ("records", random_records(9))):
        model = make_model(cell="lstm", num_layers=2)
        units, values = read_units(model, ids, mode=mode)
        assert len(units) == 2 * 2 * 8
        states = model.initial_states(1)
        expected = []
        for token in [EOS, *ids[:-1].tolist()]:
            if token == EOS and mode == "records":
                states = model.initial_states(1)
            with torch.no_grad():
                _, states = model.encoder(torch.tensor([[token]]), states)
            expected.append(torch.cat([part[0] for state in states for part in state]).numpy())
        np.testing.assert_allclose(values, expected[1:], atol=1e-6, err_msg=mode)


def quotations(characters: int) -> str:
    """Return paragraphs of random words, some of them in quotation marks, some in brackets."""
    random = np.random.default_rng(1)
    text = ""
    while len(text) < characters:
        letters = random.choice(list("abcd "), size=random.integers(4, 30), p=[0.2] * 5)
        phrase = "".join(letters).strip() or "a"
        enclosed = random.choice([phrase, f'"{phrase}"', f"({phrase})"], p=[0.4, 0.4, 0.2])
        text += enclosed + ("\n\n" if random.random() < 0.1 else " ")
    return text[:characters]


@pytest.mark.slow
def test_a_unit_of_a_trained_network_follows_quotation_marks(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(quotations(60_000), encoding="utf-8")
    sizes = ["model.hidden_size=64", "training.batch_size=16", "training.window=64"]
    steps = ["training.steps=1000", "training.learning_rate=8e-3"]
    train_all(small_config(path, *sizes, *steps), tmp_path / "run")
    cells = measure_cells(load(tmp_path / "run").trained)
    scores = {row.label: row for row in cells.best}
    assert scores["inside quotation marks"].measure == "auc"
    assert scores["inside quotation marks"].score >= 0.95
    assert scores["inside quotation marks"].control < 0.6
    assert scores["bracket depth"].score > scores["bracket depth"].control
    assert "inside a comment" in cells.omitted


def test_what_cannot_be_probed_is_refused(text_file, trained, tmp_path):
    config = small_config(text_file, "training.steps=1", "model.direction=backward")
    train_all(config, tmp_path / "run")
    with pytest.raises(CharlmError, match="forward"):
        measure_cells(load(tmp_path / "run").trained)
    with pytest.raises(CorpusError, match="at least 200"):
        measure_cells(load(trained).trained, "The cat")
    with pytest.raises(OptionError):
        measure_cells(load(trained).trained, shifts=0)


def test_a_run_of_words_is_labelled_by_the_last_character_of_each_token(text_file, tmp_path):
    train_all(small_config(text_file, "tokenizer.level=word", "training.steps=2"), tmp_path / "run")
    cells = measure_cells(load(tmp_path / "run").trained, shifts=2)
    assert {row.label for row in cells.best} | set(cells.omitted) == set(labels_of("a"))


def test_tracks_are_the_values_of_the_best_units_along_a_passage(trained):
    run = load(trained)
    cells = measure_cells(run.trained, shifts=2)
    ids = run.tokenizer.encode("The cat sat on the mat.").tolist()
    tracks = track_units(run.trained, ids, cells)
    best = cells.best[0]
    _, values = read_units(run.model, np.array([*ids, ids[0]]), mode="stream")
    column = values[:, tracks.units.index(best.unit)]
    np.testing.assert_allclose(tracks.best[best.label], column / np.abs(column).max(), rtol=1e-5)
    assert len(tracks.high) == len(ids)
    counts = np.bincount(np.concatenate(tracks.high).astype(int), minlength=len(tracks.units))
    assert counts.max() <= 0.1 * len(ids) + 1
