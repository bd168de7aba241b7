"""Schedules and clipping by hand; weight decay; Muon against its equations, gate by gate."""

import copy
import math

import pytest
import torch

from charlm.config.model import Model
from charlm.config.training import Training
from charlm.model.cells.gru import ResetFreeGRU
from charlm.model.cells.mogrifier import MogrifierLSTM
from charlm.model.language_model import LanguageModel, named_weights
from charlm.training.clipping import clip, gradient_group, group_norms
from charlm.training.devices import fast_math
from charlm.training.muon import gate_rows, orthogonalize
from charlm.training.optimizer import make_optimizer
from charlm.training.schedule import learning_rate


def test_each_schedule_falls_as_described():
    for schedule, fraction_done, expected in (
        ("linear", 0.25, 0.75),
        ("linear", 1, 0),
        ("cosine", 0.5, 0.5),
        ("cosine", 1, 0),
        ("constant", 0.9, 1),
        ("trapezoid", 0.79, 1),
        ("trapezoid", 0.9, 0.5),
        ("trapezoid", 1, 0),
    ):
        section = Training(schedule=schedule, learning_rate=1.0, warmup_steps=0)
        rate = learning_rate(section, step=10, fraction_done=fraction_done)
        assert rate == pytest.approx(expected), (schedule, fraction_done)


def test_the_rate_rises_over_the_warm_up():
    section = Training(schedule="constant", learning_rate=1.0, warmup_steps=4)
    rates = [learning_rate(section, step=step, fraction_done=0) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1, 1, 1]


def test_the_rate_of_a_plateau_is_quartered_after_each_evaluation_without_a_new_best():
    section = Training(schedule="plateau", learning_rate=1.0, warmup_steps=4)
    rates = [learning_rate(section, step=9, fraction_done=0.9, stalls=n) for n in range(4)]
    assert rates == [1, 1 / 4, 1 / 16, 1 / 64]
    assert learning_rate(section, step=1, fraction_done=0.1, stalls=1) == 1 / 8


def test_no_other_schedule_depends_on_the_evaluations():
    for schedule in ("linear", "cosine", "constant", "trapezoid"):
        section = Training(schedule=schedule)
        expected = learning_rate(section, step=9, fraction_done=0.5)
        rate = learning_rate(section, step=9, fraction_done=0.5, stalls=2)
        assert rate == expected, schedule


def test_each_divergence_halves_the_rate():
    section = Training(schedule="constant", learning_rate=1.0, warmup_steps=0)
    rates = [learning_rate(section, step=9, fraction_done=0.5, halvings=n) for n in range(3)]
    assert rates == [1, 1 / 2, 1 / 4]


def gradient(*values: float) -> torch.Tensor:
    tensor = torch.zeros(len(values), requires_grad=True)
    tensor.grad = torch.tensor(values)
    return tensor


