"""Each command is one call in Python."""

import math
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import TEXT, small_config

import charlm
from charlm.cli.main import run as charlm_command
from charlm.errors import CharlmError, CheckpointError, OptionError
from charlm.model_texts import corpus_part, original_bytes, training_texts
from charlm.runs.folder import named_after
from charlm.sampling.options import SampleOptions, build_options

# Lines of the corpus in another order, so that no long passage of it is in the corpus.
OTHER_TEXT = "".join(TEXT.splitlines(keepends=True)[::7])[:600]


def test_train_returns_a_run_that_samples_and_scores(text_file, tmp_path):
    run = charlm.train(small_config(text_file), out=tmp_path / "run")
    (sample,) = run.sample(length=12, seed=1)
    assert len(sample.tokens) == 12
    assert run.perplexity().tokens == run.corpus["parts"]["valid"]["tokens"]


@pytest.mark.parametrize("end", ["Ctrl-C", "an exception"])
def test_an_interrupted_training_is_saved_and_resumes_to_the_same_weights(end, text_file, tmp_path):
    config = small_config(text_file, "checkpoint.save_share=1e-9")
    whole = charlm.train(config, out=tmp_path / "whole", progress=False)

    def interrupt(event):
        if end == "Ctrl-C":
            signal.raise_signal(signal.SIGINT)
        else:
            raise ZeroDivisionError

    with pytest.raises(KeyboardInterrupt if end == "Ctrl-C" else ZeroDivisionError):
        charlm.train(config, out=tmp_path / "run", on_evaluation=interrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert charlm.load(tmp_path / "run", which="last").state["step"] in (6, 7)
    resumed = charlm.resume(tmp_path / "run", progress=False)
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


def test_a_device_can_be_one_of_torch(trained):
    assert charlm.load(trained, device=torch.device("cpu")).device == torch.device("cpu")


def test_an_adapted_score_comes_with_the_static_score_and_the_fitted_values(trained, text_file):
    run = charlm.load(trained)
    static = run.perplexity(OTHER_TEXT)
    assert static.adapted is None and static.baselines is None
    score = run.perplexity(
        OTHER_TEXT, dynamic=True, cache=True, mix_ngram=3, segment=40, fit_tokens=200
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
        for text in (None, OTHER_TEXT[:300])
    )
    assert own.pop("fitted_on_the_scored_text") and not other.pop("fitted_on_the_scored_text")
    assert own.pop("shared_with_valid") == 1 > 0.1 > other.pop("shared_with_valid")
    assert own.pop("shared_with_train") > 0.1 > other.pop("shared_with_train")
    assert own == other


def test_what_was_fitted_is_compared_with_the_scored_text_and_not_with_its_name(
    trained, trained_records, text_file, tmp_path
):
    run = charlm.load(trained)
    valid = tmp_path / "copy.txt"
    valid.write_bytes(original_bytes(corpus_part(run.trained, "valid")))
    copy = run.perplexity(paths=[valid], cache=True, temperature="fit", fit_tokens=200)
    assert copy.adapted.settings["fitted_on_the_scored_text"]
    assert copy.settings["fitted_on_the_scored_text"]
    assert run.perplexity(temperature="fit").settings["fitted_on_the_scored_text"]
    new = run.perplexity(OTHER_TEXT, temperature="fit", baselines=True)
    assert not new.settings["fitted_on_the_scored_text"]
    assert not any(baseline.fitted_on_the_scored_text for baseline in new.baselines)
    train = run.perplexity(split="train", mix_ngram=2, fit_tokens=200, baselines=True)
    assert train.adapted.settings["fitted_on_the_scored_text"]
    learned = [row.name for row in train.baselines if row.fitted_on_the_scored_text]
    assert [name.split()[0] for name in learned] == ["unigram,", "Kneser-Ney", "lzma,"]
    # Records count one by one, in any order.
    records = charlm.load(trained_records)
    lines = original_bytes(corpus_part(records.trained, "valid")).decode().splitlines()
    copy = records.perplexity("\n".join(sorted(lines, reverse=True)), temperature="fit")
    assert copy.settings["shared_with_valid"] == 1
    new = records.perplexity("zzz\nyyy\n" + lines[0], temperature="fit")
    assert new.settings["shared_with_valid"] == pytest.approx(1 / 3, abs=1e-3)


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
    with pytest.raises(CharlmError, match=r"^seed: cannot be combined with beams"):
        run.search(beams=2, seed=1)


def test_every_method_of_a_run_works_without_an_object_of_options(trained):
    run = charlm.load(trained)
    assert "".join(run.stream(length=20)) and len(run.sample(length=20)[0].tokens) == 20
    assert run.search(length=5)[0].text == run.search(length=5, beams=8)[0].text
    calls = {
        "next_tokens": (),
        "perplexity": (),
        "sentences": (["The cat sat."],),
        "surprise": (),
        "compare": ([run],),
        "agreement": (),
        "gradients": (),
        "novelty": (["The cat sat."],),
        "compress": (b"The cat",),
        "measure_compression": (b"The cat",),
    }
    for name, arguments in calls.items():
        assert getattr(run, name)(*arguments), name
    assert run.decompress(run.compress(b"The cat")) == b"The cat"
    with pytest.raises(CharlmError, match="a gap has two sides"):
        run.fill("The ____ sat.")


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


def test_a_text_that_the_model_has_ended_cannot_be_continued(trained_records, tmp_path):
    run = charlm.load(trained_records)
    (sample,) = run.sample(state_out=tmp_path / "state")
    assert sample.ended
    for state in (sample.state, tmp_path / "state"):
        with pytest.raises(CharlmError, match="has ended"):
            run.sample(state_in=state)


def test_the_state_of_another_model_cannot_be_continued(trained, text_file, tmp_path):
    run = charlm.load(trained)
    other = charlm.train(
        small_config(text_file, "model.hidden_size=8", "training.steps=1"), out=tmp_path / "other"
    )
    (sample,) = run.sample(length=3, state_out=tmp_path / "state")
    state = sample.state
    assert state is not None
    unknown_ids = replace(state, ids=[run.tokenizer.vocabulary_size])
    pairs = ((other, state), (other, tmp_path / "state"), (run, unknown_ids))
    for continuing, given in pairs:
        with pytest.raises(CharlmError, match="is the state of another model"):
            continuing.sample(length=3, state_in=given)


def test_best_and_last_are_two_checkpoints(trained):
    assert charlm.load(trained, which="best").which == "best"
    assert charlm.load(trained, which="last").state["step"] == 60


def test_without_a_folder_every_task_loads_the_newest_run(task_folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaders = {"classify": charlm.load_labels, "translate": charlm.load_translator}
    for kind, load_it in loaders.items():
        shutil.copytree(task_folders[kind], tmp_path / "runs" / kind, copy_function=shutil.copy)
        assert load_it().folder.name == kind


def test_a_file_or_folder_inside_a_run_is_refused_with_the_name_of_the_run(trained):
    for inside in (trained / "best", trained / "config.yaml"):
        with pytest.raises(CharlmError, match=f"inside a run folder; name the run: {trained}$"):
            charlm.load(inside)


def test_a_configuration_is_no_text(text_file, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(f"corpus: {{text: {text_file}}}\n" + "#" * 5000)
    with pytest.raises(
        CharlmError, match=r"my\.yaml: is a configuration, not a text; use --config"
    ):
        charlm.train(path, steps=1, progress=False)


def test_a_run_without_a_best_checkpoint_loads_the_last_one(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(folder / "best")
    assert charlm.load(folder).which == "last"


def test_a_damaged_best_checkpoint_names_the_last_one_if_that_is_sound(trained, tmp_path):
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    hint = r"last/ is sound: load it with --checkpoint last, in Python which='last'$"
    for name in ("state.json", next((folder / "best").glob("weights-*")).name):
        shutil.copytree(trained / "best", folder / "best", dirs_exist_ok=True)
        (folder / "best" / name).write_bytes(b"x")
        with pytest.raises(CheckpointError, match=hint):
            charlm.load(folder)
    assert charlm.load(folder, which="last").which == "last"
    for path in (folder / "last").glob("weights-*"):
        path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"restore the folder from a backup$"):
        charlm.load(folder)


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


def test_a_text_is_trained_with_chosen_settings_and_given_ones(text_file, tmp_path, capfd):
    chosen = charlm.choose(text_file, overrides=["model.hidden_size=8"], steps=4, seed=3)
    assert chosen.config.training.steps == 4 and chosen.config.training.seed == 3
    assert any("network: 8 units" in reason for reason in chosen.reasons)
    out = tmp_path / "run"
    run = charlm.train(text_file, out=out, overrides=["model.hidden_size=8"], steps=4, seed=3)
    assert run.config.model == chosen.config.model and run.state["step"] == 4
    shown = capfd.readouterr().err
    assert "network: 8 units" in shown and f"run folder: {out}" in shown and "step 4" in shown


def test_fields_of_the_training_section_change_a_configuration(text_file, tmp_path):
    config = small_config(text_file, "training.minutes=5", "model.cell=gru")
    run = charlm.train(config, out=tmp_path / "run", steps=3, learning_rate=1e-5, progress=False)
    assert run.config.training.budget == ("steps", 3)
    assert run.config.training.learning_rate == 1e-5 and run.config.model.cell.kind == "gru"
    with pytest.raises(CharlmError, match=r"^step: no such option \(nearest: steps\)"):
        charlm.train(config, step=3)


def test_a_callback_receives_each_evaluation_and_progress_can_be_silent(text_file, tmp_path, capfd):
    seen = []
    run = charlm.train(
        small_config(text_file),
        out=tmp_path / "run",
        progress=False,
        on_evaluation=lambda event: seen.append(event.metrics),
    )
    assert capfd.readouterr().err == ""
    assert [metrics["step"] for metrics in seen] == [6, 12]
    assert [line["step"] for line in run.history] == [6, 12]


def test_a_printed_evaluation_has_its_metrics_and_not_the_whole_training(text_file, tmp_path):
    shown: list[str] = []
    config = small_config(text_file)
    charlm.train(
        config,
        out=tmp_path / "run",
        progress=False,
        on_evaluation=lambda event: shown.append(str(event)),
    )
    assert all("loss_nats" in line and len(line) < 1500 for line in shown) and len(shown) == 2


def test_a_run_is_named_after_its_first_text_without_the_signs_of_a_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "novel.txt").write_text(TEXT)
    run = charlm.train("nov*.txt", steps=1, progress=False, overrides=["model.hidden_size=8"])
    assert re.fullmatch(r"nov-\d+-\d+", run.folder.name)
    assert named_after("texts/*.txt") == "run"
    # A name that a file may have leaves space for prefix, date and number: file systems allow 255.
    assert len(named_after("\N{CAT FACE}" * 62 + ".txt").encode()) < 200


def test_an_exception_of_a_callback_ends_the_training(text_file, tmp_path):
    def fail(event):
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        charlm.train(small_config(text_file), out=tmp_path / "run", on_evaluation=fail)


def test_the_history_is_a_table_of_numbers(trained):
    history = charlm.load(trained).history
    assert [line["step"] for line in history] == [30, 60]
    assert all(not isinstance(value, dict) for line in history for value in line.values())
    assert history[1]["gradient_norms/layer_0"] > 0


def test_a_run_is_described_in_three_lines(trained, text_file, monkeypatch):
    monkeypatch.chdir(text_file.parent)
    run = charlm.load(trained)
    first, second, third = repr(run).split("\n")
    assert first == f"Run {trained}: {run.which} checkpoint, step {run.state['step']}"
    assert second.startswith("model: lstm of 16 units, 2,") and "level char" in second
    bits = next(line for line in run.history if line["step"] == run.state["step"])
    assert third == (
        f"text: {text_file.name}; validation: {bits['bits_per_character']:.3f} bits per character"
    )


def test_a_sample_and_next_tokens_are_shown_without_long_lists(trained):
    run = charlm.load(trained)
    (sample,) = run.sample(length=40)
    assert repr(sample.text) in repr(sample) and len(sample.log_probabilities) == 40
    assert "log_probabilities" not in repr(sample) and "tokens" not in repr(sample)
    shown = repr(run.next_tokens("The ", count=2))
    assert shown.count("probability=") == 3 and "settings" not in shown


def test_one_string_is_one_token_one_sentence_or_one_banned_text(trained):
    run = charlm.load(trained)
    assert run.sentences("a cat").sentences == run.sentences(["a cat"]).sentences
    assert build_options(SampleOptions, {"ban": "the"}).constraints.ban == ("the",)
    assert build_options(SampleOptions, {"until": "the"}).stop.until == ("the",)
    with pytest.raises(CharlmError, match=r"^at: must be a token of the model.*, got 'at'$"):
        run.gradients(at="at")
    assert run.novelty(TEXT[:50]).sample == run.novelty([TEXT[:50]]).sample
    with pytest.raises(CharlmError, match=r"^at: must be a token of the model.*, got ''$"):
        run.gradients(at="")


def test_the_name_of_a_file_in_the_place_of_a_text_is_refused_with_the_option_for_files(
    trained, tmp_path, monkeypatch
):
    run = charlm.load(trained)
    (tmp_path / "an old novel").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    for text in ("missing.csv", "an old novel"):
        calls = {
            "text: .*use paths for files": (run.perplexity, run.surprise, run.memory, run.cells),
            "text: .*use path for files": (lambda text: run.compare([run], text),),
            "sentences: .*use path for files": (run.sentences,),
            "samples: .*use path for files": (run.novelty,),
            "text: .*contains": (lambda text: run.report(text=text),),
        }
        for message, functions in calls.items():
            for function in functions:
                with pytest.raises(OptionError, match=rf"^{message}.*, got '{text}'$"):
                    function(text)
    with pytest.raises(OptionError, match=r"^text: must be the text itself, not the name of a"):
        run.perplexity(Path("an old novel"))
    assert run.perplexity("a novel").characters == 7


def test_a_part_of_the_corpus_is_no_part_of_a_text(trained, text_file):
    run = charlm.load(trained)
    for name, call in {
        "text": lambda: run.perplexity(TEXT, split="valid"),
        "paths": lambda: run.context(paths=text_file, split="test"),
        "path": lambda: run.compare([run], path=text_file, split="train"),
    }.items():
        with pytest.raises(OptionError, match=f"^{name}: cannot be combined with split, which is"):
            call()


def test_an_option_of_texts_that_are_written_now_is_refused_beside_those_that_are_given(
    trained, text_file
):
    run = charlm.load(trained)
    for message, call in {
        "longest: cannot be combined with pairs": lambda: run.agreement(text_file, longest=2),
        "size: cannot be combined with samples": lambda: run.novelty(["a"], size=3),
        "seed: cannot be combined with path": lambda: run.novelty(path=text_file, seed=3),
    }.items():
        with pytest.raises(OptionError, match=f"^{message}, which has"):
            call()


def test_one_path_is_a_list_of_one(trained, text_file):
    run = charlm.load(trained)
    several = run.perplexity(paths=[text_file], baselines=True)
    for one in (text_file, str(text_file)):
        score = run.perplexity(paths=one, baselines=True)
        assert (score.loss_nats, score.baselines) == (several.loss_nats, several.baselines)
        assert run.surprise(paths=one, limit=50).settings["text"] == str(text_file)


def test_a_report_is_on_one_run_or_several_but_not_on_none(trained, tmp_path):
    run = charlm.load(trained)
    path = charlm.api.write_report(run, tmp_path / "report.html", sections=["curves"])
    assert path.read_text("utf-8") == charlm.report([run], sections=["curves"]).html
    for make in (charlm.report, charlm.api.write_report):
        with pytest.raises(OptionError, match=r"^runs: must be at least one run, got \[\]$"):
            make([])


def test_a_checkpoint_is_best_or_last(trained):
    with pytest.raises(OptionError, match=r"^which: must be best or last, got 'bset'$"):
        charlm.load(trained, which="bset")


def test_a_run_without_metrics_is_described_too(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "metrics.jsonl").unlink()
    assert repr(charlm.load(folder)).endswith("validation: not scored")


def test_a_budget_that_does_not_exist_is_refused_when_a_run_is_resumed(trained):
    with pytest.raises(OptionError, match="minute: no such option"):
        charlm.resume(trained, minute=1)


def test_whole_numbers_of_numpy_are_numbers_and_fractions_are_refused(trained):
    run = charlm.load(trained)
    options = {"length": 5, "top_k": 3, "count": 2, "seed": 4, "logit_bias": {2: 1}}
    numpy = {name: np.int64(options[name]) for name in ("length", "top_k", "count", "seed")}
    assert run.sample(**numpy, logit_bias={np.int64(2): np.float32(1)}) == run.sample(**options)
    for name in ("length", "top_k", "count", "seed", "best_of", "no_repeat_ngram", "characters"):
        with pytest.raises(OptionError, match=rf"^{name}: must be a whole number, got 1\.5$"):
            run.sample(**{name: 1.5})
    with pytest.raises(OptionError, match=r"^logit_bias: must be a whole number, got 2\.0$"):
        run.sample(logit_bias={2.0: 1})


def test_banned_texts_may_come_from_a_generator(trained):
    run = charlm.load(trained)
    banned = run.sample(length=20, ban=(letter for letter in "aeo"))[0].text
    assert banned == run.sample(length=20, ban=["a", "e", "o"])[0].text
    assert not set("aeo") & set(banned)


def test_a_stream_obeys_max_copy_and_refuses_what_needs_several_texts(trained):
    run = charlm.load(trained)
    options = {"length": 40, "seed": 3, "max_copy": 4}
    (sample,) = run.sample(**options)
    assert "".join(run.stream(**options)) == sample.text
    assert sample.text != run.sample(length=40, seed=3)[0].text
    for name, value in {"count": 2, "best_of": 2, "novel": True}.items():
        with pytest.raises(OptionError, match=rf"^{name}: cannot be combined with stream"):
            run.stream(**{name: value})


def test_a_wrong_value_is_refused_in_one_line_by_every_function(
    trained, task_folders, text_file, tmp_path
):
    run = charlm.load(trained)
    config = small_config(text_file)
    calls = {
        "device": [
            lambda: charlm.load(trained, device="gpu"),
            lambda: charlm.load(trained, device="cuda:999999999999"),
        ],
        "path": [lambda: charlm.load_config(3), lambda: charlm.load_config("")],
        "overrides": [
            lambda: charlm.load_config(None, [3]),
            lambda: charlm.load_config(None, "a"),
            lambda: charlm.train(config, overrides={"model.hidden_size": 8}),
        ],
        "folder": [lambda: charlm.load(""), lambda: charlm.list_runs(3)],
        "split": [lambda: run.perplexity(split=["valid"]), lambda: run.surprise(split="dev")],
        "paths": [lambda: run.perplexity(paths=""), lambda: run.memory(paths=[3])],
        "text": [
            lambda: run.perplexity("\ud800"),
            lambda: run.fill(None),
            lambda: charlm.choose(config),
            lambda: charlm.train([]),
        ],
        "trained": [lambda: charlm.Run(trained)],
        "longest": [lambda: run.agreement(longest=100), lambda: run.parity(longest=0)],
        "source": [lambda: charlm.load_translator(task_folders["translate"]).attention(["a"])],
        "tokens": [lambda: run.memory(tokens=-1), lambda: run.cells(tokens=2.5)],
        "limit": [lambda: run.surprise(limit=-3)],
        "sentences": [lambda: run.sentences(["a", 3]), lambda: run.agreement(sentences=2.0)],
        "others": [lambda: run.compare([3]), lambda: run.compare(run), lambda: run.report("x")],
        "temperature": [lambda: run.perplexity(temperature=math.nan)],
        "data": [lambda: run.compress("text")],
        "streams": [lambda: run.compress(b"abc", streams=0)],
        "state_in": [lambda: run.sample(state_in=3)],
        "state_out": [lambda: run.sample(state_out="\ud800"), lambda: run.sample(state_out="")],
        "passage_tokens": [lambda: run.report(passage_tokens=-1)],
        "runs": [lambda: charlm.report("runs/x")],
        "minutes": [lambda: charlm.train(config, out=tmp_path / "run", minutes=math.nan)],
        "seed": [
            lambda: charlm.train(config, out=tmp_path / "run", seed=text_file),
            lambda: charlm.train_seeds(config, [1, 2], seed=3),
        ],
        "out": [lambda: charlm.train(config, out="")],
        "on_evaluation": [lambda: charlm.train(config, on_evaluation="print")],
        "from_vocabulary": [lambda: charlm.train(config, from_vocabulary="keep")],
        "track": [lambda: charlm.train(config, track="wandb")],
        "task": [lambda: charlm.train_labels(config, task="sort")],
        "seeds": [lambda: charlm.train_seeds(config, 3)],
        "steps": [
            lambda: charlm.resume(trained, steps="many"),
            lambda: charlm.train(config, out=tmp_path / "run", steps=2, minutes=1),
        ],
        "name": [lambda: charlm.register_cell(3, len)],
        "run": [lambda: charlm.model_card("runs/x")],
    }
    for option, functions in calls.items():
        for number, function in enumerate(functions):
            with pytest.raises(OptionError, match=rf"\A{option}: [^\n]+\Z"):
                function()
                pytest.fail(f"{option}, call {number}: accepted")
    assert not (tmp_path / "run").exists()


def test_an_unknown_option_of_a_training_is_refused_with_the_ways_to_give_it(text_file):
    for function in (charlm.train, charlm.choose, charlm.train_labels, charlm.train_translator):
        for name, nearest in {
            "hidden_size": "",
            "config": "",
            "overides": " (nearest: overrides)",
            "minute": " (nearest: minutes)",
        }.items():
            message = rf"\A{name}: no such option{re.escape(nearest)}; [^\n]+overrides=[^\n]+\Z"
            with pytest.raises(OptionError, match=message):
                function(text_file, **{name: 3})


def test_an_unknown_option_of_a_measure_or_an_export_is_refused_with_the_nearest_one(trained):
    run = charlm.load(trained)
    for call in (
        lambda: run.perplexity(stream=2),
        lambda: run.surprise(stream=2, rar=3),
        lambda: run.cells(shift=2),
        lambda: charlm.export_run(run, "html", "x.html", precison="int8"),
        lambda: charlm.import_run("x", cell="lstm", tokenizer="x", out="x", gate="ifgo"),
    ):
        with pytest.raises(TypeError, match=r"^\w+: no such option( \(nearest: \w+\))?$"):
            call()


def test_a_text_in_the_place_of_a_file_name_is_shown_in_part():
    with pytest.raises(
        CharlmError, match=r"^'To be.{,110}: is no name of a file; .* write it into"
    ):
        charlm.train("To be or not to be, that is the question.\n" * 40)


def test_a_text_without_tabs_is_no_text_of_pairs(text_file, tmp_path):
    with pytest.raises(CharlmError, match=r"^the text has no tab, which separates the source from"):
        charlm.train_translator(text_file, steps=1, out=tmp_path / "run", progress=False)


def test_the_parts_of_options_are_no_options_of_a_call(trained):
    for name in ("stop", "filters", "constraints"):
        with pytest.raises(TypeError, match=rf"^{name}: no such option"):
            charlm.load(trained).sample(**{name: 3})


def test_a_large_length_penalty_does_not_overflow(trained):
    run = charlm.load(trained)
    assert len(run.sample(length=5, best_of=2, length_penalty=1e6)) == 1
    assert len(run.search(length=5, length_penalty=1e6)) == 1


def test_numbers_of_numpy_are_settings_of_a_training(text_file, tmp_path):
    run = charlm.train(
        small_config(text_file), out=tmp_path / "run", seed=np.int64(3), window=np.int32(8)
    )
    assert (run.config.training.seed, run.config.training.window) == (3, 8)


def test_python_prints_of_a_result_what_the_command_prints(trained, capfd):
    run = charlm.load(trained)
    commands = {
        ("perplexity",): run.perplexity(),
        ("tokens", "--show", "5"): run.surprise(split="valid", show=5),
        ("context",): run.context(),
        ("gradients", "--windows", "2"): run.gradients(windows=2),
        ("novelty", "--size", "300"): run.novelty(size=300),
        ("agreement", "--sentences", "20"): run.agreement(sentences=20),
    }
    for (name, *options), result in commands.items():
        capfd.readouterr()
        assert charlm_command(["eval", name, str(trained), *options]) == 0
        printed, (expected, _) = str(result), capfd.readouterr()
        assert re.sub("seconds.*", "", f"{printed}\n") == re.sub("seconds.*", "", expected), name
        assert result._repr_mimebundle_() == {"text/plain": printed}, name


def test_what_a_notebook_prints_is_short_and_readable(
    trained, trained_records, text_file, task_folders, tmp_path
):
    run = charlm.load(trained)
    compared = str(run.compare([run])).splitlines()
    assert compared[0].split()[:3] == ["bits/char", "tokens", "alone"]
    rows = [line for line in compared if line.startswith(str(trained))]
    assert rows and max(map(len, rows)) <= 110
    chosen = charlm.choose(text_file, steps=2, overrides=["model.hidden_size=8"])
    assert str(chosen).splitlines() == list(chosen.reasons)
    assert tuple(chosen) == (chosen.config, chosen.reasons)
    assert yaml.safe_load(str(run.config))["model"]["hidden_size"] == 16
    sample = run.sample(length=5)[0]
    assert str(sample) == sample.text
    samples = run.sample(length=5, count=2, seed=1)
    assert str(samples) == f"{samples[0].text}\n\n---\n\n{samples[1].text}"
    records = charlm.load(trained_records).sample(count=2, seed=1)
    assert str(records) == f"{records[0].text}\n{records[1].text}"
    for shown in (records, chosen):  # IPython asks lists and tuples for nothing else.
        printed: list[str] = []
        shown._repr_pretty_(SimpleNamespace(text=printed.append), False)
        assert printed == [str(shown)]
    assert len(str(run.surprise(TEXT)).splitlines()) < 1100 < len(TEXT)
    classifier = charlm.load_labels(task_folders["classify"])
    (predicted,) = classifier.predict(["bana"])
    assert str(predicted).splitlines()[0].split() == ["label", "probability"]
    (tagged,) = charlm.load_labels(task_folders["tag"]).predict(["bana"])
    assert [line.split()[0] for line in str(tagged).splitlines()[1:]] == [
        "'b'",
        "'a'",
        "'n'",
        "'a'",
    ]
    assert len(str(classifier.report(sections=["task"]))) < 200
