"""The whole network: against the reference, and its parts one by one."""

from functools import cache

import numpy as np
import pytest
import reference_cells
import torch
from model.cells_table import CELLS, reference_weights, relative_error, weights_for

from charlm.config.model import Model
from charlm.errors import ConfigError, OptionError
from charlm.model.dropout import Dropout, WordDropout, drop
from charlm.model.language_model import LanguageModel, count_parameters, detach, named_weights
from charlm.model.recurrence import Run, States, run, run_stepwise

VOCABULARY = 11
SIZES = {"hidden_size": 6, "embedding_size": 4}


def make(**fields: object) -> LanguageModel:
    torch.manual_seed(1)
    return LanguageModel(Model(**{**SIZES, **fields}), VOCABULARY).eval()


def ids(time: int = 7, batch: int = 3) -> torch.Tensor:
    return torch.randint(VOCABULARY, (time, batch), generator=torch.Generator().manual_seed(2))


# Networks that together have every option around the cells, and a cell of each kind.
NETWORKS: dict[str, dict] = {
    "lstm_alone": {"cell": CELLS["lstm"]},
    "gru_residual_norm_learned_state": {
        "cell": CELLS["gru_reset_after"],
        "num_layers": 2,
        "skip": "residual",
        "layer_norm": True,
        "initial_state": "learned",
    },
    "elman_sum_one_hot": {
        "cell": CELLS["elman_relu"],
        "num_layers": 2,
        "skip": "sum",
        "embedding": "one_hot",
    },
    "elman_three_sizes_norm": {
        "cell": CELLS["elman_tanh"],
        "hidden_size": [5, 4, 6],
        "layer_norm": True,
    },
    "nested_norm_tied_adapter_learned_state": {
        "cell": CELLS["nested_lstm_depth_2"],
        "num_layers": 2,
        "layer_norm": True,
        "tied": True,
        "initial_state": "learned",
    },
    "mogrifier_residual_one_hot_norm": {
        "cell": CELLS["mogrifier_lstm_2_rounds_rank_2"],
        "num_layers": 2,
        "skip": "residual",
        "embedding": "one_hot",
        "layer_norm": True,
    },
    "min_gru_sum_norm_tied_adapter_learned_state": {
        "cell": CELLS["min_gru"],
        "num_layers": 2,
        "skip": "sum",
        "layer_norm": True,
        "tied": True,
        "initial_state": "learned",
    },
    "min_lstm_two_sizes_one_hot_norm": {
        "cell": CELLS["min_lstm"],
        "hidden_size": [5, 6],
        "embedding": "one_hot",
        "layer_norm": True,
    },
    "rg_lru_residual_norm_tied": {
        "cell": CELLS["rg_lru"],
        "num_layers": 2,
        "skip": "residual",
        "layer_norm": True,
        "tied": True,
    },
    "hgrn_residual_learned_state": {
        "cell": CELLS["hgrn"],
        "num_layers": 3,
        "skip": "residual",
        "initial_state": "learned",
    },
    "rg_lru_blocks_tied": {
        "cell": CELLS["rg_lru"],
        "num_layers": 2,
        "block": "griffin",
        "tied": True,
    },
    "lstm_blocks_two_sizes_learned_state": {
        "cell": CELLS["lstm"],
        "hidden_size": [5, 3],
        "block": "griffin",
        "mlp_expansion": 2,
        "initial_state": "learned",
    },
    "hgrn_blocks_both_directions": {
        "cell": CELLS["hgrn"],
        "num_layers": 2,
        "block": "griffin",
        "direction": "both",
    },
    "bag_residual_learned_state": {
        "cell": CELLS["bag"],
        "num_layers": 2,
        "skip": "residual",
        "initial_state": "learned",
    },
    "bag_sum_norm_tied": {
        "cell": CELLS["bag"],
        "num_layers": 2,
        "skip": "sum",
        "layer_norm": True,
        "tied": True,
    },
    "gru_reset_before_two_sizes_tied": {
        "cell": CELLS["gru_reset_before"],
        "hidden_size": [6, 4],
        "tied": True,
    },
    "gru_reset_none_residual_one_hot_learned_state": {
        "cell": CELLS["gru_reset_none"],
        "num_layers": 2,
        "skip": "residual",
        "embedding": "one_hot",
        "initial_state": "learned",
    },
    "peepholes_residual_tied": {
        "cell": CELLS["lstm_full_peepholes"],
        "num_layers": 2,
        "skip": "residual",
        "hidden_size": 4,
        "tied": True,
    },
    "coupled_gate_recurrence_sum_norm_tied_learned_state": {
        "cell": CELLS["lstm_coupled_peepholes_gate_recurrence"],
        "num_layers": 2,
        "skip": "sum",
        "layer_norm": True,
        "tied": True,
        "initial_state": "learned",
    },
    "slstm_sum_norm_tied_learned_state": {
        "cell": CELLS["slstm"],
        "num_layers": 2,
        "skip": "sum",
        "layer_norm": True,
        "tied": True,
        "initial_state": "learned",
    },
    "diagonal_gru_residual": {"cell": CELLS["diagonal_gru"], "num_layers": 2, "skip": "residual"},
    "diagonal_lstm_one_hot": {"cell": CELLS["diagonal_lstm"], "embedding": "one_hot"},
    "lstm_both_directions": {
        "cell": CELLS["lstm"],
        "num_layers": 2,
        "skip": "residual",
        "direction": "both",
        "initial_state": "learned",
    },
    "gru_reset_before_both_directions_tied_norm": {
        "cell": CELLS["gru_reset_before"],
        "direction": "both",
        "tied": True,
        "layer_norm": True,
    },
}
SOME_NETWORKS = [
    "gru_residual_norm_learned_state",
    "gru_reset_none_residual_one_hot_learned_state",
    "bag_sum_norm_tied",
    "min_lstm_two_sizes_one_hot_norm",
    "lstm_both_directions",
]


