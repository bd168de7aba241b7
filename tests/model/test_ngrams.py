"""Embeddings of n-grams: the hash by hand, and n-grams as a part of the model's state."""

import torch
from small_models import CPU, VOCABULARY, make_model

from charlm.config.model import Model
from charlm.data.tokenizer import EOS
from charlm.model.descriptions import describe_weights
from charlm.model.language_model import named_weights
from charlm.model.log_probabilities import sequence_log_probabilities
from charlm.model.ngrams import FACTOR, PRIME, NgramEmbedding
from charlm.sampling.stepper import Stepper

NGRAMS = {"ngrams": 4, "ngram_buckets": 50, "ngram_width": 3}


def ids_of(time: int, batch: int = 3) -> torch.Tensor:
    """Return random ids, <EOS> among them."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, VOCABULARY, (time, batch), generator=generator)


def test_rows_are_those_of_the_hash_computed_by_hand():
    tables = NgramEmbedding(order=3, buckets=10, row_width=2)
    rows, last = tables(torch.tensor([[5], [7], [EOS], [6]]), torch.tensor([[2.0, 3.0]]))
    cases = [  # The token before each token, and the one before that.
        (5, 3, 2),
        (7, 5, 3),
        (EOS, EOS, EOS),
        (6, EOS, EOS),
    ]
    for number, (token, before, second) in enumerate(cases):
        two = (token * FACTOR + before) % PRIME
        three = (two * FACTOR + second) % PRIME
        expected = torch.cat([tables.weight[two % 10], tables.weight[10 + three % 10]])
        assert torch.equal(rows[number, 0], expected), number
    assert last.tolist() == [[EOS, 6]]


def test_the_hash_stays_exact_in_floating_point_numbers():
    assert (PRIME - 1) * FACTOR + 2**24 < 2**53
    assert all(PRIME % divisor for divisor in range(2, int(PRIME**0.5) + 1))


def test_windows_with_carried_state_equal_one_long_window_and_steps():
    ids = ids_of(24, batch=4)
    for options in ({}, {"num_layers": 2, "layer_norm": True}, {"direction": "both"}):
        model = make_model(**NGRAMS, **options)
        whole, states = model(ids)
        parts, carried = [], None
        for window in ids.split([1, 2, 5, 16]):
            logits, carried = model(window, carried)
            parts.append(logits)
        torch.testing.assert_close(torch.cat(parts), whole)
        for state, expected in zip(carried, states, strict=True):
            torch.testing.assert_close(state, expected)
        if model.direction == "both":
            continue
        step, states = Stepper(model), model.initial_states(4)
        for number, token in enumerate(ids):
            logits, states = step(token, states)
            torch.testing.assert_close(logits, whole[number])


def test_both_directions_have_the_ngrams_of_their_own_columns():
    model = make_model(direction="both", **NGRAMS)
    ids = ids_of(12, batch=4)
    whole, _ = model(ids)
    for number, network in enumerate(model.split_directions()):
        alone, _ = network(ids[:, 2 * number : 2 * number + 2])
        torch.testing.assert_close(alone, whole[:, 2 * number : 2 * number + 2])


def test_a_later_token_does_not_change_earlier_logits():
    model = make_model(**NGRAMS)
    ids = ids_of(12)
    changed = ids.clone()
    changed[7] = (ids[7] + 1) % VOCABULARY
    before, after = model(ids)[0], model(changed)[0]
    assert torch.equal(before[:7], after[:7])
    assert not torch.equal(before[7], after[7])


def test_no_ngram_crosses_the_start_of_a_sequence():
    tables = NgramEmbedding(order=4, buckets=1000, row_width=2)
    one, _ = tables(torch.tensor([[2], [3], [EOS], [4], [5], [6]]), torch.zeros(1, 3))
    other, _ = tables(torch.tensor([[7], [EOS], [EOS], [4], [5], [6]]), torch.zeros(1, 3))
    assert torch.equal(one[2:], other[2:])
    start, _ = tables(torch.tensor([[EOS], [4], [5], [6]]), torch.zeros(1, 3))
    assert torch.equal(one[2:], start)
    assert not torch.equal(one[1], other[1])


def test_a_sequence_scores_the_same_alone_and_beside_others():
    model = make_model(**NGRAMS)
    sequences = [[2, 3, 4, EOS], [5, EOS], [6, 7, 2, 3, 4, 5]]
    together = sequence_log_probabilities(model, sequences, eos=EOS, device=CPU)
    for sequence, expected in zip(sequences, together, strict=True):
        (alone,) = sequence_log_probabilities(model, [sequence], eos=EOS, device=CPU)
        assert abs(alone - expected) < 1e-5


def test_an_id_keeps_its_rows_when_the_vocabulary_grows():
    torch.manual_seed(1)
    ids = ids_of(6)
    last = torch.zeros(3, 3)
    small = make_model(**NGRAMS).encoder.ngrams
    large = make_model(vocabulary_size=2 * VOCABULARY, **NGRAMS).encoder.ngrams
    large.load_state_dict(small.state_dict())
    assert torch.equal(small(ids, last)[0], large(ids, last)[0])


def test_dropout_drops_whole_rows_and_only_in_training():
    tables = NgramEmbedding(order=3, buckets=50, row_width=4, dropout=0.5)
    ids, last = ids_of(30), torch.zeros(3, 2)
    kept, _ = tables.eval()(ids, last)
    rows, _ = tables.train()(ids, last)
    scale = (rows / kept).unflatten(-1, (2, 4))
    assert torch.allclose(scale, scale[..., :1].expand_as(scale))
    assert {round(value, 3) for value in scale.flatten().tolist()} == {0.0, 2.0}


def test_a_model_without_ngrams_is_unchanged_and_the_tables_have_a_description():
    names = [name for name, _ in named_weights(make_model())]
    assert "ngrams.weight" not in names
    assert Model().ngrams == 0
    assert "rows of the hash tables of n-grams" in list(
        describe_weights(make_model(**NGRAMS), "lstm")
    )
