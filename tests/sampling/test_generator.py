"""Tokens are drawn from the model's distribution, each sequence with random numbers of its own."""

import math
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config.model import Model
from charlm.data.tokenizer import EOS, UNK
from charlm.errors import CharlmError, CheckpointError
from charlm.model.language_model import LanguageModel
from charlm.sampling import prompt_reader, threads
from charlm.sampling.batch import Batch, Step
from charlm.sampling.drawing import draw, without_unknown
from charlm.sampling.generator import Generator, GeneratorOptions, generate
from charlm.sampling.options import Filters
from charlm.sampling.prompt_reader import read_once
from charlm.sampling.saved_state import GenerationState, state_from_bytes, state_to_bytes
from charlm.sampling.stepper import Stepper

VOCABULARY = 9
ALL_FILTERS = Filters(
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
GREEDY = Filters(temperature=0)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(1)
    model = LanguageModel(Model(hidden_size=8, embedding_size=4), VOCABULARY).eval()
    with torch.no_grad():
        # Sharper than an untrained model, so that tokens depend on the text before them.
        model.projection.weight *= 8
    return model


def options_of(numbers: list[int], **options: object) -> tuple[GeneratorOptions, dict]:
    """Return generator options, and the remaining keyword arguments."""
    names = {field.name for field in fields(GeneratorOptions)}
    values = {"numbers": numbers, "seed": 1, "filters": Filters(temperature=1)}
    values |= {name: options.pop(name) for name in names & options.keys()}
    return GeneratorOptions(**values), options


def tokens_of(
    model: LanguageModel, prompt: list[int], numbers: list[int], length: int = 30, **options: object
) -> list[list[int | None]]:
    """Return the tokens of each sequence."""
    chosen, rest = options_of(numbers, **options)
    assert not rest
    steps = generate(model, prompt, chosen, length=length)
    return [list(column) for column in zip(*steps, strict=True)]


def generated(
    model: LanguageModel,
    prompt: list[int],
    numbers: list[int],
    length: int = 30,
    *,
    step: Step | None = None,
    **options: object,
) -> Generator:
    """Return a generator after some steps, each by a function in place of the model if one is given."""
    chosen, rest = options_of(numbers, **options)
    batch = None if step is None else Batch(model, step)
    generator = Generator(model, prompt, chosen, batch=batch, **rest)
    if batch is not None:
        generator.start(read_once(model, generator.unread[:-1]))
    for _ in range(length):
        generator.step()
    return generator


def row(*logits: float) -> torch.Tensor:
    return torch.tensor([logits], dtype=torch.float64)


def drawn(logits: torch.Tensor, uniform: float, filters: Filters) -> int:
    return int(draw_rows(logits, torch.tensor([uniform], dtype=torch.float64), filters))


def draw_rows(logits: torch.Tensor, uniform: torch.Tensor, filters: Filters) -> torch.Tensor:
    history = torch.empty((len(logits), 0), dtype=torch.int64)
    return draw(without_unknown(logits), uniform, filters, history)


# draw


def test_a_token_is_drawn_by_inverting_the_cumulative_distribution():
    logits = row(0.25, 1.0, 0.5, 0.25).log()  # Without <UNK>: 1/4, 1/2, 1/4.
    expected = [(0.0, 0), (0.24, 0), (0.26, 2), (0.74, 2), (0.76, 3), (1 - 1e-16, 3)]
    tokens = [drawn(logits, uniform, Filters(temperature=1)) for uniform, _ in expected]
    assert tokens == [token for _, token in expected]


def test_frequencies_match_the_distribution():
    probabilities = np.array([0.05, 0.0, 0.4, 0.3, 0.2, 0.04, 0.01])
    logits = torch.tensor(probabilities).log().expand(20_000, -1).clone()
    uniform = torch.from_numpy(np.random.default_rng(1).random(20_000))
    counts = np.bincount(draw_rows(logits, uniform, Filters(temperature=1)).numpy(), minlength=7)
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
def test_a_drawn_token_passes_the_filters_and_is_never_unk(
    logits, uniform, temperature, top_k, top_p
):
    token = drawn(row(*logits), uniform, Filters(temperature, top_k, top_p))
    # Logits that the division by the temperature makes equal are as probable.
    better = sum(logit > logits[token] + 1e-9 for index, logit in enumerate(logits) if index != UNK)
    assert 0 <= token < len(logits)
    assert token != UNK
    assert top_k is None or better < top_k


@settings(max_examples=100, deadline=None)
@given(
    logits=st.lists(st.floats(-40, 40), min_size=3, max_size=12),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_temperature_zero_takes_the_most_probable_token_except_unk(logits, uniform):
    known = [index for index in range(len(logits)) if index != UNK]
    token = drawn(row(*logits), uniform, GREEDY)
    assert token == max(known, key=lambda index: logits[index])
    distinct = sorted(logits[index] for index in known)
    if distinct[-1] - distinct[-2] > 1e-3:
        for filters in (
            Filters(temperature=1e-6),
            Filters(temperature=1, top_k=1),
            Filters(temperature=1, top_p=1e-9),
        ):
            assert token == drawn(row(*logits), uniform, filters), filters


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.floats(-40, 40), min_size=3, max_size=12),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_a_top_p_of_one_and_a_top_k_of_the_vocabulary_are_off(logits, uniform):
    plain = drawn(row(*logits), uniform, Filters(temperature=1))
    assert plain == drawn(row(*logits), uniform, Filters(temperature=1, top_p=1.0))
    assert plain == drawn(row(*logits), uniform, Filters(temperature=1, top_k=len(logits)))


def test_top_p_is_applied_after_the_temperature():
    logits = row(0.6, 0.001, 0.3, 0.1).log()
    assert drawn(logits, 0.999, Filters(temperature=1, top_p=0.65)) == 2
    assert drawn(logits, 0.999, Filters(temperature=0.25, top_p=0.65)) == 0
    assert drawn(logits, 0.999, Filters(temperature=4.0, top_p=0.9)) == 3


def test_drawing_does_not_change_the_logits():
    logits = row(0.0, 1.0, 2.0)
    draw_rows(logits, torch.zeros(1, dtype=torch.float64), Filters(temperature=1))
    assert logits.tolist() == [[0.0, 1.0, 2.0]]


# generate


def test_greedy_tokens_are_those_of_reading_the_whole_text_again(model):
    (tokens,) = tokens_of(model, [3, 4], [0], filters=GREEDY)
    ids = [EOS, 3, 4]
    for token in tokens:
        with torch.no_grad():
            logits = model(torch.tensor(ids)[:, None])[0][-1, 0]
        logits[UNK] = -math.inf
        assert token == int(logits.argmax())
        ids.append(token)


def test_a_sequence_is_the_same_alone_and_in_any_batch(model):
    for filters in (Filters(temperature=1), GREEDY, ALL_FILTERS):
        together = tokens_of(model, [5, 3], list(range(50)), filters=filters)
        for number in (0, 17, 49):
            (alone,) = tokens_of(model, [5, 3], [number], filters=filters)
            assert alone == together[number], (filters, number)
        assert tokens_of(model, [5, 3], [3, 1], filters=filters) == [together[3], together[1]]
        if filters.temperature > 0:
            assert len({tuple(tokens) for tokens in together[:5]}) == 5


def test_another_seed_writes_another_text(model):
    assert tokens_of(model, [], [0]) == tokens_of(model, [], [0])
    assert tokens_of(model, [], [0]) != tokens_of(model, [], [0], seed=2)


def test_another_prompt_leads_to_another_text(model):
    assert tokens_of(model, [2], [0], filters=GREEDY) != tokens_of(model, [6], [0], filters=GREEDY)


def test_unk_is_never_written_even_if_it_is_the_most_probable(model):
    with torch.no_grad():
        model.projection.bias[UNK] += 50
    try:
        written = tokens_of(model, [], list(range(8)))
    finally:
        with torch.no_grad():
            model.projection.bias[UNK] -= 50
    assert UNK not in {token for tokens in written for token in tokens}


def test_eos_ends_a_sequence_if_asked(model):
    free = tokens_of(model, [], list(range(6)))
    stopped = tokens_of(model, [], list(range(6)), stops_at_eos=True)
    assert any(EOS in tokens for tokens in free)
    longest = max(tokens.index(EOS) + 1 if EOS in tokens else len(tokens) for tokens in free)
    for with_eos, tokens in zip(free, stopped, strict=True):
        end = with_eos.index(EOS) + 1 if EOS in with_eos else len(with_eos)
        assert tokens == with_eos[:end] + [None] * (longest - end)


def test_generation_ends_when_every_sequence_has_ended(model):
    with torch.no_grad():
        model.projection.bias[EOS] += 50
    try:
        written = tokens_of(model, [], [0, 1], stops_at_eos=True)
    finally:
        with torch.no_grad():
            model.projection.bias[EOS] -= 50
    assert written == [[EOS], [EOS]]


def test_a_length_of_zero_writes_no_token(model):
    assert tokens_of(model, [2], [0], length=0) == []


def test_generation_computes_no_gradients(model):
    tokens_of(model, [], [0])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_long_prompt_is_read_in_windows_with_the_same_result(model, monkeypatch):
    prompt = np.random.default_rng(1).integers(2, VOCABULARY, 50).tolist()
    whole = tokens_of(model, prompt, [0, 1])
    monkeypatch.setattr(prompt_reader, "_WINDOW", 7)
    assert tokens_of(model, prompt, [0, 1]) == whole


def test_frequencies_of_long_texts_match_the_model_s_distribution():
    """The model's distribution does not depend on the text, so that all tokens have the same."""
    torch.manual_seed(2)
    model = LanguageModel(Model(hidden_size=4, embedding_size=4), VOCABULARY).eval()
    with torch.no_grad():
        model.projection.weight.zero_()
        model.projection.bias.copy_(torch.randn(VOCABULARY))
        probabilities = model.projection.bias.double().softmax(0).numpy().copy()
    probabilities[UNK] = 0
    probabilities /= probabilities.sum()
    texts = generated(model, [], list(range(200)), length=100).tokens
    counts = np.bincount(np.concatenate(texts), minlength=VOCABULARY)
    possible = probabilities > 0
    expected = 20_000 * probabilities[possible]
    assert counts[UNK] == 0
    assert ((counts[possible] - expected) ** 2 / expected).sum() < 24.3  # Seven degrees of freedom.


def test_pairs_of_tokens_match_the_model_s_distribution_of_the_second(model):
    """Chi-square of the second token, given the first, against the model's own distribution."""
    pairs = np.array(generated(model, [4], list(range(6000)), length=2).tokens)
    first = int(np.bincount(pairs[:, 0]).argmax())
    with torch.no_grad():
        logits = model(torch.tensor([[EOS], [4], [first]]))[0][-1, 0].double()
    logits[UNK] = -math.inf
    probabilities = logits.softmax(0).numpy()
    counts = np.bincount(pairs[pairs[:, 0] == first, 1], minlength=VOCABULARY)
    expected = counts.sum() * probabilities
    usual = expected >= 5
    rare = [counts[~usual].sum(), expected[~usual].sum()]
    chi_square = ((counts[usual] - expected[usual]) ** 2 / expected[usual]).sum()
    chi_square += (rare[0] - rare[1]) ** 2 / max(rare[1], 1e-9)
    assert chi_square < 26.1  # At most eight degrees of freedom.


def test_log_probabilities_are_the_model_s_own_before_filters(model):
    generator = generated(model, [3], [0, 1], filters=ALL_FILTERS, scored=True)
    for ids, scores in zip(generator.tokens, generator.log_probabilities, strict=True):
        inputs = torch.tensor([EOS, 3, *ids])[:, None]
        with torch.no_grad():
            log_p = model(inputs[:-1])[0][:, 0].double().log_softmax(dim=-1)
        expected = [float(log_p[1 + position, token]) for position, token in enumerate(ids)]
        assert scores == pytest.approx(expected, abs=1e-5)


def test_an_ended_sequence_has_as_many_log_probabilities_as_tokens(model):
    generator = generated(model, [], list(range(6)), stops_at_eos=True, scored=True)
    assert any(len(ids) < 30 for ids in generator.tokens)
    lengths = [len(scores) for scores in generator.log_probabilities]
    assert lengths == [len(ids) for ids in generator.tokens]


# Saved states


def continued(
    model: LanguageModel, lengths: list[int], **options: object
) -> tuple[list[int], GenerationState]:
    """Return a text that is written in parts, each from the state after the part before."""
    state, ids = None, []
    for length in lengths:
        prompt = [] if state else [4, 5]
        generator = generated(model, prompt, [3], length=length, state=state, **options)
        state = generator.generation_state()
        ids += generator.tokens[0]
    return ids, state


def test_a_text_written_in_parts_is_the_text_written_at_once(model):
    for filters in (Filters(temperature=1), ALL_FILTERS):
        whole = generated(model, [4, 5], [3], length=200, filters=filters).tokens[0]
        for lengths in ([100, 100], [70, 1, 64, 65]):
            ids, state = continued(model, lengths, filters=filters)
            assert ids == whole, (filters, lengths)
            assert state.ids == [4, 5, *whole]


def test_a_state_is_saved_to_the_bit_and_a_damaged_file_is_refused(model):
    state = generated(model, [4], [2], length=9).generation_state(num_shown=3)
    data = state_to_bytes(state, model)
    loaded = state_from_bytes(data, model, "x")
    assert loaded.ids == state.ids
    assert (loaded.seed, loaded.number, loaded.num_drawn, loaded.num_shown) == (1, 2, 9, 3)
    for ours, theirs in zip(loaded.states, state.states, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for damaged in (data[:100], data[:-1], b"", b"{}"):
        with pytest.raises(CheckpointError, match="x: is no saved state"):
            state_from_bytes(damaged, model, "x")


def test_a_state_of_another_model_is_refused(model):
    other = LanguageModel(Model(hidden_size=8, embedding_size=4), VOCABULARY)
    data = state_to_bytes(generated(model, [], [0], length=2).generation_state(), model)
    with pytest.raises(CheckpointError, match="another model"):
        state_from_bytes(data, other, "x")


def test_a_text_continues_with_another_prompt_and_another_seed(model):
    state = generated(model, [4], [0], length=5).generation_state()
    parts = generated(model, [6, 7], [0], length=5, state=state, filters=GREEDY).tokens
    assert parts == tokens_of(model, [*state.ids, 6, 7], [0], length=5, filters=GREEDY)
    other_seed = generated(model, [], [0], state=state, seed=2).tokens
    assert other_seed != generated(model, [], [0], state=state).tokens


# Constraints


class Alternating:
    """Even tokens at even positions, odd tokens at odd ones, with a state per sequence."""

    def __init__(self, batch: int) -> None:
        self.lengths = [0] * batch

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        odd = torch.arange(logits.shape[1]) % 2
        forbidden = torch.stack([odd != length % 2 for length in self.lengths])
        return logits.masked_fill(forbidden, -math.inf)

    def update(self, tokens: list[int | None]) -> None:
        self.lengths = [
            length + (token is not None) for length, token in zip(self.lengths, tokens, strict=True)
        ]

    def save(self) -> list[int]:
        return self.lengths

    def restore(self, saved: list[int]) -> None:
        self.lengths = saved


class NothingAfterThree(Alternating):
    """Forbids every token after three."""

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        rows = zip(logits, self.lengths, strict=True)
        return torch.stack(
            [torch.full_like(row, -math.inf) if length == 3 else row for row, length in rows]
        )


def test_every_sequence_obeys_a_constraint(model):
    for tokens in generated(model, [], [0, 1, 2], constraints=[Alternating(3)]).tokens:
        assert all(token % 2 == position % 2 for position, token in enumerate(tokens))


def test_a_constraint_that_leaves_no_token_is_an_error_unless_the_sequence_has_ended(model):
    with pytest.raises(CharlmError, match="after 3 tokens"):
        generated(model, [], [0, 1], constraints=[NothingAfterThree(2)])
    generator = generated(model, [], [0, 1], length=3, constraints=[NothingAfterThree(2)])
    generator.stop(0)
    generator.stop(1)
    assert generator.step() == [None, None]


def test_a_step_function_replaces_the_model(model):
    shapes = []

    def step(ids, states):
        shapes.append(tuple(ids.shape))
        return Stepper(model)(ids, states)

    found = generated(model, [4, 5], [0, 1, 2], step=step).tokens
    assert found == tokens_of(model, [4, 5], [0, 1, 2])
    assert shapes == [(3,)] * 30


def test_a_small_step_has_one_thread_and_leaves_the_number_of_threads_and_the_text(
    model, monkeypatch
):
    used = []

    def step(ids, states):
        used.append(torch.get_num_threads())
        return Stepper(model)(ids, states)

    expected = tokens_of(model, [4, 5], [0, 1, 2])
    torch.set_num_threads(2)
    try:
        assert generated(model, [4, 5], [0, 1, 2], step=step).tokens == expected
        assert set(used) == {1} and torch.get_num_threads() == 2
        used.clear()
        weights = sum(tensor.numel() for tensor in model.parameters())
        monkeypatch.setattr(threads, "_MIN_PARALLEL", 3 * weights)
        assert generated(model, [4, 5], [0, 1, 2], step=step).tokens == expected
        assert set(used) == {2} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_the_same_seed_writes_the_same_text_in_another_process(model):
    program = f"""
import torch
from charlm.config.model import Model
from charlm.model.language_model import LanguageModel
from charlm.sampling.generator import GeneratorOptions, generate
from charlm.sampling.options import Filters
torch.set_num_threads(1)
torch.manual_seed(1)
model = LanguageModel(Model(hidden_size=8, embedding_size=4), {VOCABULARY}).eval()
with torch.no_grad():
    model.projection.weight *= 8
steps = generate(model, [5], GeneratorOptions(range(3), 1, Filters(temperature=1, top_p=0.9)), length=30)
print([list(column) for column in zip(*steps)])
"""
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == str(
        tokens_of(model, [5], [0, 1, 2], filters=Filters(temperature=1, top_p=0.9))
    )


# Saving and restoring a generator


def test_restored_tokens_leave_no_trace_except_in_the_random_numbers(model):
    """Greedy, so that the same tokens come again whatever the random numbers."""
    for filters in (GREEDY, Filters(temperature=0, no_repeat_ngram=2)):
        options = {"filters": filters, "scored": True}
        whole = generated(model, [4], [0], 20, constraints=[Alternating(1)], **options)
        generator = generated(model, [4], [0], 8, constraints=[Alternating(1)], **options)
        saved = generator.save()
        for _ in range(7):
            generator.step()
        generator.stop(0)
        generator.restore(saved)
        assert generator.running[0]
        for _ in range(12):
            generator.step()
        assert generator.tokens == whole.tokens, filters
        assert generator.log_probabilities == whole.log_probabilities
        assert generator.generation_state().num_drawn == 27


def test_another_token_can_be_drawn_after_restoring(model):
    generator = generated(model, [4], [0], length=3)
    saved, tokens = generator.save(), set()
    for _ in range(40):
        tokens.add(generator.step()[0])
        generator.restore(saved)
    assert len(tokens) > 1 and len(generator.tokens[0]) == 3
