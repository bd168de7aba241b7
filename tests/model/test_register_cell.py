"""A cell that charlm does not have: the one of docs/add_a_cell.md, from its step to a sample."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import reference_cells
import torch
from conftest import SMALL
from model import cells_table
from model.cells_table import (
    assert_equal_gradients,
    gradients_of,
    loss_of,
    new_cell,
    reference_answers,
    relative_error,
    window_of,
)

import charlm
from charlm.config import cell as cell_section
from charlm.config.cell import CELL_KINDS
from charlm.config.model import Model
from charlm.errors import CharlmError, ConfigError, OptionError
from charlm.model.cells import registry
from charlm.model.cells.base import Cell, FusedCell, LinearCell, input_weights, recurrent_weights
from charlm.model.cells.gru import GRU
from charlm.model.cells.minimal import MinGRU
from charlm.model.cells.slstm import SLSTM
from charlm.model.fast import backpropagation
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import run, run_stepwise

PAGE = Path(__file__).parents[2] / "docs" / "add_a_cell.md"


def code_block(beginning: str) -> str:
    """Return the page's block of Python that contains a line with this beginning."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if re.search(f"^{re.escape(beginning)}", block, re.M)]
    return block


@pytest.fixture(scope="module")
def mgu() -> type[Cell]:
    """The class on the page."""
    names: dict = {}
    exec(code_block("class MGU"), names)
    return names["MGU"]


@pytest.fixture
def unregistered(monkeypatch) -> None:
    """Undo the test's registrations at its end."""
    monkeypatch.setattr(cell_section, "_registered_kinds", set())
    monkeypatch.setattr(registry, "_MAKERS", dict(registry._MAKERS))


@pytest.fixture
def registered(unregistered, monkeypatch, mgu) -> None:
    """Register the cell and its reference, both as the page says."""
    charlm.register_cell("mgu", mgu)
    names = {"np": np, **vars(reference_cells)}
    exec(code_block("def mgu"), names)
    monkeypatch.setitem(reference_cells.STEPS, "mgu", names["mgu"])
    monkeypatch.setitem(cells_table.CELLS, "mgu", {"kind": "mgu"})


@pytest.fixture
def overrides(text_file) -> list[str]:
    return [*SMALL, f"corpus.text={text_file}", "training.steps=12"]


def test_the_cell_agrees_with_the_reference_and_its_window_with_its_step(registered):
    cell = new_cell("mgu")
    assert not isinstance(cell, FusedCell | LinearCell)
    x, state = window_of(cell)
    outputs, states_after, gradients = reference_answers("mgu")
    stepwise, fast = run_stepwise(cell, x, state), run(cell, x, state)
    assert cell in backpropagation._programs, "the window was not run by the traced step"
    assert relative_error(stepwise[0], outputs) < 1e-12
    assert relative_error(stepwise[1][0], states_after[0]) < 1e-12
    assert relative_error(fast[0], stepwise[0]) < 1e-12
    plain = gradients_of(cell, loss_of(*stepwise), x, state)
    assert_equal_gradients(plain, gradients, 1e-7)
    assert_equal_gradients(gradients_of(cell, loss_of(*fast), x, state), plain, 1e-12)


def test_training_with_the_traced_step_is_training_with_automatic_differentiation(registered):
    ids = torch.randint(7, (9, 3), generator=torch.Generator().manual_seed(1))
    weights = []
    for how in (run, run_stepwise):
        torch.manual_seed(2)
        section = Model(cell={"kind": "mgu"}, hidden_size=6, embedding_size=4, num_layers=2)
        model = LanguageModel(section, 7).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(5):
            logits, _ = model(ids[:-1], run=how)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        weights.append(list(model.parameters()))
    for traced, stepwise in zip(*weights, strict=True):
        torch.testing.assert_close(traced, stepwise, rtol=1e-12, atol=1e-14)


def test_every_recurrent_matrix_starts_orthogonal_times_the_gain(registered):
    cell = registry.make_cell(cell_section.Cell(kind="mgu"), 3, 5, gain=1.5)
    for weight in (cell.recurrent.weight, cell.candidate.weight):
        torch.testing.assert_close(weight @ weight.T, 2.25 * torch.eye(5), atol=1e-5, rtol=0)
    assert cell.input.weight.any() and not cell.input.bias.any()


