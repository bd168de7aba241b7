"""Sequences join and leave a batch, and each is what it is alone."""

import pytest
import torch

from charlm.config.model import Model
from charlm.errors import CharlmError
from charlm.model.language_model import LanguageModel
from charlm.sampling.batch import Batch
from charlm.sampling.generator import Generator, GeneratorOptions, generate
from charlm.sampling.options import Filters
from charlm.sampling.prompt_reader import read_once
from charlm.sampling.stepper import Stepper

VOCABULARY = 9
PLAIN = Filters(temperature=1)
# Some read the history, of which the members have different lengths.
FILTERS = (
    PLAIN,
    Filters(temperature=0),
    Filters(temperature=1, top_p=0.8),
    Filters(temperature=1, no_repeat_ngram=3),
    Filters(temperature=1.2, repetition_penalty=1.5, repetition_window=5),
    Filters(temperature=1, frequency_penalty=1.0),
)


@pytest.fixture(scope="module", params=[0, 3], ids=["plain", "n-grams"])
def model(request) -> LanguageModel:
    torch.manual_seed(1)
    section = Model(hidden_size=8, embedding_size=4, ngrams=request.param)
    model = LanguageModel(section, VOCABULARY).eval()
    with torch.no_grad():
        model.projection.weight *= 8
    return model


def joined(batch: Batch, model: LanguageModel, prompt: list[int], **given: object) -> Generator:
    """Return a generator that has joined a batch."""
    options = GeneratorOptions(**{"numbers": [0], "seed": 1, "filters": PLAIN} | given)
    generator = Generator(model, prompt, options, batch=batch)
    generator.start(read_once(model, generator.unread[:-1]))
    return generator


def alone(model: LanguageModel, prompt: list[int], length: int, **given: object) -> list[list[int]]:
    options = GeneratorOptions(**{"numbers": [0], "seed": 1, "filters": PLAIN} | given)
    steps = generate(model, prompt, options, length=length)
    return [list(column) for column in zip(*steps, strict=True)]


def test_members_that_join_and_leave_at_any_time_write_what_they_write_alone(model):
    batch = Batch(model)
    prompts = [[], [3], [4, 5, 6], [2, 7]]
    waiting = [
        (prompts[k % 4], {"filters": FILTERS[k % 6], "seed": k, "numbers": range(1 + k % 3)})
        for k in range(24)
    ]
    running: list[tuple[Generator, list[int], dict]] = []
    num_finished = 0
    for step in range(200):
        if waiting and step % 2 == 0:
            prompt, given = waiting.pop()
            running.append((joined(batch, model, prompt, **given), prompt, given))
        assert batch.step() == []
        finished = [item for item in running if len(item[0].tokens[0]) == 5 + item[2]["seed"]]
        batch.leave([generator for generator, _, _ in finished])
        running = [item for item in running if item not in finished]
        for generator, prompt, given in finished:
            assert generator.tokens == alone(model, prompt, 5 + given["seed"], **given), given
        num_finished += len(finished)
        if not running and not waiting:
            break
    assert num_finished == 24 and len(batch) == 0


def test_the_model_steps_all_rows_at_once(model):
    shapes = []
    stepper = Stepper(model)

    def step(ids, states):
        shapes.append(tuple(ids.shape))
        return stepper(ids, states)

    batch = Batch(model, step)
    joined(batch, model, [3])
    joined(batch, model, [4, 5], numbers=[0, 1], filters=Filters(temperature=0))
    batch.step()
    assert shapes == [(3,)]


def test_scores_belong_to_their_rows(model):
    batch = Batch(model)
    given = [
        {"scored": k % 3 > 0, "num_alternatives": k % 3 * (k > 3), "seed": k} for k in range(6)
    ]
    members = [joined(batch, model, [3], **each) for each in given]
    for _ in range(8):
        batch.step()
    for member, each in zip(members, given, strict=True):
        single = joined(
            Batch(model), model, [3], scored=True, num_alternatives=2, seed=each["seed"]
        )
        for _ in range(8):
            single.step()
        assert member.tokens == single.tokens
        expected = single.log_probabilities if each["scored"] else [[]]
        assert member.log_probabilities == [pytest.approx(values) for values in expected]
        assert len(member.alternatives[0]) == (8 if each["num_alternatives"] else 0)
        for by_id, value in zip(member.alternatives[0], member.log_probabilities[0], strict=False):
            assert value in by_id.values()


def test_a_member_returns_to_an_earlier_position_beside_others(model):
    batch = Batch(model)
    greedy = {"filters": Filters(temperature=0, no_repeat_ngram=2)}
    before = joined(batch, model, [3], seed=5)
    member = joined(batch, model, [4], **greedy)
    after = joined(batch, model, [5], seed=6)
    for step in range(12):
        if step == 3:
            saved = member.save()
        if step == 7:
            member.restore(saved)
            assert len(member.tokens[0]) == 3
        batch.step()
    assert member.tokens == alone(model, [4], 8, **greedy)
    assert before.tokens == alone(model, [3], 12, seed=5)
    assert after.tokens == alone(model, [5], 12, seed=6)


def test_a_member_without_a_possible_token_fails_and_the_others_go_on(model):
    class Nothing:
        def mask(self, logits):
            return torch.full_like(logits, -torch.inf)

        def update(self, tokens):
            raise AssertionError("there is no token")

    batch = Batch(model)
    member = joined(batch, model, [3])
    options = GeneratorOptions([0], 1, PLAIN)
    stuck = Generator(model, [4], options, constraints=[Nothing()], batch=batch)
    stuck.start(read_once(model, stuck.unread[:-1]))
    ((failed, error),) = batch.step()
    assert failed is stuck and isinstance(error, CharlmError)
    assert "leave no token" in str(error)
    batch.leave([stuck])
    batch.step()
    assert member.tokens == alone(model, [3], 2)


def test_probabilities_that_are_no_numbers_end_the_member_that_has_them(model):
    batch = Batch(model)
    member = joined(batch, model, [3])
    diverged = joined(batch, model, [4])
    states, last = batch.position(diverged)
    nan = tuple(tuple(torch.full_like(part, torch.nan) for part in state) for state in states)
    batch.move(diverged, (nan, last))
    ((failed, error),) = batch.step()
    assert failed is diverged and "not finite" in str(error)
    assert member.tokens == alone(model, [3], 1)
