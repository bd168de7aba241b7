"""Beam search finds what an exhaustive search finds; lengths are normalized as in the paper."""

import itertools
import math

import pytest
import torch

from charlm.config.model import Model
from charlm.config.tokenizer import Tokenizer as Section
from charlm.data.tokenizer import EOS, UNK
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import CharlmError
from charlm.model.language_model import LanguageModel
from charlm.sampling.batch import Step
from charlm.sampling.beam_search import (
    BeamOptions,
    Hypothesis,
    Start,
    beam_search,
    normalize,
    search_from,
)
from charlm.sampling.constraints.banned_text import BannedText
from charlm.sampling.generator import GeneratorOptions, generate
from charlm.sampling.options import Filters
from charlm.sampling.prompt_reader import read_once
from charlm.sampling.stepper import Stepper
from charlm.sampling.threads import num_weights

VOCABULARY = 5
LENGTH = 4


def make_model(seed: int, vocabulary: int = VOCABULARY) -> LanguageModel:
    torch.manual_seed(seed)
    model = LanguageModel(Model(hidden_size=6, embedding_size=4), vocabulary).eval()
    with torch.no_grad():
        model.projection.weight *= 6
    return model


def log_probability(model: LanguageModel, prompt: list[int], ids: tuple[int, ...]) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([EOS, *prompt, *ids[:-1]])[:, None])[0][len(prompt) :, 0]
    return float(logits.double().log_softmax(dim=-1)[range(len(ids)), list(ids)].sum())


def all_texts(length: int = LENGTH) -> list[tuple[int, ...]]:
    """Return all texts without <UNK> that end with <EOS> or have the maximum length."""
    inner = [token for token in range(VOCABULARY) if token not in (EOS, UNK)]
    ended = [(*ids, EOS) for size in range(length) for ids in itertools.product(inner, repeat=size)]
    return ended + list(itertools.product(inner, repeat=length))


def search(
    model: LanguageModel,
    prompt: list[int],
    beams: int,
    *,
    step: Step | None = None,
    **options: object,
) -> list[Hypothesis]:
    """Search, with a function in place of the model if one is given."""
    fields = {"length": LENGTH, "length_penalty": 0.6}
    fields |= {name: options.pop(name) for name in (*fields, "no_repeat_ngram") if name in options}
    options = {"is_end": lambda ids: ids[-1] == EOS} | options
    if step is None:
        return beam_search(model, prompt, BeamOptions(beams, **fields), **options)
    context = [EOS, *prompt]
    start = Start(
        torch.tensor(context[-1:]), read_once(model, context[:-1]), step, num_weights(model)
    )
    return search_from(start, BeamOptions(beams, **fields), prompt=prompt, **options)


def step_by_hand(after: dict[int, list[float]]):
    """Return a step whose probabilities depend on the last token only."""

    def step(ids, states):
        return torch.tensor([after[int(token)] for token in ids]).log(), states

    return step


def test_length_normalization_is_that_of_the_paper():
    assert normalize(-6.0, 7, 1.0) == pytest.approx(-3.0)  # (5 + 7) / 6 = 2.
    assert normalize(-6.0, 7, 0.0) == -6.0
    assert normalize(-6.0, 1, 5.0) == -6.0  # A single token is divided by 1.
    assert normalize(-8.0, 19, 0.5) == pytest.approx(-4.0)


def test_a_search_of_full_width_is_an_exhaustive_search():
    texts = all_texts()
    for seed, penalty in [(0, 0.0), (1, 0.6), (2, 2.0), (3, 0.0), (4, 0.6), (5, 2.0)]:
        model = make_model(seed)
        scores = {
            ids: normalize(log_probability(model, [2], ids), len(ids), penalty) for ids in texts
        }
        best = sorted(texts, key=lambda ids, scores=scores: -scores[ids])[:10]
        hypotheses = search(model, [2], len(texts), length_penalty=penalty)[:10]
        assert [tuple(hypothesis.ids) for hypothesis in hypotheses] == best, (seed, penalty)
        assert [hypothesis.score(penalty) for hypothesis in hypotheses] == pytest.approx(
            [scores[ids] for ids in best], abs=1e-5
        )


def test_one_beam_is_greedy():
    model = make_model(3)
    (hypothesis,) = search(model, [3], 1, length=20, is_end=lambda ids: False)
    greedy = generate(model, [3], GeneratorOptions([0], 1, Filters(temperature=0)), length=20)
    assert hypothesis.ids == [token for (token,) in greedy]
    assert not hypothesis.ended


