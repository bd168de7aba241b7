"""Jobs of one run are decoded together, and each text is the one that it would be alone."""

import asyncio

import pytest

from charlm import trained_model
from charlm.sampling.options import SampleOptions, build_options
from charlm.sampling.sample import sample
from charlm.serving.engine import Engine
from charlm.serving.jobs import Generation, Job, Piece
from charlm.trained_model import TrainedModel


@pytest.fixture(scope="module")
def model(trained) -> TrainedModel:
    return trained_model.load(trained, "best", "cpu")


@pytest.fixture
def engine(model):
    engine = Engine(model)
    yield engine
    engine.close()


def options(**given: object) -> SampleOptions:
    return build_options(SampleOptions, {"length": 40} | given)


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


async def collect(generation: Generation) -> list[Piece]:
    return [piece async for piece in generation]


def test_a_text_is_that_of_charlm_sample_whoever_reads_it(engine, model):
    chosen = options(prompt="the ")
    for number, expected in enumerate(sample(model, options(prompt="the ", count=3))):
        job = Job(chosen, number=number, echo=True)
        assert text_of(list(engine.submit(job))) == expected.text
        assert text_of(asyncio.run(collect(engine.submit(job)))) == expected.text


def test_echoed_log_probabilities_begin_with_those_of_the_prompt(engine):
    (piece,) = engine.submit(Job(options(prompt="the "), num_logprobs=2, echo=True, streams=False))
    assert len(piece.ids) == len(piece.log_probabilities) == len(piece.alternatives) == 44
    assert piece.offsets == tuple(range(44))
    assert piece.text.startswith("the ") and piece.finish_reason == "length"
