"""What a command does, one call does."""

import math

import pytest
from conftest import TEXT, small_config

import charlm
from charlm.errors import CharlmError
from charlm.trained_model import training_texts


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


def test_a_fitted_temperature_is_the_one_that_scores_best_on_the_validation_split_and_is_told(
    trained,
):
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


def test_an_adapted_score_stands_beside_the_static_one_with_what_was_fitted(trained, text_file):
    run = charlm.load(trained)
    static = run.perplexity(TEXT[:600])
    assert static.adapted is None and static.baselines is None
    score = run.perplexity(
        TEXT[:600], dynamic=True, cache=True, mix_ngram=3, segment=40, fit_tokens=200
    )
    assert score.loss_nats == static.loss_nats
    adapted = score.adapted
    assert adapted.perplexity == pytest.approx(math.exp(adapted.loss_nats))
    assert adapted.bits_per_character == pytest.approx(
        adapted.loss_nats * score.tokens / score.characters / math.log(2)
    )
    assert adapted.loss_nats < static.loss_nats
    settings = adapted.settings
    assert set(settings["weights"]) == {"dynamic", "cache", "ngram"}
    assert set(settings["dynamic"]) == {"learning_rate", "decay", "segment"}
    assert set(settings["cache"]) == {"window", "flatness"} and settings["ngram"] == {"order": 3}
    assert (
        settings["fitted_on"] == "the first 200 tokens of valid"
        and not settings["fitted_on_the_scored_text"]
    )


def test_what_is_fitted_on_the_scored_split_itself_says_so_and_another_text_changes_nothing_of_it(
    trained,
):
    run = charlm.load(trained)
    own, other = (
        run.perplexity(text, mix_ngram=2, fit_tokens=200).adapted.settings
        for text in (None, TEXT[:300])
    )
    assert own.pop("fitted_on_the_scored_text") and not other.pop("fitted_on_the_scored_text")
    assert own == other


def test_a_model_of_records_adapts_from_record_to_record_and_has_no_cache(trained_records):
    run = charlm.load(trained_records)
    adapted = run.perplexity(dynamic=True, mix_ngram=2, segment=10, fit_tokens=60).adapted
    assert adapted.loss_nats < run.perplexity().loss_nats
    with pytest.raises(CharlmError, match=r"^cache: "):
        run.perplexity(cache=True)


@pytest.mark.parametrize("of_text", [False, True])
def test_baselines_are_of_the_same_text(trained, of_text):
    score = charlm.load(trained).perplexity(TEXT if of_text else None, baselines=True)
    names = [baseline.name for baseline in score.baselines]
    assert any("Kneser-Ney" in name for name in names) and any("lzma" in name for name in names)
    (unigram,) = [row for row in score.baselines if row.name.startswith("unigram")]
    assert unigram.perplexity == pytest.approx(score.unigram_perplexity)
    bits = math.log2(score.unigram_perplexity) * score.tokens / score.characters
    assert unigram.bits_per_character == pytest.approx(bits)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 1.5}]
)
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


@pytest.mark.parametrize("fixture", ["trained", "trained_records"])
def test_no_longer_run_than_allowed_is_copied_from_the_training_text(fixture, request, monkeypatch):
    run = charlm.load(request.getfixturevalue(fixture))
    train = training_texts(run.trained)["train"]
    lines = b"".join(
        block + b"\n" * (ends and run.writes_records) for block, ends in train.blocks()
    ).decode()

    def longest(text: str) -> int:
        return max(
            size
            for size in range(len(text) + 1)
            if any(text[at : at + size] in lines for at in range(len(text) - size + 1))
        )

    free = run.sample(length=60, count=12, seed=3, temperature=0.7)
    copied = max(longest(sample.text) for sample in free)
    limited = run.sample(length=60, count=12, seed=3, temperature=0.7, max_copy=copied - 1)
    assert max(longest(sample.text) for sample in limited) == copied - 1
    assert all(len(one.tokens) == len(one.log_probabilities) for one in limited)
    assert limited == run.sample(length=60, count=12, seed=3, temperature=0.7, max_copy=copied - 1)


def test_a_text_without_long_copies_stops_where_it_should(trained):
    run = charlm.load(trained)
    (sample,) = run.sample(characters=17, seed=3, max_copy=6)
    assert len(sample.text) == 17
    (sample,) = run.sample(until=["a"], seed=4, max_copy=6, length=200)
    assert sample.text.endswith("a") and sample.text.count("a") == 1
    assert len(sample.tokens) == len(sample.text)
