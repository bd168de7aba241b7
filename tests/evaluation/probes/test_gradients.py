"""Gradients over time: by hand, against an unrolled network; which windows are read."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from charlm.api import Run, load
from charlm.cli.main import run as charlm
from charlm.config.model import Model
from charlm.data.tokenizer import EOS
from charlm.errors import CorpusError, OptionError, UnsupportedOptionError
from charlm.evaluation.probes import gradients
from charlm.evaluation.probes.gradients import (
    Curve,
    Gradients,
    NormsAtDistance,
    half_life_tokens,
    measure_gradient_norms,
)
from charlm.model.language_model import LanguageModel
from charlm.model_texts import text_to_score
from charlm.runs.prepare import begin

CPU = torch.device("cpu")
VOCABULARY = 8
TEXT = np.random.default_rng(1).integers(2, VOCABULARY, 900).astype(np.uint8)
PARTS = ["hidden", "memory"]
CELLS = [
    "bag",
    "elman",
    "gru",
    {"kind": "gru", "reset": "before"},
    "lstm",
    {"kind": "lstm", "peepholes": ["input", "forget", "output"], "full_gate_recurrence": True},
    "nested_lstm",
    "mogrifier_lstm",
    "min_gru",
    "min_lstm",
    "rg_lru",
    "hgrn",
    "slstm",
    "diagonal_gru",
    "diagonal_lstm",
]


def make(**options) -> LanguageModel:
    torch.manual_seed(1)
    return LanguageModel(
        Model(**{"hidden_size": 6, "embedding_size": 4, "dropout": 0.5} | options), VOCABULARY
    )


def one_unit(weight: float, activation: str = "relu") -> LanguageModel:
    """Return an Elman network of one unit that is never negative, its recurrent weight given."""
    model = make(cell={"kind": "elman", "activation": activation}, hidden_size=1)
    with torch.no_grad():
        for tensor in model.encoder.recurrence.parameters():
            tensor.zero_()
        model.encoder.recurrence.layers[0].recurrent.weight.fill_(weight)
        model.encoder.recurrence.layers[0].input.bias.fill_(1.0)
    return model


def measured(model: LanguageModel, ids=TEXT, **options) -> Gradients:
    defaults = {"mode": "stream", "window": 12, "windows": 5, "device": CPU}
    return measure_gradient_norms(model, np.asarray(ids, np.uint8), **defaults | options)


def means(curve: Curve) -> list[float]:
    return [row.mean for row in curve.distances]


def test_the_gradient_of_one_unit_falls_by_its_recurrent_weight_per_token():
    for weight in (0.5, 0.75, 0.96875):
        (curve,) = measured(one_unit(weight)).curves
        first = curve.distances[0].mean
        assert first > 0
        expected = [first * weight**distance for distance in range(12)]
        np.testing.assert_allclose(means(curve), expected, rtol=1e-12, err_msg=str(weight))
        half_life = math.log(2) / -math.log(weight)
        assert curve.half_life_tokens == pytest.approx(half_life, rel=1e-9)


def test_the_gradient_of_one_unit_with_a_weight_above_one_grows():
    model = one_unit(1.5)
    with torch.no_grad():
        # The state grows; the prediction must not become certain.
        model.projection.weight *= 1e-6
    (curve,) = measured(model, TEXT[:20]).curves
    assert curve.distances[0].mean > 0
    np.testing.assert_allclose(
        means(curve), [curve.distances[0].mean * 1.5**distance for distance in range(12)]
    )
    assert curve.half_life_tokens == math.inf


def test_the_gradient_of_a_bag_is_constant():
    (curve,) = measured(make(cell="bag", embedding="one_hot")).curves
    np.testing.assert_allclose(means(curve), means(curve)[0], rtol=1e-12)
    assert curve.half_life_tokens == math.inf


def test_a_gradient_far_below_the_range_of_single_precision_is_measured():
    (curve,) = measured(one_unit(2.0**-13), window=32).curves
    np.testing.assert_allclose(means(curve)[31] / means(curve)[0], 2.0 ** (-13 * 31), rtol=1e-12)


def unrolled(
    model: LanguageModel, inputs: list[int], target: int, warm_up: list[int], layer: int, part: int
) -> list:
    """Return ||dL_T / dh_t|| for each t, by what a number added to that state alone does to the loss."""
    model = copy.deepcopy(model).double().eval()
    cells = model.encoder.recurrence.layers
    states = list(model.encoder.recurrence.initial_states(1))
    with torch.no_grad():
        for token in warm_up:
            states = advanced(model, cells, states, token)
    norms = []
    for at in range(len(inputs)):
        now = [tuple(each.detach() for each in state) for state in states]
        probe = torch.zeros_like(now[layer][part], requires_grad=True)
        for number, token in enumerate(inputs):
            now = advanced(model, cells, now, token, (layer, part, probe) if number == at else None)
        logits = model.projection(now[-1][0])
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([target]))
        norms.append(float(torch.autograd.grad(loss, probe)[0].norm()))
    return norms


def advanced(model, cells, states, token, probe=None):
    x = model.encoder.embedding(torch.tensor([[token]]))
    after = []
    for number, (cell, state) in enumerate(zip(cells, states, strict=True)):
        state = cell.step(cell.project(x)[0], state)
        if probe is not None and probe[0] == number:
            state = probed(cell, state, *probe[1:])
        after.append(state)
        x = cell.output(state)[None]
    return after


def probed(cell, state, part, probe):
    """Return a state with a probe added to one part; for a memory, to all that its own token made of it as well."""
    if part == 0:
        return state[0] + probe, *state[1:]
    hidden, memory = state
    # h = o tanh(c): the output gate, h / tanh(c), has not seen the memory that it lets out.
    gate = (hidden / torch.tanh(memory)).detach()
    return hidden + gate * (torch.tanh(memory + probe) - torch.tanh(memory)), memory + probe


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm", "min_gru", "hgrn"])
def test_each_norm_is_that_of_the_total_derivative_of_an_unrolled_network(cell):
    model = make(cell=cell, num_layers=2)
    # One window after exactly 256 tokens, so that the state before it is carried from the start.
    curves = measured(model, TEXT[: 256 + 7], window=7, windows=1).curves
    read = [EOS, *TEXT[:262].tolist()]
    for curve in curves:
        layer, part = int(curve.layer.removeprefix("layer_")), PARTS.index(curve.part)
        expected = unrolled(model, read[256:], int(TEXT[262]), read[:256], layer, part)
        name = f"{curve.layer} {curve.part}"
        np.testing.assert_allclose(means(curve), expected[::-1], rtol=1e-9, err_msg=name)
    assert len(curves) == 2 * (2 if cell == "lstm" else 1)


def test_every_cell_has_one_curve_for_each_layer_and_part():
    for number, cell in enumerate(CELLS):
        size = 4 if cell == "bag" else 6
        skip = ("none", "sum")[number % 2]
        model = make(cell=cell, num_layers=2, hidden_size=size, skip=skip, layer_norm=True)
        curves = measured(model, windows=3).curves
        has_memory = "lstm" in str(cell) and cell != "min_lstm"
        parts = PARTS if has_memory else PARTS[:1]
        expected = [(f"layer_{layer}", part) for layer in range(2) for part in parts]
        assert [(curve.layer, curve.part) for curve in curves] == expected, cell
        for row in (row for curve in curves for row in curve.distances):
            assert row.mean > 0 and row.count == 3, cell
            assert row.quantile_10 <= row.quantile_50 <= row.quantile_90, cell
        for curve in curves:
            assert [row.distance for row in curve.distances] == list(range(12)), cell


def test_the_gradient_passes_every_kind_of_projection():
    for options in ({"adaptive_cutoffs": [4]}, {"mixture": 2}, {"tied": True}):
        curves = measured(make(**options), windows=2).curves
        assert curves and all(row.mean > 0 for row in curves[0].distances), options


@pytest.mark.parametrize("cell", ["gru", "mogrifier_lstm"])
def test_one_hot_tokens_are_equal_to_an_embedding_by_the_identity(cell):
    one_hot = make(cell=cell, embedding="one_hot")
    learned = make(cell=cell, embedding_size=VOCABULARY)
    learned.load_state_dict(
        one_hot.state_dict() | {"encoder.embedding.weight": torch.eye(VOCABULARY)}
    )
    for curve, expected in zip(measured(one_hot).curves, measured(learned).curves, strict=True):
        np.testing.assert_allclose(means(curve), means(expected), rtol=1e-12)


def test_each_window_has_the_norms_that_it_has_alone():
    model = make(cell="gru")
    (curve,) = measured(model, windows=44, window=50).curves  # In two batches.
    alone = []
    starts = np.unique(np.linspace(256, 850, 44).round().astype(int))
    for start in starts:
        (single,) = measured(model, TEXT[start - 256 : start + 50], windows=1, window=50).curves
        alone.append(means(single))
    # Alone, a window's warm-up starts from the initial state, which makes almost no difference.
    assert curve.distances[0].count == len(starts) == 44
    np.testing.assert_allclose(means(curve), np.mean(alone, axis=0), rtol=1e-3)
    assert curve.distances[3].quantile_50 == pytest.approx(
        np.quantile(np.array(alone)[:, 3], 0.5), rel=1e-3
    )


def test_only_the_tokens_up_to_the_end_of_the_window_count():
    model = make(cell="lstm")
    curves = measured(model, TEXT[:266], window=10, windows=1).curves
    assert measured(model, TEXT, window=10, windows=1).curves == curves
    for number in (100, 260, 265):
        other = TEXT.copy()
        other[number] = (other[number] + 1) % VOCABULARY
        assert measured(model, other, window=10, windows=1).curves != curves


RECORDS = [[2, 3, 4, 5, 6, EOS], [7, 7, EOS], [3, 2, 5, EOS], [6, 5, 4, 3, 2, 7, 6, 5, 4, EOS]]
RECORDS_TEXT = [token for record in RECORDS for token in record]
RECORDS_REVERSED = [token for record in RECORDS for token in (*record[-2::-1], EOS)]


def test_a_record_is_read_from_its_start_to_each_token_from_the_fourth_on():
    model = make(cell="gru")
    result = measured(model, RECORDS_TEXT, mode="records", window=8, windows=99)
    # Of 6, 4 and 10 tokens, up to 3, 1 and 5 of them; the record of 3 tokens is too short.
    assert result.settings["windows"] == 3 + 1 + 5
    counts = [row.count for row in result.curves[0].distances]
    assert counts == [9, 9, 9, 9, 6, 4, 2, 1]
    reference = make(cell="gru").double()
    expected = [
        unrolled(reference, [EOS, *ids[: length - 1]], ids[length - 1], [], 0, 0)[::-1]
        for ids in (RECORDS[0], RECORDS[2], RECORDS[3])
        for length in range(4, min(len(ids), 8) + 1)
    ]
    for distance, row in enumerate(result.curves[0].distances):
        reached = [norms for norms in expected if distance < len(norms)]
        np.testing.assert_allclose(row.mean, np.mean([norms[distance] for norms in reached]))
        ratios = [norms[distance] / norms[0] for norms in reached]
        np.testing.assert_allclose(row.relative, np.median(ratios))


def test_only_the_losses_of_the_targets_are_measured():
    options = {"window": 8, "windows": 999, "device": CPU, "targets": [5]}
    text = np.asarray(RECORDS_TEXT, np.uint8)
    result = measure_gradient_norms(make(cell="gru"), text, mode="records", **options)
    # The fourth token of the first record and the eighth of the last: the others come too early.
    reference = make(cell="gru").double()
    norms = [
        unrolled(reference, [EOS, *ids[: length - 1]], 5, [], 0, 0)[::-1]
        for ids, length in ((RECORDS[0], 4), (RECORDS[3], 8))
    ]
    (curve,) = result.curves
    assert [row.count for row in curve.distances] == [2] * 4 + [1] * 4
    np.testing.assert_allclose(curve.distances[3].mean, np.mean([norms[0][3], norms[1][3]]))
    np.testing.assert_allclose(curve.distances[7].relative, norms[1][7] / norms[1][0])
    result = measure_gradient_norms(make(cell="gru"), TEXT, mode="stream", **options)
    assert result.settings["windows"] == (TEXT[256 + 7 :] == 5).sum()
    with pytest.raises(CorpusError, match="no such token with enough tokens before it"):
        measure_gradient_norms(make(), text, mode="records", **options | {"targets": [1]})


def test_a_certain_token_has_hardly_a_gradient_but_the_same_relative_gradient():
    uncertain, certain = one_unit(0.75), one_unit(0.75)
    with torch.no_grad():
        for model, bias in ((uncertain, 0.0), (certain, 20.0)):
            model.projection.bias.zero_()
            model.projection.bias[3] = bias
    text = np.full(300, 3, np.uint8)
    known, unknown = measured(certain, text), measured(uncertain, text)
    assert known.median_loss_nats < 1e-3 < 0.5 < unknown.median_loss_nats
    assert known.is_certain and not unknown.is_certain
    assert means(known.curves[0])[0] < means(unknown.curves[0])[0] / 100
    for result in (known, unknown):
        ratios = [row.relative for row in result.curves[0].distances]
        np.testing.assert_allclose(ratios, [0.75**distance for distance in range(12)])


def test_a_backward_model_reads_the_text_from_its_end():
    forward, backward = make(cell="gru"), make(cell="gru", direction="backward")
    backward.load_state_dict(forward.state_dict())
    assert measured(backward).curves == measured(forward, TEXT[::-1]).curves
    expected = measured(forward, RECORDS_REVERSED, mode="records").curves
    assert measured(backward, RECORDS_TEXT, mode="records").curves == expected


def test_a_backward_model_is_measured_at_the_targets_that_it_reads():
    forward, backward = make(cell="gru"), make(cell="gru", direction="backward")
    backward.load_state_dict(forward.state_dict())
    for mode, ids, reversed_ids in (
        ("stream", TEXT, TEXT[::-1]),
        ("records", RECORDS_TEXT, RECORDS_REVERSED),
    ):
        expected = measured(forward, reversed_ids, mode=mode, targets=[5])
        assert measured(backward, ids, mode=mode, targets=[5]).curves == expected.curves, mode


def test_a_window_of_three_tokens_may_be_the_beginning_of_a_record():
    result = measured(make(), RECORDS_TEXT, mode="records", window=3)
    assert [row.count for row in result.curves[0].distances] == [4, 4, 4]


@pytest.mark.parametrize("options", [{}, {"targets": [5], "windows": 1}], ids=["all", "targets"])
@pytest.mark.parametrize("mode", ["stream", "records"])
def test_both_directions_have_the_norms_that_each_has_alone(mode, options):
    both = make(cell="lstm", direction="both", num_layers=2)
    ids = TEXT if mode == "stream" else RECORDS_TEXT
    result = measured(both, ids, mode=mode, **options)
    curves = {(curve.layer, curve.part): curve for curve in result.curves}
    for direction, prefix, network in (
        ("forward", "", both.encoder.recurrence),
        ("backward", "backward_", both.encoder.backward_recurrence),
    ):
        alone = make(cell="lstm", direction=direction, num_layers=2)
        alone.encoder.recurrence.load_state_dict(network.state_dict())
        alone.encoder.embedding.load_state_dict(both.encoder.embedding.state_dict())
        alone.projection.load_state_dict(both.projection.state_dict())
        for curve in measured(alone, ids, mode=mode, **options).curves:
            np.testing.assert_allclose(
                means(curves[prefix + curve.layer, curve.part]), means(curve), rtol=1e-9
            )
    assert len(curves) == 8


def test_the_model_is_not_changed():
    model = make().train()
    measured(model)
    assert model.training
    assert all(
        tensor.dtype == torch.float32 and tensor.grad is None for tensor in model.parameters()
    )


def test_the_half_life_of_a_line_by_hand():
    assert half_life_tokens([99, 8, 4, 2, 1]) == pytest.approx(1)
    assert half_life_tokens([0, 8, 8 / math.e]) == pytest.approx(math.log(2))
    assert half_life_tokens([1, 4, 0, 1]) == pytest.approx(1)  # Zeros have no logarithm.
    assert half_life_tokens([1, 0.3, 0.3 - 1e-14]) == math.inf  # Rounding is no decay.
    assert half_life_tokens([1, 2, 2, 2]) == half_life_tokens([1, 1, 2, 4]) == math.inf
    assert half_life_tokens([1, 1, 0, 0]) == half_life_tokens([1, 0, 0, 0]) == 0


def test_a_window_that_is_too_small_and_a_text_that_is_too_short_are_refused():
    for options, error, message in [
        ({"window": 2}, OptionError, "^window: must be at least 3, got 2$"),
        ({"windows": 0}, OptionError, "^windows: must be at least 1, got 0$"),
        ({"window": 901}, CorpusError, "has 900 tokens, fewer than a window of 901; "),
        ({"mode": "records"}, CorpusError, "no record of 4 tokens"),
        ({"ids": []}, CorpusError, "has 0 tokens"),
    ]:
        with pytest.raises(error, match=message):
            measured(make(), **options)


def test_an_infinite_half_life_is_null_in_json():
    row = NormsAtDistance(0, 1.0, 0.5, 1.0, 1.5, 3, math.nan)
    curves = [Curve("layer_0", "hidden", math.inf, [row]), Curve("layer_0", "memory", 2.5, [row])]
    data = json.loads(json.dumps(Gradients(curves, {"seed": 1}, 2.0).to_json(), allow_nan=False))
    assert [curve["half_life_tokens"] for curve in data["curves"]] == [None, 2.5]
    assert data["curves"][0]["distances"] == [
        {
            "distance": 0,
            "mean": 1.0,
            "quantile_10": 0.5,
            "quantile_50": 1.0,
            "quantile_90": 1.5,
            "count": 3,
            "relative": None,
        }
    ]
    assert data["settings"] == {"seed": 1}


def test_a_run_measures_its_validation_split_or_a_text(trained, trained_records, text_file):
    result = load(trained).gradients(window=16, windows=4)
    assert {
        "run",
        "checkpoint",
        "step",
        "text",
        "level",
        "mode",
        "state",
        "device",
        "training_seed",
        "version",
    } <= set(result.settings)
    assert result.settings["text"] == "valid"
    run = load(trained)
    assert run.gradients(paths=[text_file], window=16).settings["text"] == str(text_file)
    for measure in (run.gradients, run.context, run.memory, run.cells, run.surprise):
        with pytest.raises(OptionError, match=r"^paths: cannot be combined with text"):
            measure("a text", paths=[text_file])
    records = load(trained_records).gradients(split="train")
    assert records.settings["state"] == "initial at each record"
    assert records.curves[0].distances[-1].distance < 8


def test_an_untrained_network_has_the_weights_that_its_training_began_with(trained, tmp_path):
    run = load(trained)
    initial = begin(run.config, tmp_path / "again").model
    ids = text_to_score(run.trained).tokens.ids
    state = torch.random.get_rng_state()
    result = run.gradients(window=16, windows=4, untrained=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert result.curves == measured(initial, ids, window=16, windows=4).curves
    assert result.curves != run.gradients(window=16, windows=4).curves
    assert (result.settings["checkpoint"], result.settings["step"]) == ("untrained", 0)


def test_initial_weights_that_do_not_follow_from_the_seed_are_not_measured(trained):
    model = load(trained).trained
    corpus = model.origin.corpus | {"ancestor": {"name": "english"}}
    section = model.config.model.model_copy(update={"vectors": "glove.txt"})
    cases = {
        "the weights of english": replace(model, origin=replace(model.origin, corpus=corpus)),
        "vectors of a file": replace(
            model, config=model.config.model_copy(update={"model": section})
        ),
    }
    for source, started in cases.items():
        with pytest.raises(UnsupportedOptionError, match=f"^untrained: .* began with {source}, "):
            Run(started).gradients(window=16, windows=4, untrained=True)


def test_the_command_measures_named_tokens_and_warns_where_the_loss_is_near_zero(
    capfd, trained, monkeypatch
):
    arguments = ["eval", "gradients", str(trained), "--window", "16", "--at", "e", "--at", "a"]
    assert charlm(arguments) == 0
    out, err = capfd.readouterr()
    assert "at e, a" in out and err == ""
    assert charlm([*arguments, "--at", "ab"]) == 2
    expected = "--at: must be a token of the model, whose tokens are characters, got 'ab'"
    assert expected in capfd.readouterr().err
    monkeypatch.setattr(gradients, "NEAR_ZERO_NATS", 99.0)
    assert charlm(arguments) == 0
    out, err = capfd.readouterr()
    assert err.startswith("the median loss of the measured tokens is ") and err.count("\n") == 1


def test_the_command_prints_a_table_or_json(capfd, trained):
    arguments = ["eval", "gradients", str(trained), "--window", "20", "--windows", "6"]
    assert charlm(arguments) == 0
    head, *rows, half_life, half_life_of_memory, settings = capfd.readouterr().out.splitlines()
    assert head.split() == [
        "distance",
        "relative",
        "mean",
        "10",
        "%",
        "50",
        "%",
        "90",
        "%",
        "windows",
    ]
    assert [
        row.removeprefix("layer 1 hidden").removeprefix("layer 1 memory").split()[0] for row in rows
    ] == (["0", "1", "2", "4", "8", "16"] * 2)
    assert half_life.startswith("layer 1 hidden") and half_life.endswith("tokens")
    assert half_life_of_memory.startswith("layer 1 memory")
    assert "window 20, windows 6" in settings
    assert charlm([*arguments, "--json"]) == 0
    data = json.loads(capfd.readouterr().out)
    assert f"{data['curves'][0]['distances'][4]['mean']:.3e}" == rows[3].split()[2]
    assert f"{data['curves'][0]['distances'][4]['relative']:.3e}" == rows[3].split()[1]
    assert f"{data['curves'][1]['half_life_tokens']:,.2f}" == half_life_of_memory.split()[4]


def test_an_infinite_half_life_is_none_in_the_table(capfd, trained, monkeypatch):
    curves = [
        Curve("layer_0", "hidden", math.inf, [NormsAtDistance(0, 1.0, 0.5, 1.0, 1.5, 3, math.nan)])
    ]
    monkeypatch.setattr(Run, "gradients", lambda self, **_: Gradients(curves, {}, 2.0))
    assert charlm(["eval", "gradients", str(trained)]) == 0
    assert capfd.readouterr().out.splitlines()[2].split() == [
        "layer",
        "1",
        "hidden",
        "half-life",
        "none",
    ]


def test_a_mistake_is_one_line(capfd, trained):
    for window, status, problem in [("2", 2, "--window"), ("99999", 1, "a window of 99999")]:
        assert charlm(["eval", "gradients", str(trained), "--window", window]) == status
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1 and problem in err
