"""How probable whole sequences are, whatever they are read beside and whichever way."""

import math

import pytest
import torch

from charlm.config.schema import Model, Tokenizer
from charlm.data.tokenizer import EOS, learn_tokenizer
from charlm.errors import CharlmError, CorpusError
from charlm.evaluation import sentences
from charlm.evaluation.sentences import (
    Sentence,
    Sentences,
    log_probabilities,
    read_sentences,
    score_sentences,
)
from charlm.model.language_model import LanguageModel

CPU = torch.device("cpu")
VOCABULARY = 8
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
    model = LanguageModel(
        Model(hidden_size=8, embedding_size=4, direction=direction, **options), VOCABULARY
    ).eval()
    with torch.no_grad():
        model.projection.weight *= 8
    return model


def alone(model: torch.nn.Module, *columns: list[int]) -> float:
    """Return the log-probability of one sequence, in as many readings as the model has directions."""
    targets = torch.tensor(columns).T
    inputs = torch.cat([torch.full_like(targets[:1], EOS), targets[:-1]])
    with torch.no_grad():
        logits, _ = model(inputs)
    return float(logits.double().log_softmax(dim=-1).gather(-1, targets.unsqueeze(-1)).sum())


class Recorder(torch.nn.Module):
    """A model that holds all tokens equally probable and keeps what it reads."""

    def __init__(self, direction: str) -> None:
        super().__init__()
        self.direction, self.read = direction, []

    def forward(self, ids: torch.Tensor, states: object = None) -> tuple[torch.Tensor, object]:
        self.read.append(ids.T.tolist())
        return torch.zeros(*ids.shape, VOCABULARY), ()


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_each_sequence_has_the_probability_it_has_alone_in_the_order_given(batch_size):
    model = make()
    found = log_probabilities(model, SEQUENCES, device=CPU, batch_size=batch_size)
    assert found == pytest.approx([alone(model, ids) for ids in SEQUENCES], rel=1e-5)
    assert len({round(nats, 3) for nats in found}) == len(SEQUENCES)


def test_a_uniform_model_gives_each_token_one_eighth():
    found = log_probabilities(Recorder("forward"), SEQUENCES, device=CPU)
    assert found == pytest.approx([-len(ids) * math.log(8) for ids in SEQUENCES])


def test_a_backward_model_reads_from_the_last_token_and_the_end_stays_the_end():
    model = make("backward")
    found = log_probabilities(model, SEQUENCES, device=CPU, batch_size=3)
    assert found == pytest.approx([alone(model, ids) for ids in REVERSED], rel=1e-5)
    assert found[0] != pytest.approx(alone(model, SEQUENCES[0]), rel=1e-3)


def test_both_directions_are_added_up():
    model = make("both")
    found = log_probabilities(model, SEQUENCES, device=CPU, batch_size=3)
    expected = [alone(model, *both) for both in zip(SEQUENCES, REVERSED, strict=True)]
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("direction", "columns"),
    [
        ("forward", [[EOS, EOS, EOS], [EOS, 2, 3]]),
        ("backward", [[EOS, EOS, EOS], [EOS, 4, 3]]),
        ("both", [[EOS, EOS, EOS], [EOS, 2, 3], [EOS, EOS, EOS], [EOS, 4, 3]]),
    ],
)
def test_short_ones_come_first_and_the_reversed_ones_after_all_others(direction, columns):
    model = Recorder(direction)
    log_probabilities(model, [[2, 3, 4], [5]], device=CPU)
    assert model.read == [columns]


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_a_long_sequence_is_read_in_windows_with_the_state_carried(monkeypatch, direction):
    model = make(direction)
    at_once = log_probabilities(model, SEQUENCES, device=CPU)
    monkeypatch.setattr(sentences, "_TOKENS_AT_ONCE", 20)
    assert log_probabilities(model, SEQUENCES, device=CPU) == pytest.approx(at_once, rel=1e-5)


