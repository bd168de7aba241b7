"""Tokens are drawn from the distribution that the model gives, each sequence by random numbers of its own."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config.schema import Model
from charlm.data.tokenizer import EOS, UNK
from charlm.errors import CharlmError, CheckpointError
from charlm.model.language_model import LanguageModel
from charlm.sampling import generator as generate_module
from charlm.sampling.generator import Generator, Settings, draw, generate
from charlm.sampling.saved_state import place_from_bytes, place_to_bytes, weights_checksum
from charlm.sampling.stepper import Stepper

VOCABULARY = 9


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(1)
    made = LanguageModel(Model(hidden_size=8, embedding_size=4), VOCABULARY).eval()
    with torch.no_grad():
        made.projection.weight *= (
            8  # Less even than an untrained model, so that tokens depend on what came before.
        )
    return made


def tokens_of(
    model: LanguageModel, prompt: list[int], numbers: list[int], **options: object
) -> list[list[int | None]]:
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
    assert [drawn(logits, uniform, Settings()) for uniform, _ in places] == [
        token for _, token in places
    ]


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
    logits=st.lists(st.floats(-40, 40), min_size=3, max_size=12),
    uniform=st.floats(0, 1, exclude_max=True),
    temperature=st.floats(0.05, 20),
    top_k=st.none() | st.integers(1, 14),
    top_p=st.none() | st.floats(0.001, 1),
)
def test_what_is_drawn_was_left_by_the_filters_and_is_never_unk(
    logits, uniform, temperature, top_k, top_p
):
    token = drawn(row(*logits), uniform, Settings(temperature, top_k, top_p))
    # What the temperature's division makes equal is as probable.
    better = sum(logit > logits[token] + 1e-9 for index, logit in enumerate(logits) if index != UNK)
    assert 0 <= token < len(logits)
    assert token != UNK
    assert top_k is None or better < top_k


@settings(max_examples=100, deadline=None)
@given(
    logits=st.lists(st.floats(-40, 40), min_size=3, max_size=12),
    uniform=st.floats(0, 1, exclude_max=True),
)
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
@given(
    logits=st.lists(st.floats(-40, 40), min_size=3, max_size=12),
    uniform=st.floats(0, 1, exclude_max=True),
)
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
    assert (
        list(
            generate(
                model, [2], numbers=[0], length=0, settings=Settings(), seed=1, stops_at_eos=False
            )
        )
        == []
    )


def test_the_model_learns_nothing_from_writing(model):
    tokens_of(model, [], [0])
    assert all(parameter.grad is None for parameter in model.parameters())


# writing


def written(
    model: LanguageModel, prompt: list[int], numbers: list[int], length: int = 30, **options: object
) -> Generator:
    """Return what wrote so many tokens of each sequence."""
    fields = {"settings": Settings(), "seed": 1, "stops_at_eos": False} | options
    writing = Generator(model, prompt, numbers=numbers, **fields)
    for _ in range(length):
        writing.advance()
    return writing


EVERYTHING = Settings(
    temperature=1.3,
    top_k=7,
    top_p=0.95,
    min_p=0.01,
    typical=0.95,
    epsilon=0.01,
    eta=0.02,
    repetition_penalty=1.2,
    repetition_window=6,
    no_repeat_ngram=4,
)


@pytest.mark.parametrize("chosen", [Settings(), Settings(temperature=0), EVERYTHING])
def test_a_sequence_is_the_same_alone_and_in_a_batch_of_fifty(model, chosen):
    together = tokens_of(model, [5, 3], list(range(50)), settings=chosen)
    for number in (0, 17, 49):
        assert tokens_of(model, [5, 3], [number], settings=chosen) == [together[number]]


def test_a_long_prompt_is_read_in_pieces_to_the_same_end(model, monkeypatch):
    prompt = np.random.default_rng(1).integers(2, VOCABULARY, 50).tolist()
    whole = tokens_of(model, prompt, [0, 1])
    monkeypatch.setattr(generate_module, "_READ_AT_ONCE", 7)
    assert tokens_of(model, prompt, [0, 1]) == whole


def test_frequencies_of_a_long_text_match_the_model_s_distribution():
    """Of a model whose distribution does not depend on what it read, so that all tokens are drawn from one."""
    torch.manual_seed(2)
    model = LanguageModel(Model(hidden_size=4, embedding_size=4), VOCABULARY).eval()
    with torch.no_grad():
        model.projection.weight.zero_()
        model.projection.bias.copy_(torch.randn(VOCABULARY))
        probabilities = model.projection.bias.double().softmax(0).numpy().copy()
    probabilities[UNK] = 0
    probabilities /= probabilities.sum()
    counts = np.bincount(
        np.concatenate(written(model, [], list(range(200)), length=100).written),
        minlength=VOCABULARY,
    )
    possible = probabilities > 0
    expected = 20_000 * probabilities[possible]
    assert counts[UNK] == 0
    assert ((counts[possible] - expected) ** 2 / expected).sum() < 24.3  # Seven degrees of freedom.


def test_pairs_of_tokens_match_what_the_model_says_of_the_second_after_the_first(model):
    """Chi-square of the second token, given the first, against the model's own distribution."""
    writing = written(model, [4], list(range(6000)), length=2)
    pairs = np.array(writing.written)
    first = int(np.bincount(pairs[:, 0]).argmax())
    with torch.no_grad():
        logits = model(torch.tensor([[EOS], [4], [first]]))[0][-1, 0].double()
    logits[UNK] = -math.inf
    probabilities = logits.softmax(0).numpy()
    found = np.bincount(pairs[pairs[:, 0] == first, 1], minlength=VOCABULARY)
    expected = found.sum() * probabilities
    usual = expected >= 5
    rare = [found[~usual].sum(), expected[~usual].sum()]
    chi_square = ((found[usual] - expected[usual]) ** 2 / expected[usual]).sum()
    assert (
        chi_square + (rare[0] - rare[1]) ** 2 / max(rare[1], 1e-9) < 26.1
    )  # At most eight degrees of freedom.


