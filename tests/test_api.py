"""Each command is one call in Python."""

import math
import shutil
import signal

import pytest
import torch
from conftest import TEXT, small_config

import charlm
from charlm.errors import CharlmError
from charlm.runs import session
from charlm.trained_model import training_texts
from charlm.training.loop import Progress


def test_train_returns_a_run_that_samples_and_scores(text_file, tmp_path):
    run = charlm.train(small_config(text_file), out=tmp_path / "run")
    (sample,) = run.sample(length=12, seed=1)
    assert len(sample.tokens) == 12
    assert run.perplexity().tokens == run.corpus["parts"]["valid"]["tokens"]


@pytest.mark.parametrize("end", ["Ctrl-C", "an exception"])
def test_an_interrupted_training_is_saved_and_resumes_to_the_same_weights(
    end, text_file, tmp_path, monkeypatch
):
    whole = charlm.train(small_config(text_file), out=tmp_path / "whole")
    show_events = session.run

    def interrupted(experiment, **options):
        for event in show_events(experiment, **options):
            yield event
            if isinstance(event, Progress) and event.step == 8:
                if end == "Ctrl-C":
                    signal.raise_signal(signal.SIGINT)
                else:
                    raise ZeroDivisionError

    monkeypatch.setattr(session, "run", interrupted)
    with pytest.raises(KeyboardInterrupt if end == "Ctrl-C" else ZeroDivisionError):
        charlm.train(small_config(text_file), out=tmp_path / "run")
    monkeypatch.undo()
    assert charlm.load(tmp_path / "run", which="last").state["step"] in (8, 9)
    resumed = charlm.resume(tmp_path / "run")
    assert (resumed.which, resumed.state["step"]) == ("best", whole.state["step"])
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_a_run_is_resumed_with_a_larger_total_budget(text_file, tmp_path):
    charlm.train(small_config(text_file), out=tmp_path / "run")
    charlm.resume(tmp_path / "run", steps=20)
    assert charlm.load(tmp_path / "run", which="last").state["step"] == 20


def test_a_string_scores_as_the_file_that_holds_it(trained, text_file):
    run = charlm.load(trained)
    assert run.perplexity(TEXT).loss_nats == run.perplexity(paths=[text_file]).loss_nats


def test_several_streams_score_about_as_one(trained):
    run = charlm.load(trained)
    assert run.perplexity(split="train", streams=4).loss_nats == pytest.approx(
        run.perplexity(split="train").loss_nats, abs=0.01
    )