def test_two_beams_find_a_more_probable_text_than_one_by_hand():
    """A garden path: token 2 is the most probable first token, but 3 4 the most probable text."""
    step = step_by_hand(
        {
            EOS: [0.0, 0.0, 0.6, 0.4, 0.0],
            2: [0.0, 0.0, 0.3, 0.3, 0.4],
            3: [0.0, 0.0, 0.05, 0.05, 0.9],
        }
    )
    options = {"length": 2, "is_end": lambda ids: False, "step": step}
    (greedy,) = search(make_model(1), [], 1, **options)
    assert greedy.ids == [2, 4]
    both = search(make_model(1), [], 2, **options)
    assert [hypothesis.ids for hypothesis in both] == [[3, 4], [2, 4]]
    assert math.exp(sum(both[0].log_probabilities)) == pytest.approx(0.36)
    assert math.exp(sum(both[1].log_probabilities)) == pytest.approx(0.24)


def test_an_end_counts_only_among_the_first_beams_by_hand():
    """After two tokens: 2 EOS 0.30, 3 4 0.22, 3 EOS 0.21, 2 4 0.20; the third may not end."""
    step = step_by_hand(
        {
            EOS: [0.0, 0.0, 0.5, 0.43, 0.07],
            2: [0.6, 0.0, 0.0, 0.0, 0.4],
            3: [0.21 / 0.43, 0.0, 0.0, 0.0, 0.22 / 0.43],
            4: [0.0, 0.0, 0.5, 0.3, 0.2],
        }
    )
    found = search(make_model(1), [], 2, length=3, length_penalty=0.0, step=step)
    assert [hypothesis.ids for hypothesis in found] == [[2, EOS], [3, 4, 2]]


def test_the_search_goes_on_while_a_beam_can_become_better_by_hand():
    """With penalty 2: EOS ln 0.4 / 1 = -0.92, but 2 EOS ln(0.35 x 0.9) / (7/6)^2 = -0.85."""
    step = step_by_hand({EOS: [0.4, 0.0, 0.35, 0.25, 0.0], 2: [0.9, 0.0, 0.1, 0.0, 0.0]})
    (best,) = search(make_model(1), [], 1, length_penalty=2.0, step=step)
    assert best.ids == [2, EOS]
    (best,) = search(make_model(1), [], 1, length_penalty=0.0, step=step)
    assert best.ids == [EOS]


def test_the_states_follow_their_beams():
    model = make_model(4)
    for hypothesis in search(model, [2, 3], 3, length=12):
        assert sum(hypothesis.log_probabilities) == pytest.approx(
            log_probability(model, [2, 3], tuple(hypothesis.ids)), abs=1e-4
        )


def test_no_beam_repeats_an_ngram():
    options = {"length": 15, "is_end": lambda ids: False, "no_repeat_ngram": 2}
    for hypothesis in search(make_model(5, 12), [2, 3, 2], 4, **options):
        pairs = list(itertools.pairwise([2, 3, 2, *hypothesis.ids]))
        assert len(set(pairs)) == len(pairs) == 17


def test_beams_do_not_write_banned_texts():
    tokenizer = learn_tokenizer(["abc" * 40], Section(level="char"))
    model = make_model(2, tokenizer.vocabulary_size)
    free = search(model, [], 3, length=10)
    banned = tokenizer.decode(free[0].ids)[1:3]
    constraint = BannedText(tokenizer, [banned], [], batch=1, device=torch.device("cpu"))
    for hypothesis in search(model, [], 3, length=10, constraints=[constraint]):
        assert banned not in tokenizer.decode(hypothesis.ids)


def test_constraints_that_leave_no_token_are_one_clear_error():
    class Nothing:
        def mask(self, logits: torch.Tensor) -> torch.Tensor:
            return torch.full_like(logits, -math.inf)

    with pytest.raises(CharlmError, match="leave the beams no token to write"):
        search(make_model(1), [], 2, constraints=[Nothing()])


def test_small_steps_have_one_thread_and_the_number_of_threads_stays():
    model = make_model(1)
    stepper = Stepper(model)
    used = []

    def step(ids, states):
        used.append(torch.get_num_threads())
        return stepper(ids, states)

    expected = search(model, [2], 3)
    torch.set_num_threads(2)
    try:
        assert search(model, [2], 3, step=step) == expected
        assert set(used) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