def test_log_probabilities_are_the_model_s_own_before_filters(model):
    writing = written(model, [3], [0, 1], settings=EVERYTHING, scored=True)
    for ids, found in zip(writing.written, writing.log_probabilities(), strict=True):
        read = torch.tensor([EOS, 3, *ids])[:, None]
        with torch.no_grad():
            all_of_them = model(read[:-1])[0][:, 0].double().log_softmax(dim=-1)
        assert found == pytest.approx(
            [float(all_of_them[1 + at, token]) for at, token in enumerate(ids)], abs=1e-5
        )


def test_an_ended_sequence_has_as_many_log_probabilities_as_tokens(model):
    writing = written(model, [], list(range(6)), stops_at_eos=True, scored=True)
    assert any(len(ids) < 30 for ids in writing.written)
    assert [len(each) for each in writing.log_probabilities()] == [
        len(ids) for ids in writing.written
    ]


@pytest.mark.parametrize("chosen", [Settings(), EVERYTHING])
@pytest.mark.parametrize("chapters", [[100, 100], [70, 1, 64, 65]])
def test_chapters_are_the_text_told_at_once(model, chosen, chapters):
    whole = written(model, [4, 5], [3], length=200, settings=chosen).written[0]
    place, told = None, []
    for number, length in enumerate(chapters):
        writing = written(
            model, [] if number else [4, 5], [3], length=length, settings=chosen, place=place
        )
        place = writing.place()
        told += writing.written[0]
    assert told == whole
    assert place.ids == [4, 5, *whole]