@cache
def network_of(name: str, dtype: torch.dtype) -> LanguageModel:
    """Return a network with random parameters: initial values would hide a wrong one."""
    model = make(**NETWORKS[name]).double()
    for tensor in model.parameters():
        torch.nn.init.normal_(tensor, std=0.5)
    return model.to(dtype)


def two_windows(model: LanguageModel, runner: Run) -> tuple[torch.Tensor, States]:
    """Return the logits of two windows, from the initial state on, and the last states."""
    first, states = model(ids(batch=2)[:3], run=runner)
    second, states = model(ids(batch=2)[3:], states, run=runner)
    return torch.cat([first, second]), states


def reference_two_windows(
    name: str, weights: reference_cells.Weights
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the reference's logits, (time, batch, vocabulary), and each tensor of its states."""
    section = Model(**{**SIZES, **NETWORKS[name]}).model_dump()
    logits, states = [], []
    for row, sequence in enumerate(ids(batch=2).numpy().T):
        seen = weights
        # The second half of the batch belongs to the backward recurrence.
        if row == 1 and section["direction"] == "both":
            seen = weights | {
                key.removeprefix("backward_"): weight
                for key, weight in weights.items()
                if key.startswith("backward_")
            }
        first, carried = reference_cells.network(section, sequence[:3], seen)
        second, last = reference_cells.network(section, sequence[3:], seen, carried)
        logits.append(np.concatenate([first, second]))
        states.append([part for layer in last for part in layer])
    if section["direction"] == "both":
        return np.stack(logits, axis=1), [part[None] for row in states for part in row]
    return np.stack(logits, axis=1), [np.stack(parts) for parts in zip(*states, strict=True)]


@cache
def reference_answers(
    name: str,
) -> tuple[np.ndarray, list[np.ndarray], dict[tuple[str, tuple[int, ...]], float]]:
    """Return logits, last states, and the gradients of two entries of each parameter."""
    weights = reference_weights(network_of(name, torch.float64))

    def loss(changed: reference_cells.Weights) -> float:
        logits, states = reference_two_windows(name, changed)
        return float(
            sum(
                (part * weights_for(part.shape, n).numpy()).sum()
                for n, part in enumerate((logits, *states))
            )
        )

    draw = np.random.default_rng(6)
    entries = [
        (key, tuple(int(draw.integers(size)) for size in weight.shape))
        for key, weight in weights.items()
        for _ in range(2)
    ]
    numbers = reference_cells.numerical_gradients(loss, weights, entries)
    return *reference_two_windows(name, weights), dict(zip(entries, numbers, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_states_and_gradients_are_those_of_the_reference(name):
    assert_agrees_with_reference(name, run, torch.float64, output_error=1e-12, gradient_error=1e-7)


def test_networks_agree_with_the_reference_step_by_step_and_in_fp32():
    for name in SOME_NETWORKS:
        for runner, dtype, output_error, gradient_error in (
            (run_stepwise, torch.float64, 1e-12, 1e-7),
            (run, torch.float32, 1e-5, 1e-3),
        ):
            assert_agrees_with_reference(
                name, runner, dtype, output_error=output_error, gradient_error=gradient_error
            )


def assert_agrees_with_reference(
    name: str, runner: Run, dtype: torch.dtype, *, output_error: float, gradient_error: float
) -> None:
    model = network_of(name, dtype)
    logits, states = two_windows(model, runner)
    expected, expected_states, expected_gradients = reference_answers(name)
    results = [logits, *(tensor for state in states for tensor in state)]
    for result, wanted in zip(results, [expected, *expected_states], strict=True):
        assert relative_error(result, wanted) < output_error, name
    loss = torch.stack(
        [
            (result * weights_for(result.shape, number).to(dtype)).sum()
            for number, result in enumerate(results)
        ]
    ).sum()
    gradients = dict(
        zip(
            reference_weights(model),
            torch.autograd.grad(loss, list(model.parameters())),
            strict=True,
        )
    )
    for (key, index), wanted in expected_gradients.items():
        error = abs(gradients[key][index].item() - wanted)
        assert error < gradient_error * gradients[key].abs().max(), (name, key, index)


def test_the_networks_have_every_option_around_the_cells():
    sections = [Model(**fields) for fields in NETWORKS.values()]
    assert {section.cell.kind for section in sections} == {cell["kind"] for cell in CELLS.values()}
    for field, values in {
        "skip": {"none", "residual", "sum"},
        "layer_norm": {True, False},
        "tied": {True, False},
        "initial_state": {"zero", "learned"},
        "embedding": {"one_hot", "learned"},
        "num_layers": {1, 2, 3},
    }.items():
        assert {getattr(section, field) for section in sections} == values
    assert any(len(set(section.hidden_sizes)) > 1 for section in sections)


# One cell of each kind, and those whose steps differ most from them.
TRAINED_CELLS = [
    *("bag", "elman_tanh", "elman_sigmoid", "gru_reset_after", "gru_reset_before", "lstm"),
    *("lstm_full_peepholes", "lstm_capped_peepholes", "lstm_coupled_peepholes_gate_recurrence"),
    *("nested_lstm_depth_3", "mogrifier_lstm_2_rounds_rank_2", "min_gru", "min_lstm"),
    *("rg_lru", "hgrn"),
    *("slstm", "diagonal_gru", "diagonal_lstm"),
]


@pytest.mark.parametrize("name", TRAINED_CELLS)
def test_a_few_steps_of_training_in_bf16_learn_a_toy_sequence(name):
    torch.manual_seed(1)
    model = LanguageModel(Model(cell=CELLS[name], hidden_size=8, embedding_size=6), 4)
    text = torch.tensor([0, 1, 0, 2, 0, 3])[:, None].expand(-1, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    with torch.no_grad():
        exact, _ = model(text[:-1])
    losses = []
    for step in range(24):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, _ = model(text[:-1])
        if step == 0:
            assert 0 < relative_error(logits, exact) < 0.05
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), text[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        assert all(
            weight.grad is not None and weight.grad.dtype == torch.float32
            for weight in model.parameters()
        )
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0], losses


def test_changing_a_later_token_leaves_earlier_logits_unchanged():
    kinds = [{"cell": "gru", "skip": skip} for skip in ("none", "residual", "sum")]
    for options in (*kinds, {"cell": "rg_lru", "block": "griffin"}):
        model = make(**options, num_layers=2)
        randomize(model)
        before = ids()
        after = before.clone()
        after[4] = (after[4] + 1) % VOCABULARY
        difference = (model(before)[0] - model(after)[0]).abs().amax(dim=(1, 2))
        assert (difference[:4] == 0).all(), options
        assert (difference[4:] > 0).all(), options


def randomize(model: LanguageModel) -> None:
    """Give a model random weights: the output matrices of a new block are zero."""
    torch.manual_seed(3)
    for tensor in model.parameters():
        torch.nn.init.normal_(tensor, std=0.5)


def test_a_new_block_passes_the_stream_on_unchanged_and_learns_to_change_it():
    model = make(num_layers=2, block="griffin", cell="rg_lru")
    features, _ = model.encoder(ids())
    x = model.encoder.embedding(ids())
    torch.testing.assert_close(features, x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt())
    model(ids())[0].square().sum().backward()
    assert all(block.output.weight.grad.any() for block in model.encoder.recurrence.blocks)


def test_dropout_of_a_block_acts_on_what_is_added_to_the_stream():
    model = make(num_layers=2, block="griffin", dropout=0.5).train()
    randomize(model)
    torch.manual_seed(1)
    first = model(ids())[0]
    assert not torch.equal(first, model(ids())[0])
    assert torch.equal(model.eval()(ids())[0], model(ids())[0])


def test_two_windows_with_carried_state_equal_one_long_window():
    model = make(num_layers=2)
    whole, _ = model(ids())
    first, states = model(ids()[:3])
    rest, _ = model(ids()[3:], states)
    torch.testing.assert_close(torch.cat([first, rest]), whole)


def test_ids_without_a_time_step_or_of_another_shape_are_refused_in_one_line():
    model = make()
    for shape in [(0, 3), (3,), (1, 2, 3)]:
        with pytest.raises(
            OptionError, match=r"^ids: must have the shape \(time, batch\), .*, got"
        ):
            model(torch.zeros(shape, dtype=torch.long))


def test_a_tied_model_has_one_matrix_fewer():
    untied, tied = make(embedding_size=6), make(embedding_size=6, tied=True)
    sizes = [sum(size for _, _, size in count_parameters(model)) for model in (untied, tied)]
    assert sizes[0] - sizes[1] == VOCABULARY * 6
    assert tied.projection.weight is tied.encoder.embedding.weight


def test_a_tied_model_of_two_widths_has_an_output_adapter():
    model = make(tied=True)
    assert model.output_adapter.weight.shape == (4, 6)
    assert model(ids())[0].shape == (7, 3, VOCABULARY)


def test_a_tied_matrix_starts_with_one_over_the_embedding_size_as_its_variance():
    """So that the logits start small: their variance is that of the hidden state."""
    torch.manual_seed(1)
    model = LanguageModel(Model(tied=True, hidden_size=64, embedding_size=64), 500)
    assert model.projection.weight.std().item() == pytest.approx(1 / 8, rel=0.02)


def test_residual_adds_the_input_of_a_layer_to_its_output():
    model = make(num_layers=2, skip="residual")
    plain = make(num_layers=2)
    plain.load_state_dict(model.state_dict())
    x, states = model.encoder.embedding(ids()), model.encoder.recurrence.initial_states(3)
    first, _ = model.encoder.recurrence.layers[0].kernel(x)
    torch.testing.assert_close(
        model.encoder.recurrence(x, states)[0],
        first + model.encoder.recurrence.layers[1].kernel(first)[0],
    )
    torch.testing.assert_close(
        plain.encoder.recurrence(x, states)[0], model.encoder.recurrence.layers[1].kernel(first)[0]
    )


def test_sum_adds_the_outputs_of_all_layers():
    model = make(num_layers=2, skip="sum")
    x, states = model.encoder.embedding(ids()), model.encoder.recurrence.initial_states(3)
    first, _ = model.encoder.recurrence.layers[0].kernel(x)
    torch.testing.assert_close(
        model.encoder.recurrence(x, states)[0],
        first + model.encoder.recurrence.layers[1].kernel(first)[0],
    )


def test_dropout_acts_only_in_training():
    model = make(dropout=0.5, embedding_dropout=0.5, output_dropout=0.5, num_layers=2)
    torch.testing.assert_close(model(ids())[0], model(ids())[0])
    model.train()
    assert (model(ids())[0] != model(ids())[0]).any()


def test_an_lstm_has_the_number_of_parameters_of_the_textbook():
    hidden, embedded = 6, 4
    total = sum(size for _, _, size in count_parameters(make()))
    lstm = 4 * (hidden * embedded + hidden * hidden + 2 * hidden)  # torch has two biases per gate.
    assert total == VOCABULARY * embedded + lstm + VOCABULARY * (hidden + 1)


# Names of the weights in files.


def test_weights_have_the_names_of_older_run_folders_compressed_texts_and_saved_states():
    """These names are part of the file formats: change them only with code that reads both."""
    model = make(direction="both", tied=True, initial_state="learned", layer_norm=True)
    cell = [
        f"recurrence.cells.0.kernel.{kind}_{place}_l0"
        for kind in ("weight", "bias")
        for place in ("ih", "hh")
    ]
    forward = [
        *cell,
        "recurrence.norms.0.weight",
        "recurrence.norms.0.bias",
        "recurrence.initial.0.0",
        "recurrence.initial.0.1",
    ]
    assert [name for name, _ in named_weights(model)] == [
        "embedding.weight",
        *forward,
        *(f"backward_{name}" for name in forward),
        "bridge.weight",
        "projection.bias",
    ]
    assert [tensor for _, tensor in named_weights(model)] == list(model.parameters())


# Sizes.


def test_each_layer_can_have_its_own_size():
    model = make(hidden_size=[5, 7, 3], cell="gru")
    assert [cell.hidden_size for cell in model.encoder.recurrence.layers] == [5, 7, 3]
    assert [tuple(state[0].shape) for state in model(ids())[1]] == [(3, 5), (3, 7), (3, 3)]
    assert model.projection.weight.shape == (VOCABULARY, 3)


def test_a_bag_is_as_wide_as_the_embedding_in_every_layer():
    model = make(cell="bag", num_layers=2)
    assert [cell.hidden_size for cell in model.encoder.recurrence.layers] == [4, 4]
    assert model.projection.weight.shape == (VOCABULARY, 4)
    assert isinstance(make(cell="bag", tied=True).output_adapter, torch.nn.Identity)


def test_recurrent_gain_applies_to_every_layer():
    model = make(cell={"kind": "gru", "reset": "none"}, num_layers=2, recurrent_gain=1.5)
    for cell in model.encoder.recurrence.layers:
        for block in cell.recurrent.weight.detach().split(6):
            torch.testing.assert_close(block @ block.T, 2.25 * torch.eye(6), atol=1e-5, rtol=0)


def test_a_window_without_states_starts_from_the_learned_ones():
    model = make(cell="lstm", initial_state="learned", num_layers=2)
    for part in model.encoder.recurrence.initial.parameters():
        torch.nn.init.normal_(part)
    given, _ = model(ids(), model.initial_states(3))
    assert model(ids())[0].equal(given)
    zeros = tuple(
        tuple(torch.zeros_like(part) for part in state) for state in model.initial_states(3)
    )
    assert not model(ids(), zeros)[0].equal(given)
    model(ids())[0].sum().backward()
    assert all(part.grad.any() for part in model.encoder.recurrence.initial.parameters())


def test_detached_states_have_the_same_values_and_no_gradient():
    _, states = make(num_layers=2)(ids())
    for state, cut in zip(states, detach(states), strict=True):
        for part, same in zip(state, cut, strict=True):
            assert part.requires_grad and not same.requires_grad and same.equal(part)


def test_the_caller_chooses_how_a_cell_runs_over_a_window():
    model, seen = make(num_layers=2, direction="both"), []

    def recording_run(cell, x, state):
        seen.append(cell)
        return run(cell, x, state)

    assert model(ids(batch=4), run=recording_run)[0].equal(model(ids(batch=4))[0])
    assert seen == [*model.encoder.recurrence.layers, *model.encoder.backward_recurrence.layers]


# Two directions.


def test_each_direction_has_its_own_recurrence_for_half_of_the_batch():
    model = make(direction="both", num_layers=2, cell="gru")
    window = ids(batch=4)
    logits, states = model(window)
    assert len(states) == 4 and all(part.shape == (2, 6) for state in states for part in state)
    swapped, _ = model(window.roll(2, dims=1))
    assert not swapped.roll(2, dims=1).allclose(logits)  # The weights differ,
    model.encoder.backward_recurrence.load_state_dict(model.encoder.recurrence.state_dict())
    swapped, _ = model(window.roll(2, dims=1))  # and nothing else does.
    torch.testing.assert_close(swapped.roll(2, dims=1), model(window)[0])


def test_tokens_of_one_direction_do_not_change_the_other():
    model = make(direction="both")
    window = ids(batch=2)
    for half in (0, 1):
        changed = window.clone()
        changed[:, half] = (changed[:, half] + 1) % VOCABULARY
        difference = (model(window)[0] - model(changed)[0]).abs().amax(dim=(0, 2))
        assert difference[half] > 0 and difference[1 - half] == 0, half


def test_both_directions_carry_their_states_from_window_to_window():
    model = make(direction="both", num_layers=2)
    whole, end = model(ids(batch=4))
    first, states = model(ids(batch=4)[:3])
    rest, after = model(ids(batch=4)[3:], states)
    torch.testing.assert_close(torch.cat([first, rest]), whole)
    torch.testing.assert_close(after, end)


def test_both_directions_share_embedding_and_projection():
    one, both = (
        sum(size for _, _, size in count_parameters(make(direction=direction)))
        for direction in ("forward", "both")
    )
    alone = sum(parameter.numel() for parameter in make().encoder.recurrence.parameters())
    assert both - one == alone


def test_a_model_splits_into_one_model_per_direction_with_the_same_weights():
    model = make(direction="both", num_layers=2)
    logits, states = model(ids(batch=4))
    forward, backward = model.split_directions()
    torch.testing.assert_close(forward(ids(batch=4)[:, :2])[0], logits[:, :2])
    y, after = backward(ids(batch=4)[:, 2:])
    torch.testing.assert_close(y, logits[:, 2:])
    torch.testing.assert_close(after, states[2:])
    assert (
        backward.encoder.recurrence is model.encoder.backward_recurrence
        and backward.encoder.embedding is model.encoder.embedding
    )
    (alone,) = make().split_directions()
    torch.testing.assert_close(alone(ids())[0], make()(ids())[0])


# Dropout.

WITH_RECURRENT_WEIGHTS = [
    *("lstm", "elman_relu", "gru_reset_after", "gru_reset_before"),
    *("lstm_full_peepholes", "mogrifier_lstm_2_rounds_rank_2", "slstm", "diagonal_lstm"),
]


def logits_of(model: LanguageModel, times: int = 3) -> list[torch.Tensor]:
    return [model(ids())[0].detach() for _ in range(times)]


def test_each_kind_of_dropout_differs_from_step_to_step_and_acts_only_in_training():
    for field in ("word_dropout", "embedding_dropout", "output_dropout", "weight_dropout"):
        model = make(**{field: 0.5})
        assert logits_of(model)[0].equal(make()(ids())[0]), field
        first, second, third = logits_of(model.train())
        assert not (first.equal(second) or second.equal(third)), field


def test_word_dropout_drops_all_occurrences_of_a_token_or_none():
    layer = WordDropout(0.5, VOCABULARY).train()
    seen = ids(40, 3)
    scale = layer(torch.ones(40, 3, 5), seen)
    by_token = {index: scale[seen == index] for index in seen.unique().tolist()}
    assert all((rows == rows[0, 0]).all() for rows in by_token.values())
    assert {float(rows[0, 0]) for rows in by_token.values()} == {0.0, 2.0}


@pytest.mark.parametrize("whole_window", [False, True])
def test_a_dropout_mask_is_drawn_per_token_or_per_window(whole_window):
    scale = Dropout(0.5, whole_window=whole_window).train()(torch.ones(30, 4, 6))
    assert set(scale.unique().tolist()) == {0.0, 2.0}
    assert (scale == scale[0]).all() == whole_window
    assert not (scale[:, 0] == scale[:, 1]).all()  # Each sequence has its own mask.


def test_dropout_mask_applies_to_every_dropout():
    for mask in ("token", "window"):
        model = make(dropout_mask=mask, num_layers=2)
        layers = [module for module in model.modules() if isinstance(module, Dropout)]
        assert [layer.whole_window for layer in layers] == [mask == "window"] * 3


@pytest.mark.parametrize("name", WITH_RECURRENT_WEIGHTS)
def test_dropped_recurrent_weights_act_in_the_step_and_have_no_gradient(name):
    model = make(cell=CELLS[name], weight_dropout=0.5).double().train()
    cell = model.encoder.recurrence.layers[0]
    with torch.no_grad():
        for product in cell.products():
            product.weight += 0.1  # No weight is zero by chance.
    results = []
    for how in (run, run_stepwise):
        torch.manual_seed(5)
        logits, _ = model(ids(), run=how)
        model.zero_grad()
        logits.square().sum().backward()
        results.append([logits.detach(), *(product.weight.grad for product in cell.products())])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow)
    torch.manual_seed(5)
    for product in cell.state_products():
        dropped = drop(product.weight, 0.5) == 0
        assert 0 < dropped.double().mean() < 1
        assert (product.weight.grad[dropped] == 0).all()
    assert (cell.input.weight.grad != 0).any(dim=1).double().mean() > 0.5
    assert all(product.weight_after_dropout is None for product in cell.products())


def test_a_model_with_weight_dropout_scores_with_all_weights():
    model, whole = make(weight_dropout=0.9), make()
    assert model(ids())[0].equal(whole(ids())[0])


# Projections.


def test_a_tied_mixture_needs_no_output_adapter():
    model = make(tied=True, mixture=3)
    assert model.projection.weight is model.encoder.embedding.weight
    assert not list(model.output_adapter.parameters())


def test_a_cutoff_beyond_the_vocabulary_is_an_error():
    with pytest.raises(
        ConfigError,
        match=r"adaptive_cutoffs: must be below the vocabulary's last id, 10, got 10; lower it",
    ):
        make(adaptive_cutoffs=[3, 10])


def test_more_clusters_than_the_units_allow_are_an_error():
    with pytest.raises(ConfigError, match=r"6 units are too few for 2 clusters; give fewer"):
        make(adaptive_cutoffs=[3, 5])


def test_an_adaptive_softmax_gives_one_target_the_same_as_all():
    projection = make(hidden_size=16, adaptive_cutoffs=[3, 7]).projection
    hidden = torch.randn(20, 16, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(20) % VOCABULARY
    everything = projection(hidden)
    assert everything.exp().sum(dim=-1).allclose(torch.ones(20))
    assert projection.target_log_probabilities(hidden, targets).allclose(
        everything[torch.arange(20), targets]
    )


def test_a_mixture_of_softmaxes_computes_its_equation():
    """Yang et al. 2018, equation 1, written out in float64."""
    projection = make(mixture=3).double().projection
    for weight in projection.parameters():
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(4))
    hidden = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w, b, u, v, bias = (
        weight.detach().numpy()
        for weight in (
            projection.weight,
            projection.bias,
            projection.prior.weight,
            projection.latent.weight,
            projection.latent.bias,
        )
    )
    for h, log_p in zip(hidden.numpy(), projection(hidden).detach().numpy(), strict=True):
        prior = softmax(u @ h)
        parts = np.split(np.tanh(v @ h + bias), 3)
        p = sum(share * softmax(w @ part + b) for share, part in zip(prior, parts, strict=True))
        assert np.exp(log_p) == pytest.approx(p, rel=1e-5)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()
