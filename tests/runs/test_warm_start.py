"""Training from the weights of another run: tokens, probabilities, settings, resuming, forgetting."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEXT, small_config, train_all
from trainings import assert_same_training, finish, metrics_of, stop_at

from charlm import trained_model
from charlm.config.load import change_config
from charlm.config.model import Model
from charlm.config.schema import Config
from charlm.errors import CheckpointError, ConfigError
from charlm.model.log_probabilities import predict_window
from charlm.runs import prepare, session
from charlm.runs.automatic.choice import choose
from charlm.runs.experiment import Notice
from charlm.runs.warm_start import inherit, open_ancestor

POLISH = "Żółty kot śpi na dachu. Sowa śpiewa.\n" * 60
UKRAINIAN = "Їжак біжить і дивиться.\n" * 60  # noqa: RUF001 - Cyrillic letters are meant.
EMOJI = "The cat sat 😀 on the mat 🐈.\n" * 60
VARIANTS = {
    "plain": [],
    "one-hot": ["model.embedding=one_hot"],
    "tied": ["model.tied=true"],
    "tied-adapter": ["model.tied=true", "model.embedding_size=6"],
    "mixture": ["model.mixture=2"],
    "adaptive": ["model.adaptive_cutoffs=[6]"],
    "stacked-gru": ["model.cell=gru", "model.num_layers=2"],
}


def fine_tune(text, ancestor_folder, folder, *overrides, vocabulary="grow"):
    ancestor = open_ancestor(ancestor_folder, vocabulary)
    small = small_config(text)
    open_fields = Config(corpus=small.corpus, training=small.training, checkpoint=small.checkpoint)
    config = inherit(change_config(open_fields, list(overrides)), ancestor)
    return prepare.begin(config, folder, ancestor=ancestor)


@pytest.fixture(scope="module")
def polish_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("polish") / "polish.txt"
    path.write_text(POLISH, encoding="utf-8")
    return path


def log_probabilities(model, ids):
    inputs = torch.tensor([0, *ids[:-1]])[:, None]
    predictions, _ = predict_window(model, inputs, torch.tensor(ids)[:, None])
    return torch.cat([logits.double().log_softmax(dim=-1) for logits, _ in predictions])


@pytest.mark.parametrize("variant", VARIANTS)
def test_old_tokens_keep_their_probabilities_except_for_what_new_tokens_receive(
    variant, text_file, tmp_path
):
    train_all(small_config(text_file, *VARIANTS[variant]), tmp_path / "old")
    old = trained_model.load(tmp_path / "old", "best", "cpu")
    ids = old.tokenizer.encode(TEXT[:120]).tolist()
    num_old = old.tokenizer.vocabulary_size
    with torch.inference_mode():
        expected = log_probabilities(old.model, ids)
        for number, text in enumerate((POLISH, UKRAINIAN, EMOJI)):
            (tmp_path / "new.txt").write_text(text, encoding="utf-8")
            experiment = fine_tune(tmp_path / "new.txt", tmp_path / "old", tmp_path / str(number))
            experiment.model.eval()
            log_p = log_probabilities(experiment.model, ids)
            mass = log_p[:, num_old:].exp().sum(dim=-1)
            assert log_p.shape[1] > num_old
            assert (mass > 0).all()
            left = (1 - mass).log()[:, None].expand_as(expected).clone()
            if variant == "adaptive":  # The new tokens join the cluster of the rarer ones.
                cluster = expected[:, 6:].exp().sum(dim=-1)
                left[:, :6] = 0
                left[:, 6:] = (1 - mass / cluster).log()[:, None]
            # The softmaxes of a mixture give up different fractions.
            tolerance = 1e-2 if variant == "mixture" else 1e-5
            torch.testing.assert_close(log_p[:, :num_old], expected + left, rtol=0, atol=tolerance)


def test_new_tokens_receive_about_their_frequency_in_the_new_text(trained, polish_file, tmp_path):
    experiment = fine_tune(polish_file, trained, tmp_path / "run")
    num_old = open_ancestor(trained).tokenizer.vocabulary_size
    ids = experiment.tokenizer.encode(POLISH[:200]).tolist()
    with torch.inference_mode():
        log_p = log_probabilities(experiment.model.eval(), ids)
    mass = float(log_p[:, num_old:].exp().sum(dim=-1).mean())
    frequency = np.mean([index >= num_old for index in ids])
    assert 0.05 * frequency < mass < 2 * frequency


def test_one_line_counts_the_tokens_that_are_kept_added_and_not_in_the_new_text(
    trained, polish_file, tmp_path
):
    line, *_ = fine_tune(polish_file, trained, tmp_path / "grown").notices
    old = set(TEXT)
    new = set(POLISH)
    assert f"{2 + len(old & new)} tokens kept" in line
    assert f"{len(new - old)} added" in line
    assert f"{len(old - new)} not in the new text" in line
    assert "<UNK>" not in line
    experiment = fine_tune(polish_file, trained, tmp_path / "kept", vocabulary="keep")
    assert experiment.tokenizer.vocabulary_size == 2 + len(old)
    unknown = experiment.tokens["train"].counts.unknown
    assert f"{unknown:,} tokens of the new text read as <UNK>" in experiment.notices[0]


def test_network_and_tokenizer_are_inherited_and_a_contradiction_is_refused(trained, text_file):
    ancestor = open_ancestor(trained)
    config = inherit(small_config(text_file, "model.dropout=0.3"), ancestor)
    assert config.model.hidden_sizes == (16,)
    assert config.model.dropout == 0.3
    for override, old, new in (
        ("model.hidden_size=32", "16", "32"),
        ("model.cell=gru", "kind lstm", "kind gru"),
        ("tokenizer.level=word", "char", "word"),
        ("tokenizer.lowercase=true", "False", "True"),
        ("tokenizer.normalization=nfc", "none", "nfc"),
    ):
        with pytest.raises(ConfigError) as error:
            inherit(small_config(text_file, override), ancestor)
        message = str(error.value)
        assert message.startswith(override.partition("=")[0] + ": "), message
        assert old in message
        assert new in message
        assert "\n" not in message


def test_dropout_may_differ_from_the_ancestor(text_file, tmp_path):
    ngrams = "model.ngrams=3"
    train_all(small_config(text_file, ngrams, "training.steps=1"), tmp_path / "old")
    fields = [name for name in Model.model_fields if name.endswith("dropout")]
    given = [ngrams, *(f"model.{name}=0.3" for name in fields)]
    config = inherit(small_config(text_file, *given), open_ancestor(tmp_path / "old"))
    assert len(fields) > 1
    assert {getattr(config.model, name) for name in fields} == {0.3}


def test_settings_are_chosen_for_trained_weights(trained, text_file):
    overrides = [f"corpus.text={text_file}", "training.steps=100"]

    def speed(hidden_size):
        return 1e5

    cold = choose([*overrides, "model.hidden_size=16"], speed=speed).config
    warm = choose(overrides, speed=speed, ancestor=open_ancestor(trained))
    assert warm.config.model.hidden_sizes == (16,)
    assert warm.config.model.embedding_size == 8
    assert warm.config.training.learning_rate < cold.training.learning_rate
    assert warm.config.training.replay == 0.1
    minutes = [overrides[0], "training.minutes=1000", "training.device=cpu"]
    assert choose(minutes, speed=speed).config.training.epochs == 60
    longest = choose(minutes, speed=speed, ancestor=open_ancestor(trained)).config.training
    assert longest.epochs == 60
    assert any(str(trained) in reason for reason in warm.reasons)


def test_a_trained_start_learns_a_similar_text_in_fewer_steps(trained, text_file, tmp_path):
    warm = fine_tune(text_file, trained, tmp_path / "warm", "training.learning_rate=1e-3")
    finish(warm)
    train_all(small_config(text_file), tmp_path / "cold")
    best = [metrics_of(tmp_path / name)[-1]["loss_nats"] for name in ("warm", "cold")]
    assert best[0] < best[1] - 0.3


@pytest.mark.parametrize("mode", ["stream", "records"])
def test_a_resumed_fine_tuning_with_replay_equals_one_that_never_stopped(
    mode, trained, records_file, text_file, tmp_path
):
    text = records_file if mode == "records" else text_file
    overrides = ["training.replay=0.3", f"corpus.mode={mode}", "training.steps=30"]
    finish(fine_tune(text, trained, tmp_path / "whole", *overrides))
    experiment = fine_tune(text, trained, tmp_path / "parts", *overrides)
    for step in (3, 17):
        stop_at(experiment, step)
        torch.manual_seed(99)
        experiment = prepare.resume(tmp_path / "parts")
    finish(experiment)
    assert_same_training(tmp_path / "whole", tmp_path / "parts")
    assert [line["ancestor_loss_nats"] for line in metrics_of(tmp_path / "whole")] == [
        line["ancestor_loss_nats"] for line in metrics_of(tmp_path / "parts")
    ]


def test_replay_keeps_more_of_the_old_text_and_both_scores_are_reported(
    trained, records_file, tmp_path
):
    losses = {}
    for replay in (0.0, 0.3):
        overrides = [f"training.replay={replay}", "corpus.mode=records", "training.steps=60"]
        experiment = fine_tune(records_file, trained, tmp_path / str(replay), *overrides)
        notices = [e.message for e in session.run(experiment) if isinstance(e, Notice)]
        (line,) = [notice for notice in notices if "before training" in notice]
        assert ("training.replay" in line) == (replay == 0)
        losses[replay] = metrics_of(tmp_path / str(replay))[-1]["ancestor_loss_nats"]
    assert losses[0.3] < losses[0.0] - 0.2


def test_the_run_records_its_ancestor_and_loads_as_any_other(trained, polish_file, tmp_path):
    finish(fine_tune(polish_file, trained, tmp_path / "run"))
    facts = json.loads((tmp_path / "run" / "corpus.json").read_text())["ancestor"]
    assert facts["name"] == trained.name
    assert facts["loss_nats"] == pytest.approx(open_ancestor(trained).loss_nats)
    loaded = trained_model.load(tmp_path / "run", "best", "cpu")
    assert loaded.origin.corpus["ancestor"] == facts
    again = fine_tune(polish_file, tmp_path / "run", tmp_path / "third")
    assert again.tokenizer.vocabulary_size == loaded.tokenizer.vocabulary_size


def test_without_the_old_text_forgetting_is_not_measured_and_replay_is_refused(
    text_file, records_file, tmp_path
):
    old_text = tmp_path / "old.txt"
    shutil.copy(text_file, old_text)
    train_all(small_config(old_text), tmp_path / "old")
    old_text.unlink()
    experiment = fine_tune(records_file, tmp_path / "old", tmp_path / "run")
    assert any("what the model forgets is not measured" in line for line in experiment.notices)
    finish(experiment)
    with pytest.raises(ConfigError, match=r"training\.replay: the text of old is needed"):
        fine_tune(records_file, tmp_path / "old", tmp_path / "other", "training.replay=0.1")
    with pytest.raises(ConfigError, match=r"training\.replay: .* name one with --from"):
        prepare.begin(small_config(records_file, "training.replay=0.1"), tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_damaged_best_checkpoint_names_how_to_start_from_the_last_one(trained, tmp_path):
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    best = folder / "best"
    next(best.glob("weights-*")).write_bytes(b"x")
    hint = f"; last/ is sound: to start from it, remove {best}$"
    with pytest.raises(CheckpointError, match=hint):
        open_ancestor(folder)
    shutil.rmtree(best)
    assert open_ancestor(folder).loss_nats is None