def test_a_fitted_temperature_scores_best_on_the_validation_split_and_is_reported(
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


def test_an_adapted_score_comes_with_the_static_score_and_the_fitted_values(trained, text_file):
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


def test_a_fit_on_the_scored_split_says_so_and_does_not_depend_on_the_text(
    trained,
):
    run = charlm.load(trained)
    own, other = (
        run.perplexity(text, mix_ngram=2, fit_tokens=200).adapted.settings
        for text in (None, TEXT[:300])
    )
    assert own.pop("fitted_on_the_scored_text") and not other.pop("fitted_on_the_scored_text")
    assert own == other


def test_a_model_of_records_adapts_between_records_and_has_no_cache(trained_records):
    run = charlm.load(trained_records)
    adapted = run.perplexity(dynamic=True, mix_ngram=2, segment=10, fit_tokens=60).adapted
    assert adapted.loss_nats < run.perplexity().loss_nats
    with pytest.raises(CharlmError, match=r"^cache: "):
        run.perplexity(cache=True)


def test_baselines_score_the_same_text(trained):
    for text in (TEXT, None):
        score = charlm.load(trained).perplexity(text, baselines=True)
        names = [baseline.name for baseline in score.baselines]
        assert any("Kneser-Ney" in name for name in names) and any("lzma" in name for name in names)
        (unigram,) = [row for row in score.baselines if row.name.startswith("unigram")]
        assert unigram.perplexity == pytest.approx(score.unigram_perplexity)
        bits = math.log2(score.unigram_perplexity) * score.tokens / score.characters
        assert unigram.bits_per_character == pytest.approx(bits), text


def test_a_value_out_of_its_range_is_refused_with_the_name_of_its_option(trained):
    run = charlm.load(trained)
    for option, value in (("temperature", -1), ("top_k", 0), ("max_copy", 0), ("count", 0)):
        for call in (run.sample, run.stream):
            with pytest.raises(CharlmError, match=f"^{option}: must be at least"):
                call(**{option: value})
    with pytest.raises(CharlmError, match=r"^seed: cannot be used with beams"):
        run.search(beams=2, seed=1)


def test_stream_yields_the_text_that_sample_returns(trained, tmp_path):
    run = charlm.load(trained)
    (sample,) = run.sample(prompt="The ", length=30, temperature=0.7, seed=4)
    pieces = list(run.stream(prompt="The ", length=30, temperature=0.7, seed=4))
    assert pieces[0] == "The " and "".join(pieces) == sample.text
    state = tmp_path / "state"
    first = "".join(
        run.stream(prompt="The ", length=20, temperature=0.7, seed=4, state_out=str(state))
    )
    (rest,) = run.sample(state_in=str(state), length=10, temperature=0.7)
    assert first + rest.text == sample.text


def test_a_character_split_between_two_parts_of_a_text_is_written_once(tmp_path):
    text, state = tmp_path / "text.txt", tmp_path / "state"
    text.write_text("é" * 3000, encoding="utf-8")
    config = small_config(text, "tokenizer.level=byte", "training.learning_rate=2e-2")
    run = charlm.train(config, out=tmp_path / "run")
    (whole,) = run.sample(length=8, temperature=0)
    for length in range(1, 8):
        first = "".join(run.stream(length=length, temperature=0, state_out=state))
        (rest,) = run.sample(length=8 - length, temperature=0, state_in=state)
        assert first + rest.text == whole.text, length


def test_best_and_last_are_two_checkpoints(trained):
    assert charlm.load(trained, which="best").which == "best"
    assert charlm.load(trained, which="last").state["step"] == 60


def test_a_run_without_a_best_checkpoint_loads_the_last_one(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(folder / "best")
    assert charlm.load(folder).which == "last"


def test_a_corpus_that_has_changed_is_refused_before_it_is_scored(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("A text that will change. " * 60)
    run = charlm.train(small_config(path), out=tmp_path / "run")
    path.write_text("A text that has changed. " * 60)
    with pytest.raises(CharlmError, match="has changed"):
        run.perplexity()


def test_an_unknown_word_is_named_as_a_word(text_file, tmp_path):
    run = charlm.train(small_config(text_file, "tokenizer.level=word"), out=tmp_path / "run")
    with pytest.raises(CharlmError, match="word 'zebra'"):
        run.sample(prompt="The zebra sat")


def longest_copy(text: str, training_text: str) -> int:
    return max(
        size
        for size in range(len(text) + 1)
        if any(text[start : start + size] in training_text for start in range(len(text) - size + 1))
    )


def test_no_longer_run_than_allowed_is_copied_from_the_training_text(trained, trained_records):
    for folder in (trained, trained_records):
        run = charlm.load(folder)
        train = training_texts(run.trained)["train"]
        lines = b"".join(
            block + b"\n" * (ends and run.writes_records) for block, ends in train.blocks()
        ).decode()
        options = {"length": 60, "count": 12, "seed": 3, "temperature": 0.7}
        copied = max(longest_copy(sample.text, lines) for sample in run.sample(**options))
        limited = run.sample(**options, max_copy=copied - 1)
        assert max(longest_copy(sample.text, lines) for sample in limited) == copied - 1, folder
        assert all(len(sample.tokens) == len(sample.log_probabilities) for sample in limited)
        assert limited == run.sample(**options, max_copy=copied - 1)


def test_a_text_with_a_copy_limit_stops_where_it_should(trained):
    run = charlm.load(trained)
    (sample,) = run.sample(characters=17, seed=3, max_copy=6)
    assert len(sample.text) == 17
    (sample,) = run.sample(until=["a"], seed=4, max_copy=6, length=200)
    assert sample.text.endswith("a") and sample.text.count("a") == 1
    assert len(sample.tokens) == len(sample.text)
