"""Tokens are drawn from the distribution that the model gives, each sequence by random numbers of its own."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config import Model
from charlm.data.tokenizer import EOS, UNK
from charlm.model.language_model import LanguageModel
from charlm.sampling.generate import Settings, draw, generate

VOCABULARY = 9


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(1)
    made = LanguageModel(Model(hidden_size=8, embedding_size=4), VOCABULARY).eval()
    with torch.no_grad():
        made.projection.weight *= 8  # Less even than an untrained model, so that tokens depend on what came before.
    return made


def tokens_of(model: LanguageModel, prompt: list[int], numbers: list[int], **options: object) -> list[list[int | None]]:
    """Return the tokens of each sequence."""
    fields = {"length": 30, "settings": Settings(), "seed": 1, "stops_at_eos": False} | options
    steps = list(generate(model, prompt, numbers=numbers, **fields))
    return [list(column) for column in zip(*steps, strict=True)]


def row(*logits: float) -> torch.Tensor:
    return torch.tensor([logits], dtype=torch.float64)


def drawn(logits: torch.Tensor, uniform: float, chosen: Settings) -> int:
    return int(draw(logits.clone(), torch.tensor([uniform], dtype=torch.float64), chosen))


# draw


def test_a_token_is_drawn_by_inverting_the_cumulative_distribution():
    logits = row(0.25, 1.0, 0.5, 0.25).log()  # Without <UNK>: 1/4, 1/2, 1/4.
    places = [(0.0, 0), (0.24, 0), (0.26, 2), (0.74, 2), (0.76, 3), (1 - 1e-16, 3)]
    assert [drawn(logits, uniform, Settings()) for uniform, _ in places] == [token for _, token in places]


def test_frequencies_match_the_distribution():
    probabilities = np.array([0.05, 0.0, 0.4, 0.3, 0.2, 0.04, 0.01])
    logits = torch.tensor(probabilities).log().expand(20_000, -1).clone()
    uniform = torch.from_numpy(np.random.default_rng(1).random(20_000))
    counts = np.bincount(draw(logits, uniform, Settings()).numpy(), minlength=7)
    expected = 20_000 * probabilities
    possible = expected > 0
    chi_square = (((counts - expected) ** 2)[possible] / expected[possible]).sum()
    assert counts[~possible].sum() == 0
    assert chi_square < 20.5  # Five degrees of freedom: one seed in a thousand exceeds it.


@settings(max_examples=150, deadline=None)
@given(
    logits=st.lists(st.floats(-40, 40), min_size=3, max_size=12), uniform=st.floats(0, 1, exclude_max=True),
    temperature=st.floats(0.05, 20), top_k=st.none() | st.integers(1, 14), top_p=st.none() | st.floats(0.001, 1),
)  # fmt: skip
def test_what_is_drawn_was_left_by_the_filters_and_is_never_unk(logits, uniform, temperature, top_k, top_p):
    token = drawn(row(*logits), uniform, Settings(temperature, top_k, top_p))
    better = sum(logit > logits[token] for index, logit in enumerate(logits) if index != UNK)
    assert 0 <= token < len(logits)
    assert token != UNK
    assert top_k is None or better < top_k


@settings(max_examples=100, deadline=None)
@given(logits=st.lists(st.floats(-40, 40), min_size=3, max_size=12), uniform=st.floats(0, 1, exclude_max=True))
def test_temperature_zero_takes_the_most_probable_that_is_not_unk(logits, uniform):
    known = [index for index in range(len(logits)) if index != UNK]
    token = drawn(row(*logits), uniform, Settings(temperature=0))
    assert token == max(known, key=lambda index: logits[index])
    distinct = sorted(logits[index] for index in known)
    if distinct[-1] - distinct[-2] > 1e-3:
        assert token == drawn(row(*logits), uniform, Settings(temperature=1e-6))
        assert token == drawn(row(*logits), uniform, Settings(top_k=1))
        assert token == drawn(row(*logits), uniform, Settings(top_p=1e-9))


@settings(max_examples=60, deadline=None)
@given(logits=st.lists(st.floats(-40, 40), min_size=3, max_size=12), uniform=st.floats(0, 1, exclude_max=True))
def test_a_p_of_one_and_a_k_of_the_vocabulary_are_off(logits, uniform):
    plain = drawn(row(*logits), uniform, Settings())
    assert plain == drawn(row(*logits), uniform, Settings(top_p=1.0))
    assert plain == drawn(row(*logits), uniform, Settings(top_k=len(logits)))


def test_filters_are_applied_after_the_temperature():
    logits = row(0.6, 0.001, 0.3, 0.1).log()
    assert drawn(logits, 0.999, Settings(top_p=0.65)) == 2
    assert drawn(logits, 0.999, Settings(temperature=0.25, top_p=0.65)) == 0
    assert drawn(logits, 0.999, Settings(temperature=4.0, top_p=0.9)) == 3


def test_drawing_leaves_the_logits_alone():
    logits = row(0.0, 1.0, 2.0)
    draw(logits, torch.zeros(1, dtype=torch.float64), Settings())
    assert logits.tolist() == [[0.0, 1.0, 2.0]]


# generate


def test_greedy_tokens_are_those_of_reading_the_whole_text_again(model):
    (tokens,) = tokens_of(model, [3, 4], [0], settings=Settings(temperature=0))
    read = [EOS, 3, 4]
    for token in tokens:
        with torch.no_grad():
            logits = model(torch.tensor(read)[:, None])[0][-1, 0]
        logits[UNK] = -math.inf
        assert token == int(logits.argmax())
        read.append(token)


def test_a_sequence_is_the_same_alone_and_beside_others(model):
    together = tokens_of(model, [5], [0, 1, 2, 3, 4])
    assert [tokens_of(model, [5], [number])[0] for number in range(5)] == together
    assert tokens_of(model, [5], [3, 1]) == [together[3], together[1]]
    assert len({tuple(tokens) for tokens in together}) == 5


def test_one_seed_writes_one_text_and_another_writes_another(model):
    assert tokens_of(model, [], [0]) == tokens_of(model, [], [0])
    assert tokens_of(model, [], [0]) != tokens_of(model, [], [0], seed=2)


def test_another_prompt_leads_to_another_text(model):
    assert tokens_of(model, [2], [0], settings=Settings(temperature=0)) != tokens_of(
        model, [6], [0], settings=Settings(temperature=0)
    )


def test_unk_is_never_written_even_where_it_is_the_most_probable(model):
    with torch.no_grad():
        model.projection.bias[UNK] += 50
    try:
        written = tokens_of(model, [], list(range(8)))
    finally:
        with torch.no_grad():
            model.projection.bias[UNK] -= 50
    assert UNK not in {token for tokens in written for token in tokens}


def test_eos_ends_a_sequence_where_asked(model):
    free = tokens_of(model, [], list(range(6)))
    stopped = tokens_of(model, [], list(range(6)), stops_at_eos=True)
    assert any(EOS in tokens for tokens in free)
    longest = max(tokens.index(EOS) + 1 if EOS in tokens else len(tokens) for tokens in free)
    for with_eos, tokens in zip(free, stopped, strict=True):
        end = with_eos.index(EOS) + 1 if EOS in with_eos else len(with_eos)
        assert tokens == with_eos[:end] + [None] * (longest - end)


def test_writing_is_over_when_every_sequence_has_ended(model):
    with torch.no_grad():
        model.projection.bias[EOS] += 50
    try:
        written = tokens_of(model, [], [0, 1], stops_at_eos=True)
    finally:
        with torch.no_grad():
            model.projection.bias[EOS] -= 50
    assert written == [[EOS], [EOS]]


def test_no_length_is_no_token(model):
    assert list(generate(model, [2], numbers=[0], length=0, settings=Settings(), seed=1, stops_at_eos=False)) == []


def test_the_model_learns_nothing_from_writing(model):
    tokens_of(model, [], [0])
    assert all(parameter.grad is None for parameter in model.parameters())