def test_dropout_rests_while_a_model_in_training_is_asked():
    model = make(output_dropout=0.5)
    expected = log_probabilities(model, SEQUENCES, device=CPU)
    assert log_probabilities(model.train(), SEQUENCES, device=CPU) == expected
    assert model.training


def test_an_empty_sequence_is_certain_and_no_sequences_give_none():
    assert log_probabilities(make(), [[], [2], []], device=CPU)[::2] == [0.0, 0.0]
    assert log_probabilities(make(), [[]], device=CPU) == [0.0]
    assert log_probabilities(make(), [], device=CPU) == []


def scored(
    lines: list[str], *, ends: bool, explain: bool = True, model: LanguageModel | None = None
) -> list[Sentence]:
    tokenizer = learn_tokenizer(["abcdef"], Tokenizer(level="char"))
    return score_sentences(
        model or make(),
        tokenizer,
        list(enumerate(lines, 1)),
        ends=ends,
        explain=explain,
        device=CPU,
    )


def test_a_sentence_costs_what_its_tokens_cost_each_with_its_own_probability():
    one, other = scored(["abc", "fz"], ends=True)
    assert one.log_probability == pytest.approx(alone(make(), [2, 3, 4, EOS]), rel=1e-5)
    assert (one.tokens, one.unknown, other.tokens, other.unknown) == (4, 0, 3, 1)
    assert one.log_probability_per_token == pytest.approx(one.log_probability / 4)
    for sentence, texts in ((one, ["a", "b", "c", "<EOS>"]), (other, ["f", "<UNK>", "<EOS>"])):
        assert [token["text"] for token in sentence.explained] == texts
        assert sum(token["log_probability"] for token in sentence.explained) == pytest.approx(
            sentence.log_probability, rel=1e-5
        )
        assert math.prod(token["probability"] for token in sentence.explained) == pytest.approx(
            math.exp(sentence.log_probability), rel=1e-4
        )


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_first_letter_read_has_its_probability_after_nothing(direction):
    (sentence,) = scored(["ab"], ends=False, model=make(direction))
    first = sentence.explained[0 if direction == "forward" else 1]
    assert first["log_probability"] == pytest.approx(
        alone(make(direction), [first["token"]]), rel=1e-5
    )
    assert sentence.log_probability == pytest.approx(
        sum(token["log_probability"] for token in sentence.explained)
    )


def test_a_model_that_reads_both_ways_ranks_but_cannot_explain():
    (sentence,) = scored(["ab"], ends=True, explain=False, model=make("both"))
    assert sentence.log_probability == pytest.approx(
        alone(make("both"), [2, 3, EOS], [3, 2, EOS]), rel=1e-5
    )
    with pytest.raises(CharlmError, match="both"):
        scored(["ab"], ends=True, model=make("both"))


def test_the_most_probable_come_first_and_equals_in_the_order_of_their_lines():
    rows = [
        Sentence(line, "", nats, nats, 1, 0)
        for line, nats in ((1, -3.0), (2, -1.0), (3, -3.0), (4, -2.0))
    ]
    assert [row.line for row in Sentences(rows, {}).ranked()] == [2, 4, 1, 3]


def test_sentences_are_read_a_line_each_with_its_number(tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_bytes("\ufeffà la carte\r\n\n  \n two ".encode())
    assert read_sentences(path) == [(1, "à la carte"), (4, " two ")]


@pytest.mark.parametrize(
    ("contents", "problem"), [(b"\n \n", "holds no sentence"), (b"caf\xe9", "byte 3 .0xe9. is not")]
)
def test_a_file_without_sentences_is_told(tmp_path, contents, problem):
    path = tmp_path / "sentences.txt"
    path.write_bytes(contents)
    with pytest.raises(CorpusError, match=f"^{path}: {problem}[^\n]*$"):
        read_sentences(path)
    with pytest.raises(CorpusError, match="cannot be read: Is a directory"):
        read_sentences(tmp_path)