def test_clipnorm_scales_the_whole_gradient_down_to_the_norm():
    tensors = [gradient(3.0, 0.0), gradient(4.0)]
    assert clip(tensors, clipnorm=1.0, clipvalue=None).norm.item() == pytest.approx(5)
    torch.testing.assert_close(tensors[0].grad, torch.tensor([0.6, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(tensors[1].grad, torch.tensor([0.8]), atol=1e-5, rtol=0)


def test_clipnorm_does_not_change_a_smaller_gradient():
    tensor = gradient(0.3, 0.4)
    clip([tensor], clipnorm=1.0, clipvalue=None)
    torch.testing.assert_close(tensor.grad, torch.tensor([0.3, 0.4]))


def test_clipvalue_is_applied_before_clipnorm_and_the_reported_norm_is_that_before_both():
    tensor = gradient(30.0, -4.0, 0.5)
    norm = clip([tensor], clipnorm=2.0, clipvalue=4.0).norm
    assert norm.item() == pytest.approx((900 + 16 + 0.25) ** 0.5)
    clipped = torch.tensor([4.0, -4.0, 0.5])
    torch.testing.assert_close(tensor.grad, clipped * (2 / clipped.norm()), atol=1e-5, rtol=0)


def test_the_reported_norm_of_each_parameter_is_that_before_clipping():
    frozen = torch.zeros(2)
    clipping = clip([gradient(3.0, 4.0), frozen, gradient(12.0)], clipnorm=1.0, clipvalue=2.0)
    assert clipping.norms.tolist() == [5, 0, 12]
    assert clipping.norm.item() == 13


def test_clipping_reports_which_limit_was_exceeded():
    # The gradient has norm 5; clipped to 3 by value it has norm 4.24.
    for clipnorm, clipvalue, by_norm, by_value in (
        (None, None, None, None),
        (4.9, None, True, None),
        (5.1, None, False, None),
        (None, 3.9, None, True),
        (None, 4.0, None, False),
        (4.9, 3.0, False, True),
        (4.0, 3.0, True, True),
        (5.1, 4.1, False, False),
    ):
        gradients = [gradient(3.0, 0.0), gradient(-4.0)]
        clipping = clip(gradients, clipnorm=clipnorm, clipvalue=clipvalue)
        limits = (clipnorm, clipvalue)
        assert (None if clipping.by_norm is None else bool(clipping.by_norm)) is by_norm, limits
        assert (None if clipping.by_value is None else bool(clipping.by_value)) is by_value, limits


def test_a_parameter_belongs_to_its_layer_the_embedding_or_the_projection():
    for name, group in (
        ("embedding.weight", "embedding"),
        ("recurrence.cells.0.kernel.weight_ih_l0", "layer_0"),
        ("recurrence.norms.11.weight", "layer_11"),
        ("recurrence.initial.1.0", "layer_1"),
        ("backward_recurrence.cells.2.kernel.bias_hh_l0", "backward_layer_2"),
        ("bridge.weight", "projection"),
        ("projection.bias", "projection"),
    ):
        assert gradient_group(name) == group, name


def test_the_norm_of_a_group_is_that_of_its_parameters_together_and_infinite_if_not_finite():
    norms = torch.tensor([3.0, 1.0, 4.0, torch.nan, torch.inf])
    groups = ["embedding", "layer_0", "embedding", "layer_1", "projection"]
    assert group_norms(norms, groups) == {
        "embedding": 5.0,
        "layer_0": 1.0,
        "layer_1": math.inf,
        "projection": math.inf,
    }


@pytest.mark.parametrize("optimizer", ["adamw", "nadam", "sgd", "muon"])
@pytest.mark.parametrize(("embeddings", "biases"), [(True, False), (False, True)])
def test_weight_decay_is_on_matrices_and_if_configured_on_embeddings_and_biases(
    optimizer, embeddings, biases
):
    model = LanguageModel(Model(hidden_size=4, embedding_size=3), 5)
    for tensor in model.parameters():
        torch.nn.init.ones_(tensor)
        tensor.grad = torch.zeros_like(tensor)
    section = Training(
        weight_decay=0.5,
        learning_rate=0.1,
        optimizer=optimizer,
        decay_embeddings=embeddings,
        decay_biases=biases,
    )
    make_optimizer(model, section).step()
    assert (model.projection.weight < 1).all()
    assert (model.encoder.recurrence.layers[0].recurrent.weight < 1).all()
    assert (model.encoder.embedding.weight < 1).all() == embeddings
    assert (model.projection.bias < 1).all() == biases


def test_weight_decay_is_the_learning_rate_times_the_weight_apart_from_the_gradient():
    for optimizer in ("adamw", "nadam", "muon"):
        model = LanguageModel(Model(hidden_size=4, embedding_size=3), 5)
        section = Training(weight_decay=0.5, learning_rate=0.1, optimizer=optimizer)
        for tensor in model.parameters():
            torch.nn.init.ones_(tensor)
            tensor.grad = torch.zeros_like(tensor)
        make_optimizer(model, section).step()
        recurrent = model.encoder.recurrence.layers[0].recurrent.weight
        for matrix in (model.projection.weight, recurrent):
            expected = torch.full_like(matrix, 1 - 0.1 * 0.5)
            torch.testing.assert_close(matrix, expected, msg=optimizer)


@pytest.mark.parametrize("name", ["adamw", "adam", "nadam", "rmsprop", "sgd", "muon"])
def test_every_optimizer_lowers_the_loss_of_a_batch(name):
    torch.manual_seed(1)
    model = LanguageModel(Model(hidden_size=8, embedding_size=4), 7)
    optimizer = make_optimizer(model, Training(optimizer=name, learning_rate=0.01))
    ids = torch.randint(7, (6, 4))
    losses = []
    for _ in range(20):
        logits, _ = model(ids[:-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[1:].flatten())
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_nadam_minimizes_a_quadratic():
    tensor = torch.nn.Parameter(torch.tensor([[4.0, -3.0]]))
    model = torch.nn.ParameterDict({"weight": tensor})
    optimizer = make_optimizer(
        model, Training(optimizer="nadam", learning_rate=0.1, weight_decay=0.0)
    )
    sizes = []
    for _ in range(60):
        sizes.append(tensor.norm().item())
        tensor.grad = 2 * tensor.detach()
        optimizer.step()
    assert sizes[-1] < 0.2 * sizes[0]
    assert sizes[:20] == sorted(sizes[:20], reverse=True)


def test_a_step_of_adamw_with_beta1_zero_is_the_gradient_over_its_root_mean_square():
    tensor = torch.nn.Parameter(torch.tensor([[1.0]]))
    section = Training(optimizer="adamw", beta1=0.0, beta2=0.9, learning_rate=0.1, weight_decay=0.0)
    optimizer = make_optimizer(torch.nn.ParameterDict({"weight": tensor}), section)
    for slope, expected in (
        (4.0, 0.9),
        (-2.0, 0.9 + 0.1 * 2 / ((0.09 * 16 + 0.1 * 4) / (1 - 0.81)) ** 0.5),
    ):
        tensor.grad = torch.full_like(tensor, slope)
        optimizer.step()
        assert tensor.item() == pytest.approx(expected, rel=1e-5)


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """Three Newton-Schulz steps, X ← aX + b(XXᵀ)X + c(XXᵀ)²X, in float64."""
    x = matrix.double() / matrix.double().norm()
    for a, b, c in (
        (5.0977, -14.8220, 10.9353),
        (3.7821, -6.9876, 3.4380),
        (3.7559, -5.9734, 3.0276),
    ):
        product = x @ x.T
        x = a * x + b * product @ x + c * product @ product @ x
    return x


def test_orthogonalization_brings_singular_values_from_a_hundredth_of_the_norm_near_one():
    generator = torch.Generator().manual_seed(1)
    turn, other = (
        torch.nn.init.orthogonal_(torch.empty(32, 32), generator=generator) for _ in range(2)
    )
    for values in (torch.logspace(-2, 0, 32), torch.ones(32), torch.linspace(0.01, 1, 32)):
        values = values / values.norm()
        values = values[values >= 0.01]
        matrix = (turn[:, : len(values)] * values) @ other[: len(values)]
        for precision, tolerance in ((torch.float32, 0.01), (torch.bfloat16, 0.1)):
            orthogonal = orthogonalize(matrix.to(precision)[None])[0].float()
            found = torch.linalg.svdvals(orthogonal)[: len(values)]
            assert found.min() > 0.67 - tolerance, precision
            assert found.max() < 1.24 + tolerance, precision


def test_orthogonalization_keeps_a_matrix_of_almost_zero_small():
    """Without gradients, the mean of 512 x 512 of them is below 1e-24 after about 500 steps."""
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(1, 512, 512, generator=generator)
    for precision in (torch.float32, torch.bfloat16):
        for power in range(12, 40, 3):
            small = (matrix * 10.0**-power).to(precision)
            with fast_math(torch.device("cpu")):
                orthogonal = orthogonalize(small)[0].float()
            assert torch.linalg.matrix_norm(orthogonal, 2) < 1.3, (precision, power)


def test_a_step_of_muon_follows_its_equations_gate_by_gate():
    torch.manual_seed(3)
    model = LanguageModel(Model(hidden_size=8, embedding_size=6), 5)
    section = Training(optimizer="muon", learning_rate=0.02, beta1=0.8, weight_decay=0.1)
    optimizer = make_optimizer(model, section)
    layer = model.encoder.recurrence.layers[0]
    matrices = layer.recurrent.weight, layer.input.weight
    before = [gate.double() for matrix in matrices for gate in matrix.detach().clone().split(8)]
    expected, means = before, [torch.zeros_like(gate) for gate in before]
    for _ in range(3):
        for tensor in model.parameters():
            tensor.grad = torch.randn_like(tensor)
        optimizer.step()
        gradients = [gate.double() for matrix in matrices for gate in matrix.grad.split(8)]
        means = [
            0.8 * mean + 0.2 * gradient for mean, gradient in zip(means, gradients, strict=True)
        ]
        ahead = [
            0.8 * mean + 0.2 * gradient for mean, gradient in zip(means, gradients, strict=True)
        ]  # Nesterov's.
        expected = [
            gate * (1 - 0.02 * 0.1) - 0.02 * 0.2 * 8**0.5 * orthogonalized(look)
            for gate, look in zip(expected, ahead, strict=True)
        ]
    found = [gate.double() for matrix in matrices for gate in matrix.detach().split(8)]
    for gate, wanted, start in zip(found, expected, before, strict=True):
        assert (gate - wanted).norm() < 1e-5 * (wanted - start).norm()


def test_an_update_of_muon_has_the_same_size_for_every_gate_whatever_its_gradient():
    model = LanguageModel(Model(hidden_size=8, embedding_size=6), 5)
    recurrent = model.encoder.recurrence.layers[0].recurrent.weight
    torch.nn.init.zeros_(recurrent)
    for tensor in model.parameters():
        tensor.grad = torch.randn_like(tensor)
    recurrent.grad = torch.cat(
        [torch.nn.init.orthogonal_(torch.empty(8, 8)) * 10.0**-power for power in range(4)]
    )
    make_optimizer(model, Training(optimizer="muon", learning_rate=1.0)).step()
    for gate in recurrent.detach().split(8):
        values = torch.linalg.svdvals(gate) / (0.2 * 8**0.5)
        assert values.min() > 0.65 and values.max() < 1.25
        assert values.max() - values.min() < 0.05


@pytest.mark.parametrize("decay", [False, True])
def test_muon_updates_all_other_parameters_as_adamw_does(decay):
    models = [LanguageModel(Model(hidden_size=8, embedding_size=6, tied=True, layer_norm=True), 5)]
    models.append(copy.deepcopy(models[0]))
    options = {"decay_embeddings": decay, "decay_biases": decay}
    optimizers = [
        make_optimizer(model, Training(optimizer=name, **options))
        for model, name in zip(models, ("adamw", "muon"), strict=True)
    ]
    for _ in range(3):
        gradients = [torch.randn_like(tensor) for tensor in models[0].parameters()]
        for model, optimizer in zip(models, optimizers, strict=True):
            for tensor, gradient in zip(model.parameters(), gradients, strict=True):
                tensor.grad = gradient.clone()
            optimizer.step()
    pairs = zip(named_weights(models[0]), models[1].parameters(), strict=True)
    differing = [name for (name, tensor), other in pairs if not torch.equal(tensor, other)]
    assert differing == [
        "recurrence.cells.0.kernel.weight_ih_l0",
        "recurrence.cells.0.kernel.weight_hh_l0",
    ]


def test_muon_has_the_matrices_of_a_block_and_adamw_its_norms():
    section = Model(cell="rg_lru", block="griffin", hidden_size=4, embedding_size=3)
    model = LanguageModel(section, 5)
    found = {tuple(matrix.shape): size for matrix, size in gate_rows(model).items()}
    assert found == {(12, 3): 4, (4, 3): 4, (3, 4): 3, (18, 3): 9, (3, 9): 3}
    others = [name for name, tensor in named_weights(model) if tensor not in gate_rows(model)]
    assert [name for name in others if ".blocks." in name] == [
        "recurrence.blocks.0.mixing_norm.weight",
        "recurrence.blocks.0.mlp_norm.weight",
    ]


def test_the_rows_of_a_gate_in_a_matrix_are_the_units_of_the_cell():
    for cell, rows in (
        ("elman", {(4, 3): 4, (4, 4): 4}),
        ("gru", {(12, 3): 4, (12, 4): 4}),
        ("bag", {}),
        ("min_lstm", {(12, 3): 4}),
        ("rg_lru", {(12, 3): 4}),
        ("hgrn", {(8, 3): 4}),
        ("slstm", {(16, 3): 4, (16, 4): 4}),
        ("diagonal_gru", {(12, 3): 4}),
        ({"kind": "gru", "reset": "before"}, {(12, 3): 4, (8, 4): 4, (4, 4): 4}),
        ("nested_lstm", {(16, 3): 4, (16, 4): 4, (16, 8): 4}),
        ({"kind": "lstm", "full_gate_recurrence": True}, {(16, 3): 4, (16, 4): 4, (12, 12): 4}),
        ({"kind": "lstm", "peepholes": "input"}, {(16, 3): 4, (16, 4): 4}),
        ({"kind": "mogrifier_lstm", "rank": None}, {(16, 3): 4, (16, 4): 4, (3, 4): 3, (4, 3): 4}),
        (
            {"kind": "mogrifier_lstm", "rank": 8, "rounds": 1},
            {(16, 3): 4, (16, 4): 4, (3, 8): 3, (8, 4): 8},
        ),
    ):
        model = LanguageModel(Model(cell=cell, hidden_size=4, embedding_size=3, tied=True), 5)
        found = {tuple(matrix.shape): size for matrix, size in gate_rows(model).items()}
        assert found == rows, cell


def test_a_cell_of_your_own_states_the_rows_of_its_gates_in_an_order_that_checkpoints_keep():
    class Halves(ResetFreeGRU):
        def matrix_rows(self):
            yield self.input.weight, 2
            yield self.recurrent.weight, 4

    cell = Halves(3, 4)
    assert gate_rows(cell) == {cell.input.weight: 2, cell.recurrent.weight: 4}
    mogrifier = MogrifierLSTM(3, 4, rounds=3, rank=2)
    matrices = [tensor for tensor in mogrifier.parameters() if tensor.ndim == 2]
    assert list(gate_rows(mogrifier)) == matrices


def test_muon_trains_the_matrices_of_both_directions():
    model = LanguageModel(Model(hidden_size=4, embedding_size=3, direction="both"), 5)
    assert len(gate_rows(model)) == 4


def test_muon_updates_every_parameter_of_a_cell_without_gates_and_of_one_with_odd_matrices():
    for cell in ("bag", "mogrifier_lstm"):
        model = LanguageModel(Model(cell=cell, hidden_size=4, embedding_size=3), 5)
        before = copy.deepcopy(model)
        for tensor in model.parameters():
            tensor.grad = torch.ones_like(tensor)
        make_optimizer(model, Training(optimizer="muon")).step()
        pairs = zip(model.named_parameters(), before.parameters(), strict=True)
        for (name, tensor), old in pairs:
            assert (tensor != old).any(), (cell, name)
