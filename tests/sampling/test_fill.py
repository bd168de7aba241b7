"""A gap is filled by what both directions find probable."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TEXT, small_config

from charlm.data.resolve import resolve
from charlm.data.tokenizer import EOS
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import CharlmError, UnsupportedOptionError
from charlm.model.language_model import LanguageModel
from charlm.sampling.fill import Filling, draw_fillings, fill
from charlm.sampling.options import FillOptions
from charlm.trained_model import Origin, TrainedModel


@pytest.fixture(scope="module")
def trained(text_file) -> TrainedModel:
    """An untrained model of direction both, sharp enough to have preferences."""
    config = resolve(small_config(text_file, "model.direction=both", "corpus.mode=records"))
    tokenizer = learn_tokenizer([TEXT], config.tokenizer)
    torch.manual_seed(1)
    model = LanguageModel(config.model, tokenizer.vocabulary_size).eval()
    with torch.no_grad():
        model.projection.weight *= 5
    origin = Origin(Path("run"), "best", {}, {"step": 0})
    return TrainedModel(model, tokenizer, config, torch.device("cpu"), origin)


def log_probability(model: LanguageModel, ids: list[int]) -> float:
    """Return the log-probability of a record by a model of one direction, with its <EOS>."""
    with torch.no_grad():
        logits = model(torch.tensor([EOS, *ids])[:, None])[0][:, 0]
    return float(logits.double().log_softmax(dim=-1)[range(len(ids) + 1), [*ids, EOS]].sum())


def test_a_filled_text_has_the_mean_log_probability_of_both_directions(trained):
    forward, backward = trained.model.split_directions()
    texts = fill(trained, FillOptions("The ____ sat", length=4, count=3, temperature=0))
    assert len({text.text for text in texts}) == 3
    scores = [text.log_probability for text in texts]
    assert scores == sorted(scores, reverse=True)
    for text in texts:
        assert text.text == f"The {text.gap} sat"
        ids = trained.tokenizer.encode(text.text).tolist()
        both = log_probability(forward, ids) + log_probability(backward, ids[::-1])
        assert text.log_probability == pytest.approx(both / 2, abs=1e-4)


def drawn(trained: TrainedModel, seed: int, temperature: float) -> list[Filling]:
    options = FillOptions("____", length=1, count=1, temperature=temperature, seed=seed)
    return draw_fillings(
        trained.model,
        [],
        [],
        options,
        fits=lambda ids: True,
        score=lambda texts: [-2.0 * ids[0] for ids in texts],
    )


def test_the_temperature_divides_the_log_probabilities(trained):
    """Candidate k has log-probability -k, as mean of both directions."""
    for temperature in (0.5, 2.0):
        first_ids = [drawn(trained, seed, temperature)[0].ids[0] for seed in range(150)]
        low, next_low = sorted(set(first_ids))[:2]
        odds = first_ids.count(next_low) / first_ids.count(low)
        assert odds == pytest.approx(math.exp((low - next_low) / temperature), rel=0.5)
    assert drawn(trained, 1, 1.0) == drawn(trained, 1, 1.0)


def test_only_candidates_that_fit_are_drawn_each_once(trained):
    options = FillOptions("____", length=3, count=1000)
    fillings = draw_fillings(
        trained.model,
        [],
        [],
        options,
        fits=lambda ids: len(ids) == 2,
        score=lambda texts: [0.0] * len(texts),
    )
    candidates = [tuple(filling.ids) for filling in fillings]
    assert candidates and len(set(candidates)) == len(candidates)
    assert {len(candidate) for candidate in candidates} == {2}


def test_a_model_that_ends_every_text_in_the_gap_is_reported(trained):
    model = copy.deepcopy(trained.model)
    with torch.no_grad():
        model.projection.bias[EOS] = 1000
    with pytest.raises(UnsupportedOptionError, match=r"^fill: .* finds no text for the gap"):
        fill(replace(trained, model=model), FillOptions("The ____"))


def test_a_model_of_one_direction_cannot_fill_a_gap(trained):
    (forward, _) = trained.model.split_directions()
    forward.direction = "forward"
    one_direction = TrainedModel(
        forward, trained.tokenizer, trained.config, trained.device, trained.origin
    )
    with pytest.raises(CharlmError, match=r"model\.direction=both"):
        fill(one_direction, FillOptions("The ____."))


@pytest.mark.parametrize("words", ["words", "whitespace"])
def test_a_gap_between_words_is_filled_with_words_and_single_spaces(text_file, words):
    overrides = ["model.direction=both", "tokenizer.level=word", f"tokenizer.words={words}"]
    config = resolve(small_config(text_file, *overrides))
    tokenizer = learn_tokenizer([TEXT], config.tokenizer)
    torch.manual_seed(1)
    model = LanguageModel(config.model, tokenizer.vocabulary_size).eval()
    origin = Origin(Path("run"), "best", {}, {"step": 0})
    trained = TrainedModel(model, tokenizer, config, torch.device("cpu"), origin)
    filled = fill(trained, FillOptions("The ____ sat on", length=2, count=20))
    assert len(filled) == 20
    for text in filled:
        assert text.text == f"The {text.gap} sat on", text
        assert not text.gap.startswith(" "), text
