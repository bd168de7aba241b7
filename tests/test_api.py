"""What a command does, one call does."""

import pytest
from conftest import TEXT, small_config

import charlm
from charlm.errors import CharlmError


def test_train_returns_a_run_that_samples_and_scores(text_file, tmp_path):
    run = charlm.train(small_config(text_file), out=tmp_path / "run")
    (sample,) = run.sample(length=12, seed=1)
    assert len(sample.tokens) == 12
    assert run.perplexity().tokens == run.corpus["parts"]["valid"]["tokens"]


def test_a_string_scores_as_the_file_that_holds_it(trained, text_file):
    run = charlm.load(trained)
    assert run.perplexity(TEXT).loss_nats == run.perplexity(paths=[text_file]).loss_nats


def test_several_streams_score_about_as_one(trained):
    run = charlm.load(trained)
    assert run.perplexity(split="train", streams=4).loss_nats == pytest.approx(
        run.perplexity(split="train").loss_nats, abs=0.01
    )


def test_a_fitted_temperature_is_the_one_that_scores_best_on_the_validation_split_and_is_told(trained):
    run = charlm.load(trained)
    fitted = run.perplexity(temperature="fit")
    temperature = fitted.settings["temperature"]
    assert fitted.settings["temperature_fitted_on"] == "valid"
    assert temperature != 1
    for other in (1.0, temperature * 1.05, temperature / 1.05):
        score = run.perplexity(temperature=other)
        assert fitted.loss_nats < score.loss_nats
        assert "temperature_fitted_on" not in score.settings
    assert run.perplexity(TEXT, temperature="fit").settings["temperature"] == temperature


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 1.5}])
def test_a_setting_out_of_its_range_is_told(trained, wrong):
    with pytest.raises(CharlmError, match=f"{next(iter(wrong))} must"):
        charlm.load(trained).sample(**wrong)


def test_best_and_last_are_two_checkpoints(trained):
    assert charlm.load(trained, which="best").which == "best"
    assert charlm.load(trained, which="last").state["step"] == 60


def test_a_corpus_that_has_changed_is_told_before_it_is_scored(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("A text that will change. " * 60)
    run = charlm.train(small_config(path), out=tmp_path / "run")
    path.write_text("A text that has changed. " * 60)
    with pytest.raises(CharlmError, match="has changed"):
        run.perplexity()


def test_a_word_the_model_never_saw_is_told_as_a_word(text_file, tmp_path):
    run = charlm.train(small_config(text_file, "tokenizer.level=word"), out=tmp_path / "run")
    with pytest.raises(CharlmError, match="word 'zebra'"):
        run.sample(prompt="The zebra sat")
