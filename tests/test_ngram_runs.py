"""Every command works on a run with n-grams: the last tokens are carried with the state."""

import math

import pytest
import torch
from conftest import TEXT, small_config, train_all

import charlm

NGRAMS = ["model.ngrams=4", "model.ngram_buckets=200", "model.ngram_width=6"]


@pytest.fixture(scope="module")
def run(text_file, tmp_path_factory) -> charlm.Run:
    folder = tmp_path_factory.mktemp("ngrams") / "run"
    train_all(small_config(text_file, *NGRAMS), folder)
    run = charlm.load(folder)
    with torch.no_grad():  # So that the n-grams matter after a few steps.
        run.model.encoder.ngrams.weight *= 20
    return run


def test_a_text_continued_from_its_saved_state_is_the_text_written_at_once(run, tmp_path):
    (whole,) = run.sample(prompt="The", length=24, seed=3)
    (first,) = run.sample(prompt="The", length=10, seed=3, state_out=tmp_path / "state")
    (rest,) = run.sample(length=14, state_in=tmp_path / "state", seed=3)
    assert whole.text.endswith(rest.text)
    assert first.text + rest.text == whole.text


def test_compression_is_lossless(run):
    data = TEXT[:400].encode()
    assert run.decompress(run.compress(data)) == data


@pytest.mark.slow
def test_every_measure_of_the_state_and_its_gradients_works(run):
    passage = TEXT[:200]
    score = run.perplexity(passage).loss_nats
    assert run.surprise(passage).loss_nats == pytest.approx(score, abs=1e-5)
    for result in (run.memory(TEXT[:40]), run.gradients(passage, windows=2), run.context(passage)):
        assert result.to_json()
    assert math.isfinite(run.perplexity(passage, dynamic=True).loss_nats)


def test_a_report_is_written(run):
    assert ">n-grams<" in str(run.report().html)


def test_weights_are_taken_over_for_a_text_with_new_letters(text_file, tmp_path):
    train_all(small_config(text_file, *NGRAMS), tmp_path / "old")
    new = tmp_path / "new.txt"
    new.write_text(TEXT.replace("a", "Ω"), encoding="utf-8")
    old = charlm.load(tmp_path / "old")
    grown = charlm.train(new, from_run=tmp_path / "old", steps=2, out=tmp_path / "grown")
    assert grown.tokenizer.vocabulary_size > old.tokenizer.vocabulary_size
    assert grown.model.encoder.ngrams.weight.shape == old.model.encoder.ngrams.weight.shape