def test_the_program_on_the_page_trains_saves_loads_and_samples(
    unregistered, mgu, overrides, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    program = code_block("config = ").replace('"training.steps=300"', "*overrides")
    names = {"MGU": mgu, "overrides": overrides}
    exec(program, names)
    assert len(capsys.readouterr().out) > 200
    trained = names["run"]
    assert isinstance(trained.model.encoder.recurrence.layers[0], mgu)
    loaded = charlm.load(trained.folder)
    samples = [each.sample(seed=3, length=40)[0].text for each in (trained, loaded)]
    assert samples[0] == samples[1]
    assert loaded.config.model.cell.kind == "mgu"


def test_the_program_on_the_page_that_starts_the_command_line_knows_the_cell(
    unregistered, mgu, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "mgu", SimpleNamespace(MGU=mgu))
    arguments = ["config", "show", "--set", "model.cell=mgu"]
    monkeypatch.setattr(sys, "argv", ["my_charlm.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        exec(code_block("from charlm.__main__"), {})
    assert not ended.value.code
    assert "kind: mgu" in capsys.readouterr().out


def test_a_program_that_has_not_registered_the_cell_reads_what_to_do(
    unregistered, mgu, overrides, tmp_path, monkeypatch
):
    charlm.register_cell("mgu", mgu)
    config = charlm.load_config(None, [*overrides, "model.cell=mgu", "training.steps=1"])
    charlm.train(config, out=tmp_path / "run")
    cell_section._registered_kinds.clear()
    with pytest.raises(CharlmError, match=r"^[^\n]*$") as caught:
        charlm.load(tmp_path / "run")
    message = str(caught.value)
    assert "config.yaml: model.cell.kind: no cell is named 'mgu'" in message
    assert "in a Python program, call charlm.register_cell for it first" in message


def test_a_registered_cell_has_no_options_and_is_known_to_the_error_for_another_name(registered):
    with pytest.raises(ConfigError, match="depth: is an option of nested_lstm, not of mgu"):
        charlm.load_config(None, ["model.cell={kind: mgu, depth: 3}"])
    with pytest.raises(ConfigError, match=r"no cell is named 'mgru' \(nearest: mgu; known: bag,"):
        charlm.load_config(None, ["model.cell=mgru"])


def test_only_an_identifier_that_is_no_cell_of_charlm_can_be_registered(unregistered, mgu):
    for name in ("", "my-cell", "1st", "a b", *CELL_KINDS):
        with pytest.raises(OptionError, match=r"^name: [^\n]*$"):
            charlm.register_cell(name, mgu)
        assert name not in cell_section._registered_kinds, name
    assert isinstance(registry.make_cell(cell_section.Cell(kind="lstm"), 2, 2), FusedCell)


def test_a_name_registered_again_stands_for_the_new_factory(unregistered, mgu):
    made = []
    charlm.register_cell("mine", mgu)
    charlm.register_cell("mine", lambda *sizes: made.append(sizes) or mgu(*sizes))
    registry.make_cell(cell_section.Cell(kind="mine"), 3, 4)
    assert made == [(3, 4)]


def test_a_factory_must_return_a_cell(unregistered):
    charlm.register_cell("wrong", torch.nn.Linear)
    with pytest.raises(
        TypeError, match=r"register_cell\('wrong'\): the factory must .* got Linear"
    ):
        registry.make_cell(cell_section.Cell(kind="wrong"), 3, 4)


class Plain(Cell):
    """An Elman network, which keeps the contract."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.input = input_weights(self, input_size, gates=1)
        self.recurrent = recurrent_weights(self, gates=1)

    def step(self, projected, state):
        return (torch.tanh(projected + self.recurrent(state[0])),)


class WithoutInput(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        Cell.__init__(self, hidden_size)


class WithoutRecurrent(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        Cell.__init__(self, hidden_size)
        self.input = input_weights(self, input_size, gates=1)


class ReturnsTensor(Plain):
    def step(self, projected, state):
        return super().step(projected, state)[0]


class ReturnsTwo(Plain):
    def step(self, projected, state):
        return super().step(projected, state) + state


class Wide(Plain):
    def step(self, projected, state):
        return (torch.cat([projected, state[0]], dim=-1),)


class NarrowOutput(Plain):
    def output(self, state):
        return state[0][:, :1]


class OwnParameter(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.slope = torch.nn.Parameter(torch.ones(hidden_size))

    def step(self, projected, state):
        return (self.slope * super().step(projected, state)[0],)


class LinearOfTorch(Plain):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.recurrent = torch.nn.Linear(hidden_size, hidden_size)


class StepOfKernel(GRU):
    step = Plain.step


class OutputOfSLSTM(SLSTM):
    def output(self, state):
        return state[0]


class StepOfScan(MinGRU):
    step = Plain.step


BROKEN = {
    WithoutInput: "has no self.input; create it with input_weights",
    WithoutRecurrent: "has no self.recurrent, .*; create it with recurrent_weights",
    ReturnsTensor: r"step must return a tuple of tensors, got Tensor; .* is written \(hidden,\)",
    ReturnsTwo: "step must return as many tensors .* num_state_tensors = 1, got 2",
    Wide: r"step must return tensors of \(batch, hidden\), got \(2, 8\) for a batch of 2",
    NarrowOutput: r"output must be \(batch, hidden\), got \(2, 1\)",
    OwnParameter: "step uses slope outside a product; use it in `project`, or",
    LinearOfTorch: "step uses recurrent.weight, recurrent.bias outside a product",
    StepOfKernel: "step would not be called: a window of GRU is computed by a kernel",
    OutputOfSLSTM: "output would not be called: a window of SLSTM is computed by a function",
    StepOfScan: "step would not be called: a window of MinGRU is computed by a parallel scan",
}


def test_a_cell_that_breaks_the_contract_is_refused_with_the_remedy(unregistered):
    for cell, message in BROKEN.items():
        charlm.register_cell("mine", cell)
        with pytest.raises(
            TypeError, match=rf"^register_cell\('mine'\): {cell.__name__}.{message}"
        ):
            registry.make_cell(cell_section.Cell(kind="mine"), 4, 4)


def test_a_cell_with_other_initial_weights_or_coefficients_keeps_the_contract(unregistered):
    class Scan(MinGRU):
        def coefficients(self, projected):
            decay, increment = super().coefficients(projected)
            return decay, 2 * increment

    class Kernel(GRU):
        def initialize(self, gain: float = 1.0) -> None:
            torch.nn.init.zeros_(self.input.weight)

    for cell in (Plain, Scan, Kernel):
        charlm.register_cell("mine", cell)
        assert isinstance(registry.make_cell(cell_section.Cell(kind="mine"), 3, 4), cell)


def test_the_check_of_a_cell_leaves_the_random_numbers_of_the_training_as_they_are(unregistered):
    class Noisy(Plain):
        def step(self, projected, state):
            return (super().step(projected, state)[0] + torch.randn_like(state[0]),)

    weights = []
    for cell in (Plain, Noisy):
        charlm.register_cell("mine", cell)
        torch.manual_seed(1)
        weights.append(registry.make_cell(cell_section.Cell(kind="mine"), 3, 4).recurrent.weight)
    assert torch.equal(*weights)


class Zoneout(Plain):
    """Krueger et al. 2017 (arXiv:1606.01305): in training, random units keep their state."""

    def step(self, projected, state):
        (after,) = super().step(projected, state)
        keeps = torch.rand_like(after) < 0.5 if self.training else torch.tensor(False)
        return (torch.where(keeps, state[0], after),)


def test_a_window_computes_the_step_of_its_mode_in_training_and_in_evaluation():
    """A step can draw random numbers in training; a gradient can be taken in both modes."""
    torch.manual_seed(1)
    cell = Zoneout(3, 4)
    cell.initialize()
    x, state = torch.randn(6, 2, 3), (torch.zeros(2, 4),)
    trained = run(cell.train(), x, state)[0]
    evaluated = run(cell.eval(), x, state)[0]
    torch.testing.assert_close(evaluated, run_stepwise(cell, x, state)[0])
    assert not trained.equal(evaluated)
    assert not run(cell.train(), x, state)[0].equal(evaluated)


def test_a_window_uses_the_constants_and_the_present_buffers_of_a_step():
    class Scaled(Plain):
        def __init__(self, input_size: int, hidden_size: int) -> None:
            super().__init__(input_size, hidden_size)
            self.register_buffer("scale", torch.full((hidden_size,), 0.5))

        def step(self, projected, state):
            return (super().step(projected, state)[0] * self.scale + torch.tensor(0.1),)

    cell = Scaled(3, 4)
    cell.initialize()
    x, state = torch.randn(6, 2, 3), (torch.zeros(2, 4),)
    for change in (lambda scale: scale, lambda scale: scale.mul_(2), lambda scale: scale + 1):
        cell.scale = change(cell.scale)
        torch.testing.assert_close(run(cell, x, state)[0], run_stepwise(cell, x, state)[0])


def test_the_first_window_of_a_process_draws_as_many_random_numbers_as_each_later_one():
    """Otherwise a resumed training, which traces the step again, is another training."""
    cell = Zoneout(3, 4).train()
    cell.initialize()
    x, state = torch.randn(6, 2, 3), (torch.zeros(2, 4),)
    after = []
    for _ in range(2):
        torch.manual_seed(1)
        run(cell, x, state)
        after.append(torch.rand(()))
    assert after[0] == after[1]


def test_something_that_cannot_make_a_cell_is_not_registered(unregistered):
    for factory in (5, Plain(3, 4)):
        with pytest.raises(TypeError, match=r"must be a function .* or a class, got (int|Plain)"):
            charlm.register_cell("mine", factory)
    assert "mine" not in cell_section._registered_kinds
