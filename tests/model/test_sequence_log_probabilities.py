"""The probability of whole sequences, whatever they are read beside and in which direction."""

import math

import pytest
import torch
from torch import nn

from charlm.config.model import Model
from charlm.model import log_probabilities
from charlm.model.language_model import LanguageModel
from charlm.model.log_probabilities import sequence_log_probabilities

CPU = torch.device("cpu")
EOS, VOCABULARY = 0, 8
SEQUENCES = [
    [2, 3, 4, EOS],
    [7],
    [5, 5, 6, 2, 3, 7, 4, 4, 2],
    [EOS],
    [3, 2, EOS],
    [6, 6, 6, 6, 6, 6, 6, 6, EOS],
]
REVERSED = [
    [4, 3, 2, EOS],
    [7],
    [2, 4, 4, 7, 3, 2, 6, 5, 5],
    [EOS],
    [2, 3, EOS],
    [6, 6, 6, 6, 6, 6, 6, 6, EOS],
]


def make(direction: str = "forward", **options: object) -> LanguageModel:
    torch.manual_seed(1)
    section = Model(hidden_size=8, embedding_size=4, direction=direction, **options)
    model = LanguageModel(section, VOCABULARY).eval()
    with torch.no_grad():
        model.projection.weight *= 8
    return model


def alone(model: nn.Module, *columns: list[int]) -> float:
    """Return the log-probability of one sequence, given as one column per direction."""
    targets = torch.tensor(columns).T
    inputs = torch.cat([torch.full_like(targets[:1], EOS), targets[:-1]])
    with torch.no_grad():
        logits, _ = model(inputs)
    return float(logits.double().log_softmax(dim=-1).gather(-1, targets.unsqueeze(-1)).sum())


def score(model: nn.Module, sequences: list[list[int]], **options: int) -> list[float]:
    return sequence_log_probabilities(model, sequences, eos=EOS, device=CPU, **options)


class RecordingModel(nn.Module):
    """A uniform model that keeps what it reads."""

    def __init__(self, direction: str = "forward") -> None:
        super().__init__()
        self.direction = direction
        self.projection = nn.Identity()
        self.texts_read: list[list[list[int]]] = []

    def encoder(self, ids: torch.Tensor, states: object) -> tuple[torch.Tensor, object]:
        self.texts_read.append(ids.T.tolist())
        return torch.zeros(*ids.shape, VOCABULARY), ()

    def read(self, inputs, targets, states=None):
        features, states = self.encoder(inputs, states)
        return features, targets, states

    def adapt(self, features: torch.Tensor) -> torch.Tensor:
        return features


def test_each_sequence_has_its_own_probability_in_the_order_given():
    model = make()
    expected = [alone(model, ids) for ids in SEQUENCES]
    assert len({round(nats, 3) for nats in expected}) == len(SEQUENCES)
    for batch_size in (1, 2, 64):
        nats = score(model, SEQUENCES, batch_size=batch_size)
        assert nats == pytest.approx(expected, rel=1e-5), batch_size


def test_a_uniform_model_gives_each_token_one_eighth():
    nats = score(RecordingModel(), SEQUENCES)
    assert nats == pytest.approx([-len(ids) * math.log(8) for ids in SEQUENCES])


def test_a_backward_model_reads_from_the_last_token_and_eos_stays_last():
    model = make("backward")
    nats = score(model, SEQUENCES, batch_size=3)
    assert nats == pytest.approx([alone(model, ids) for ids in REVERSED], rel=1e-5)
    assert nats[0] != pytest.approx(alone(model, SEQUENCES[0]), rel=1e-3)


def test_the_log_probabilities_of_both_directions_are_added():
    model = make("both")
    expected = [alone(model, *columns) for columns in zip(SEQUENCES, REVERSED, strict=True)]
    assert score(model, SEQUENCES, batch_size=3) == pytest.approx(expected, rel=1e-5)


def test_short_sequences_come_first_and_reversed_ones_after_all_others():
    forward = [[EOS, EOS, EOS], [EOS, 2, 3]]
    backward = [[EOS, EOS, EOS], [EOS, 4, 3]]
    for direction, columns in {
        "forward": forward,
        "backward": backward,
        "both": forward + backward,
    }.items():
        model = RecordingModel(direction)
        score(model, [[2, 3, 4], [5]])
        assert model.texts_read == [columns], direction


def test_a_long_sequence_is_read_in_windows_with_the_state_carried(monkeypatch):
    for direction in ("forward", "both"):
        with monkeypatch.context() as patch:
            at_once = score(make(direction), SEQUENCES)
            patch.setattr(log_probabilities, "_TOKENS_PER_WINDOW", 20)
            in_windows = score(make(direction), SEQUENCES)
            assert in_windows == pytest.approx(at_once, rel=1e-5), direction


def test_dropout_is_off_even_if_the_model_is_in_training():
    model = make(output_dropout=0.5)
    expected = score(model, SEQUENCES)
    assert score(model.train(), SEQUENCES) == expected
    assert model.training


def test_an_empty_sequence_has_probability_one():
    assert score(make(), [[], [2], []])[::2] == [0.0, 0.0]
    assert score(make(), [[]]) == [0.0]
    assert score(make(), []) == []


def test_an_error_restores_the_mode_of_the_model():
    model = make().train()
    with pytest.raises(IndexError):
        sequence_log_probabilities(model, [[10**6]], eos=EOS, device=CPU)
    assert model.training
