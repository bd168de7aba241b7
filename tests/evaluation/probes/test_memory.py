"""Memory: the gradient behind the figure against central differences, and its summaries."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_config, train_all
from small_models import make_model, random_ids

from charlm.api import Run, load
from charlm.data.tokenizer import EOS
from charlm.errors import CharlmError, CorpusError, OptionError
from charlm.evaluation.probes.memory import measure_connectivity, measure_memory
from charlm.model.language_model import LanguageModel

CELLS = ["gru", "lstm", "nested_lstm"]


def target_logit(model: LanguageModel, one_hot: torch.Tensor, target: int) -> float:
    """Return the logit of `target` after one-hot inputs, (time, vocabulary), one token at a time."""
    matrix = getattr(model.encoder.embedding, "weight", torch.eye(one_hot.shape[1]).double())
    states = model.initial_states(1)
    cells = model.encoder.recurrence.layers
    for x in one_hot @ matrix:
        layer_input = x[None, None]
        after = []
        for cell, state in zip(cells, states, strict=True):
            state = cell.step(cell.project(layer_input)[0], state)
            layer_input = cell.output(state)[None]
            after.append(state)
        states = tuple(after)
    return float(model.projection(model.adapt(layer_input))[0, 0, target])


def central_differences(model: LanguageModel, ids: np.ndarray, at: int) -> list[float]:
    """Return the squared norm of the gradient of the logit of token `at` by each earlier token."""
    model = copy.deepcopy(model).double().eval()
    inputs = torch.tensor([EOS, *ids[:at].tolist()])
    one_hot = torch.nn.functional.one_hot(inputs, model.vocabulary_size).double()
    norms = []
    for time in range(1, at + 1):
        squares = 0.0
        for token in range(model.vocabulary_size):
            up, down = one_hot.clone(), one_hot.clone()
            up[time, token] += 1e-5
            down[time, token] -= 1e-5
            target = int(ids[at])
            with torch.no_grad():
                difference = target_logit(model, up, target) - target_logit(model, down, target)
            squares += (difference / 2e-5) ** 2
        norms.append(squares)
    return norms


@pytest.mark.parametrize("cell", CELLS)
def test_squared_norms_are_those_of_central_differences(cell):
    ids = random_ids(9)
    for options in ({}, {"embedding": "one_hot"}, {"num_layers": 2}):
        model = make_model(cell=cell, **options)
        squared_norms = measure_connectivity(model, ids).squared_norms
        for at in (1, 5, 8):
            expected = central_differences(model, ids, at)
            message = f"{options}, token {at}"
            np.testing.assert_allclose(squared_norms[at, :at], expected, rtol=1e-6, err_msg=message)


def test_no_prediction_depends_on_its_own_token_or_later_ones():
    squared_norms = measure_connectivity(make_model(), random_ids(7)).squared_norms
    assert not np.triu(squared_norms).any()
    assert (np.tril(squared_norms, -1) > 0).sum() == 21


def test_a_long_passage_is_measured_in_batches_with_the_same_result(monkeypatch):
    model, ids = make_model(), random_ids(12)
    at_once = measure_connectivity(model, ids)
    monkeypatch.setattr("charlm.evaluation.probes.memory._MAX_TOKENS_PER_BATCH", 60)
    in_batches = measure_connectivity(model, ids)
    np.testing.assert_allclose(in_batches.squared_norms, at_once.squared_norms, rtol=1e-9)
    np.testing.assert_allclose(in_batches.log_p, at_once.log_p, rtol=1e-9)


def test_the_model_is_not_changed():
    model = make_model().train()
    before = copy.deepcopy(model.state_dict())
    measure_connectivity(model, random_ids(5))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.encoder.embedding._forward_hooks


def test_a_run_reports_the_probability_of_each_token_of_a_string(trained):
    run = load(trained)
    memory = measure_memory(run.trained, "The cat sat")
    assert "".join(prediction.text for prediction in memory.predictions).strip() == "The cat sat"
    explained = run.sentences(sentences=["The cat sat"], explain=True).sentences[0].explained
    for prediction, token in zip(memory.predictions, explained, strict=False):
        assert prediction.probability == pytest.approx(token.probability, rel=1e-4)
        best = prediction.alternatives[0].probability
        assert best >= prediction.probability * (1 - 1e-9)
    relative = memory.predictions[5].relative
    assert len(relative) == 5
    assert max(relative) == 1


def test_the_mean_by_distance_counts_each_pair_once(trained):
    memory = measure_memory(load(trained).trained, tokens=12)
    assert [row.count for row in memory.by_distance] == list(range(11, 0, -1))
    rows = [prediction.relative for prediction in memory.predictions[1:]]
    nearest = np.mean([row[-1] for row in rows])
    assert memory.by_distance[0].relative == pytest.approx(nearest)


def test_a_row_names_no_token_of_an_earlier_record(trained_records):
    memory = measure_memory(load(trained_records).trained, "ba\nra\n")
    rows = [row.split("%")[1].strip() for row in memory.lines() if "%" in row]
    assert rows[0] == rows[3] == ""
    assert rows[4].startswith("'r' (1.00, 1)") and "'b'" not in rows[4]


def test_the_settings_say_that_n_grams_are_left_out(text_file, tmp_path):
    train_all(small_config(text_file, "training.steps=1", "model.ngrams=3"), tmp_path / "run")
    measure = measure_memory(load(tmp_path / "run").trained, "The cat").settings["measure"]
    assert measure.endswith("one-hot input of the embedding, without the n-grams")


def untrained(text_file: Path, folder: Path, direction: str) -> Run:
    config = small_config(text_file, "training.steps=1", f"model.direction={direction}")
    train_all(config, folder)
    return load(folder)


def test_a_backward_model_is_measured_in_its_reading_order(text_file, tmp_path):
    run = untrained(text_file, tmp_path / "run", "backward")
    forward = run.tokenizer.encode("The cat").tolist()
    memory = measure_memory(run.trained, "The cat")
    tokens = [prediction.token for prediction in memory.predictions if prediction.token != EOS]
    assert tokens == forward[::-1]


def test_what_cannot_be_measured_is_refused_in_one_line(text_file, trained, tmp_path):
    run = untrained(text_file, tmp_path / "run", "both")
    with pytest.raises(CharlmError, match="both directions"):
        measure_memory(run.trained, "The cat")
    with pytest.raises(CorpusError, match="at least 2"):
        measure_memory(load(trained).trained, "The cat", tokens=1)
    for tokens in (0, -1):
        with pytest.raises(OptionError, match=f"^tokens: must be at least 1, got {tokens}$"):
            measure_memory(load(trained).trained, "The cat", tokens=tokens)
        with pytest.raises(OptionError, match=f"^limit: must [a-z 1]*, got {tokens}$"):
            load(trained).surprise("The cat", limit=tokens)