def test_a_place_is_kept_in_a_file_to_the_bit(model):
    place = written(model, [4], [2], length=9).place(told=3)
    data = place_to_bytes(place, weights_checksum(model))
    again = place_from_bytes(data, model, "x")
    assert again.ids == place.ids and (again.seed, again.number, again.drawn, again.told) == (
        1,
        2,
        9,
        3,
    )
    for ours, theirs in zip(again.states, place.states, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for damaged in (data[:100], data[:-1], b"", b"{}"):
        with pytest.raises(CheckpointError, match="x: is no state"):
            place_from_bytes(damaged, model, "x")


def test_a_place_of_another_model_is_refused(model):
    other = LanguageModel(Model(hidden_size=8, embedding_size=4), VOCABULARY)
    data = place_to_bytes(written(model, [], [0], length=2).place(), weights_checksum(model))
    with pytest.raises(CheckpointError, match="another model"):
        place_from_bytes(data, other, "x")


def test_going_on_with_another_seed_and_with_a_prompt_reads_both(model):
    place = written(model, [4], [0], length=5).place()
    on = written(
        model, [6, 7], [0], length=5, place=place, settings=Settings(temperature=0)
    ).written[0]
    once = tokens_of(model, [*place.ids, 6, 7], [0], length=5, settings=Settings(temperature=0))[0]
    assert on == once
    assert (
        written(model, [], [0], place=place, seed=2).written
        != written(model, [], [0], place=place).written
    )


class Alternating:
    """Even tokens at even places, odd ones at odd: a constraint with a state for each sequence."""

    def __init__(self, batch: int) -> None:
        self.lengths = [0] * batch

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        odd = torch.arange(logits.shape[1]) % 2
        forbidden = torch.stack([odd != length % 2 for length in self.lengths])
        return logits.masked_fill(forbidden, -math.inf)

    def advance(self, tokens: list[int | None]) -> None:
        self.lengths = [
            length + (token is not None) for length, token in zip(self.lengths, tokens, strict=True)
        ]


def test_a_constraint_is_kept_by_every_sequence(model):
    for tokens in tokens_of(model, [], [0, 1, 2], constraints=[Alternating(3)]):
        assert all(token % 2 == at % 2 for at, token in enumerate(tokens))


def test_a_constraint_that_leaves_nothing_is_told_and_one_that_has_ended_is_not_asked(model):
    class Nothing(Alternating):
        def mask(self, logits: torch.Tensor) -> torch.Tensor:
            return torch.stack(
                [
                    torch.full_like(row, -math.inf) if length == 3 else row
                    for row, length in zip(logits, self.lengths, strict=True)
                ]
            )

    with pytest.raises(CharlmError, match="after 3 tokens the bans and constraints leave nothing"):
        tokens_of(model, [], [0, 1], constraints=[Nothing(2)])
    writing = Generator(
        model,
        [],
        numbers=[0, 1],
        settings=Settings(),
        seed=1,
        stops_at_eos=False,
        constraints=[Nothing(2)],
    )
    for _ in range(3):
        writing.advance()
    writing.stop(0)
    writing.stop(1)
    assert writing.advance() == [None, None]


def test_a_step_of_one_s_own_takes_the_model_s_place(model):
    asked = []

    def step(ids, states):
        asked.append(tuple(ids.shape))
        return Stepper(model)(ids, states)

    assert tokens_of(model, [4, 5], [0, 1, 2], step=step) == tokens_of(model, [4, 5], [0, 1, 2])
    assert asked == [(3,)] * 30


def test_the_same_seed_writes_the_same_in_another_process(model):
    program = f"""
import torch
from charlm.config.schema import Model
from charlm.model.language_model import LanguageModel
from charlm.sampling.stepper import Stepper
from charlm.sampling.generator import Settings, generate
torch.set_num_threads(1)
torch.manual_seed(1)
model = LanguageModel(Model(hidden_size=8, embedding_size=4), {VOCABULARY}).eval()
with torch.no_grad():
    model.projection.weight *= 8
steps = generate(model, [5], numbers=range(3), length=30, settings=Settings(top_p=0.9), seed=1, stops_at_eos=False)
print([list(column) for column in zip(*steps)])
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert found.strip() == str(tokens_of(model, [5], [0, 1, 2], settings=Settings(top_p=0.9)))


class Marked(Alternating):
    """One that can go back."""

    def mark(self) -> list[int]:
        return self.lengths

    def back(self, mark: list[int]) -> None:
        self.lengths = mark


@pytest.mark.parametrize(
    "chosen", [Settings(temperature=0), Settings(temperature=0, no_repeat_ngram=2)]
)
def test_what_is_taken_back_leaves_no_trace_but_in_the_random_numbers(model, chosen):
    """Greedy, so that the same tokens come again whatever the random numbers."""
    whole = written(
        model, [4], [0], length=20, settings=chosen, constraints=[Marked(1)], scored=True
    )
    writing = written(
        model, [4], [0], length=8, settings=chosen, constraints=[Marked(1)], scored=True
    )
    mark = writing.mark()
    for _ in range(7):
        writing.advance()
    writing.stop(0)
    writing.back(mark)
    assert writing.running[0]
    for _ in range(12):
        writing.advance()
    assert writing.written == whole.written
    assert writing.log_probabilities() == whole.log_probabilities()
    assert writing.place().drawn == 27


def test_another_token_can_come_where_one_was_taken_back(model):
    writing = written(model, [4], [0], length=3)
    mark, found = writing.mark(), set()
    for _ in range(40):
        found.add(writing.advance()[0])
        writing.back(mark)
    assert len(found) > 1 and len(writing.written[0]) == 3
