"""What is chosen for a text, a device and a time where nobody has named it."""

import math

import pytest
import yaml
from conftest import RECORDS, TEXT, train_all

from charlm.config.load import load_config
from charlm.config.schema import Config
from charlm.errors import CharlmError
from charlm.runs import automatic as choice
from charlm.runs.automatic import Choice, choose

PROSE = TEXT.replace("\n", "\n\n")


def at_speed(tokens_per_second: float):
    """A device: so many tokens a second with 256 units, a quarter of it with twice as many."""
    return lambda hidden_size: tokens_per_second * (256 / hidden_size) ** 2


@pytest.fixture
def text_of(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "my.txt"
        path.write_text(text, encoding="utf-8")
        return f"corpus.text={path}"

    return write


def chosen(text: str, *overrides: str, speed: float = 50_000) -> Config:
    return choose([text, *overrides], measure=at_speed(speed)).config


def passes(config: Config, text: str, speed: float = 50_000) -> float:
    """Return how often the training part is read."""
    hidden = config.model.hidden_size[0]
    if config.training.epochs:
        return config.training.epochs
    return at_speed(speed)(hidden) * 60 * (config.training.minutes or 0) / (0.9 * len(text))


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        (RECORDS * 3, "records"),
        (PROSE, "stream"),
        ("x = 1\n    y = 2\n" * 300, "stream"),
        (RECORDS[:400], "stream"),
        ("\n".join(f"{n} " + "long line " * 20 for n in range(400)), "stream"),
        ("over and over\n" * 900, "stream"),
    ],
    ids=["names", "paragraphs", "code", "few lines", "long lines", "the same line"],
)
def test_lines_that_stand_for_themselves_are_records(text_of, text, mode):
    if mode == "records":
        text = "".join(f"{line}{n % 7}\n" for n, line in enumerate(text.splitlines()))
    config = chosen(text_of(text))
    assert config.corpus.mode == mode
    assert (
        config.training.batch_size == 64 if mode == "records" else config.training.batch_size <= 32
    )


@pytest.mark.parametrize(
    ("characters", "streams"), [(150, 1), (2_000, 2), (9_000, 8), (90_000, 32)]
)
def test_a_short_text_has_fewer_streams_so_that_it_can_be_read_at_all(text_of, characters, streams):
    config = chosen(text_of((PROSE * 10)[:characters]))
    assert config.training.batch_size == streams
    if characters > 150:
        assert streams * config.training.window * 2 < 0.9 * characters


def test_embeddings_that_cannot_be_shared_are_not_tied(text_of):
    for alone in ("model.embedding=one_hot", "model.adaptive_cutoffs=[20, 40]"):
        assert not chosen(text_of(PROSE), "tokenizer.level=word", alone).model.tied


def test_a_mode_that_is_asked_for_stays(text_of):
    assert chosen(text_of(PROSE), "corpus.mode=records").corpus.mode == "records"


def test_more_time_a_faster_device_and_more_text_train_a_wider_network(text_of):
    words = "".join(f"word{n} and " for n in range(100_000))
    small, large = text_of(words[:300_000]), None
    sizes = [
        chosen(small, f"training.minutes={minutes}").model.hidden_size[0]
        for minutes in (0.1, 1, 10)
    ]
    assert sizes == sorted(sizes) and len(set(sizes)) == 3
    assert chosen(small, "training.minutes=0.1", speed=5_000_000).model.hidden_size[0] > sizes[0]
    narrow = chosen(small, "training.minutes=100", speed=10**9).model.hidden_size[0]
    large = text_of(words)
    assert chosen(large, "training.minutes=100", speed=10**9).model.hidden_size[0] > narrow


def test_the_longer_a_text_is_read_the_more_is_dropped_and_the_lower_is_the_rate(text_of):
    text = text_of(PROSE * 50)
    short, long = (
        chosen(text, f"training.epochs={epochs}", "model.hidden_size=512") for epochs in (1, 50)
    )
    assert short.model.output_dropout == 0 < long.model.output_dropout <= 0.5
    assert long.training.learning_rate < short.training.learning_rate


def test_a_small_text_is_not_read_for_all_of_the_time(text_of):
    text = PROSE
    config = chosen(text_of(text), "training.minutes=60")
    assert config.training.minutes is None
    assert config.training.epochs == choice._MOST_PASSES
    assert config.training.optimizer == "adamw"
    long = PROSE * 200
    config = chosen(text_of(long), "training.minutes=1")
    assert config.training.minutes == 1
    assert config.training.optimizer == "muon"
    assert passes(config, long) < choice._MOST_PASSES


def test_steps_or_epochs_that_are_asked_for_are_the_budget(text_of):
    text = text_of(PROSE)
    assert chosen(text, "training.epochs=500").training.epochs == 500
    assert chosen(text, "training.steps=7").training.steps == 7


def test_what_is_given_is_kept_and_nothing_is_measured_that_nobody_needs(text_of):
    def measure(hidden_size: int) -> float:
        raise AssertionError("nobody needs it")

    given = [
        "training.steps=9",
        "model.hidden_size=24",
        "training.learning_rate=0.003",
        "model.output_dropout=0.4",
        "tokenizer.level=word",
        "corpus.valid_share=0.3",
    ]
    config = choose([text_of(PROSE), *given], measure=measure).config
    model, training = config.model, config.training
    assert (training.steps, model.hidden_size, training.learning_rate) == (9, (24,), 0.003)
    assert (model.output_dropout, config.tokenizer.level, config.corpus.valid_share) == (
        0.4,
        "word",
        0.3,
    )
    assert model.tied and model.embedding_size == 24


def test_what_follows_from_a_given_batch_window_or_optimizer_fits_it(text_of):
    text = text_of(PROSE * 50)
    wide = chosen(text, "training.window=128", "training.batch_size=3").training
    assert (wide.window, wide.batch_size, wide.clipnorm) == (128, 3, 128.0)
    own = chosen(text).training
    other = chosen(text, "training.optimizer=sgd").training
    assert (
        own.optimizer == "muon"
        and own.learning_rate > other.learning_rate == load_config().training.learning_rate
    )


def test_no_more_is_held_out_of_a_large_text_than_a_score_needs(text_of):
    shares = [chosen(text_of(text)).corpus.valid_share for text in (PROSE, PROSE * 300)]
    assert shares[0] == 0.1
    assert shares[1] * len(PROSE) * 300 == pytest.approx(choice._HELD_OUT, rel=0.05)


def test_what_is_left_of_a_large_text_is_what_is_told(text_of):
    made = choose([text_of(PROSE * 300)], measure=at_speed(50_000))
    told = int(made.reasons[0].split(" characters")[0].split(", ")[-1].replace(",", ""))
    assert told == pytest.approx(
        (1 - (made.config.corpus.valid_share or 0)) * len(PROSE) * 300, rel=1e-6
    )


def test_a_card_s_level_mode_and_share_are_kept():
    config = chosen("corpus.text=python-source", "training.steps=3", "model.hidden_size=8")
    assert (config.tokenizer.level, config.corpus.mode, config.corpus.valid_share) == (
        "byte",
        "stream",
        None,
    )


def test_the_choice_is_told_in_one_line_each(text_of):
    made = choose([text_of(PROSE), "training.minutes=1"], measure=at_speed(50_000))
    topics = [reason.split(":")[0] for reason in made.reasons]
    assert topics == ["text", "network", "training", "dropout"]
    assert str(made.config.model.hidden_size[0]) in made.reasons[1]
    assert "1 minute and" in made.reasons[1]
    assert "not all of 1 minute" in made.reasons[2]


def test_what_is_chosen_is_a_configuration_that_trains(text_of, tmp_path):
    made: Choice = choose(
        [text_of(PROSE), "training.steps=3", "training.device=cpu"], measure=at_speed(300)
    )
    folder = tmp_path / "run"
    train_all(made.config, folder)
    kept = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert kept["model"]["hidden_size"] == made.config.model.hidden_size[0]
    assert load_config(folder / "config.yaml").training == made.config.training


def test_a_device_is_measured_in_a_moment(monkeypatch):
    monkeypatch.setattr(choice, "_MEASURED_SECONDS", 0.01)
    text = choice.Text("", 1000, "stream", "char", 90, 1, "")
    speed = choice._measured(load_config(None, ["training.device=cpu"]).training, text)
    assert speed(32) > speed(256) > speed(2048) > 0
    assert math.isfinite(speed(64))


def test_a_mistake_is_told_as_it_is_with_a_configuration(text_of):
    with pytest.raises(CharlmError, match="hiden_size"):
        choose([text_of(PROSE), "model.hiden_size=3"])
    with pytest.raises(CharlmError, match=r"nowhere\.txt"):
        choose(["corpus.text=nowhere.txt"])
