"""Settings chosen for a text, a device and a budget."""

import json
import math

import kinds
import pytest
import torch
import yaml
from conftest import RECORDS, TEXT, train_all

from charlm.config.load import load_config
from charlm.config.schema import Config
from charlm.data.corpus import open_corpus
from charlm.data.resolve import resolve
from charlm.errors import CharlmError
from charlm.runs import automatic, speed
from charlm.runs.automatic import choose
from charlm.training.devices import Hardware

PROSE = TEXT.replace("\n", "\n\n")
NAMES = kinds.names(300)


def constant_speed(tokens_per_second: float):
    """Return the speed of a device: N tokens per second with 256 units, N / 4 with 512."""
    return lambda hidden_size: tokens_per_second * (256 / hidden_size) ** 2


@pytest.fixture
def text_of(tmp_path):
    """Return a function that writes a text and returns the override that names it."""

    def write(text: str) -> str:
        path = tmp_path / "my.txt"
        path.write_text(text, encoding="utf-8")
        return f"corpus.text={path}"

    return write


def chosen(text: str, *overrides: str, tokens_per_second: float = 50_000) -> Config:
    return choose([text, *overrides], speed=constant_speed(tokens_per_second)).config


def test_lines_are_records_if_they_are_many_short_regular_and_different(text_of):
    texts = {
        "names": NAMES,
        "paragraphs": PROSE,
        "code": "x = 1\n    y = 2\n" * 300,
        "few lines": RECORDS[:200],
        "long lines": "\n".join(f"{number} " + "long line " * 40 for number in range(400)),
        "equal lines": "over and over\n" * 900,
    }
    for name, text in texts.items():
        config = chosen(text_of(text))
        assert config.corpus.mode == ("records" if name == "names" else "stream"), name
        batch_size = config.training.batch_size
        assert batch_size == 64 if name == "names" else batch_size <= 32, name


@pytest.mark.parametrize("line_end", ["\r", "\r\n", "\u2028"])
def test_lines_are_recognized_and_read_by_the_same_line_ends(line_end, text_of):
    config = chosen(text_of(NAMES.replace("\n", line_end)), "corpus.valid_share=0")
    assert config.corpus.mode == "records"
    text = open_corpus(resolve(config)).parts["train"]
    assert len(text.spans) == NAMES.count("\n")


def test_short_documents_are_records_and_long_or_few_ones_a_stream(text_of, tmp_path):
    separator = 'corpus.separator="\\n%\\n"'
    for count, size, mode in ((300, 12, "records"), (300, 400, "stream"), (40, 12, "stream")):
        tunes = [f"tune {number}\nabc\n" * size for number in range(count)]
        config = chosen(text_of("\n%\n".join(tunes)), separator)
        assert config.corpus.mode == mode, (count, size)
        assert config.corpus.record == ("document" if mode == "records" else None)
        rows = "\n".join(json.dumps({"text": tune}) for tune in tunes)
        (tmp_path / "tunes.jsonl").write_text(rows, encoding="utf-8")
        table = chosen(f"corpus.text={tmp_path / 'tunes.jsonl'}")
        assert table.corpus.mode == mode, (count, size)
        as_lines = chosen(f"corpus.text={tmp_path / 'tunes.jsonl'}", "corpus.record=line")
        assert as_lines.corpus.mode == "stream"


def test_a_short_text_is_read_in_fewer_streams(text_of):
    for characters, streams in ((150, 1), (2_000, 2), (9_000, 8), (90_000, 32)):
        training = chosen(text_of((PROSE * 10)[:characters])).training
        assert training.batch_size == streams, characters
        assert characters == 150 or streams * training.window * 2 < 0.9 * characters


def test_embeddings_that_the_projection_cannot_share_are_not_tied(text_of):
    for override in ("model.embedding=one_hot", "model.adaptive_cutoffs=[20, 40]"):
        assert not chosen(text_of(PROSE), "tokenizer.level=word", override).model.tied, override


def test_more_time_a_faster_device_and_more_text_give_a_wider_network(text_of):
    words = "".join(f"word{number} and " for number in range(100_000))
    small = text_of(words[:300_000])

    def hidden_size(text: str, minutes: float, tokens_per_second: float = 50_000) -> int:
        config = chosen(text, f"training.minutes={minutes}", tokens_per_second=tokens_per_second)
        return config.model.hidden_size[0]

    sizes = [hidden_size(small, minutes) for minutes in (0.1, 1, 10)]
    assert sizes == sorted(sizes) and len(set(sizes)) == 3
    assert hidden_size(small, 0.1, tokens_per_second=5_000_000) > sizes[0]
    small_size = hidden_size(small, 100, tokens_per_second=10**9)
    assert hidden_size(text_of(words), 100, tokens_per_second=10**9) > small_size


def test_more_passes_over_a_text_give_more_dropout_and_a_lower_rate(text_of):
    text = text_of(PROSE * 50)
    short, long = (
        chosen(text, f"training.epochs={epochs}", "model.hidden_size=512") for epochs in (1, 50)
    )
    assert short.model.output_dropout == 0 < long.model.output_dropout <= 0.5
    assert long.training.learning_rate < short.training.learning_rate


def test_characters_of_a_text_that_is_read_at_most_twice_have_ngrams(text_of):
    text = text_of(PROSE * 50)
    cases = [
        (4, ["training.epochs=1"]),
        (4, ["training.epochs=2"]),
        (0, ["training.epochs=2.1"]),
        (0, ["training.epochs=1", "tokenizer.level=word"]),
        (0, ["training.epochs=1", "corpus.mode=records"]),
        (3, ["training.epochs=1", "model.ngrams=3"]),
    ]
    for expected, overrides in cases:
        choice = choose([text, *overrides], speed=constant_speed(50_000))
        assert choice.config.model.ngrams == expected, overrides
        says = f"embeddings of the last 2 to {expected} characters" in choice.reasons[1]
        assert says == (expected > 0), overrides


def test_training_on_a_small_text_stops_early(text_of):
    training = chosen(text_of(PROSE), "training.minutes=60").training
    assert training.minutes is None
    assert training.epochs == automatic._MAX_PASSES
    assert training.optimizer == "adamw"
    long = PROSE * 200
    config = chosen(text_of(long), "training.minutes=1")
    assert config.training.minutes == 1 and config.training.epochs is None
    assert config.training.optimizer == "muon"
    tokens = 60 * constant_speed(50_000)(config.model.hidden_size[0])
    assert tokens / (0.9 * len(long)) < automatic._MAX_PASSES


def test_a_budget_of_steps_or_epochs_stays_as_set(text_of):
    text = text_of(PROSE)
    assert chosen(text, "training.epochs=500").training.epochs == 500
    assert chosen(text, "training.steps=7").training.steps == 7


def test_set_fields_stay_as_they_are_and_an_unneeded_speed_is_not_measured(text_of):
    def speed(hidden_size: int) -> float:
        raise AssertionError("the size and the number of steps are set")

    overrides = [
        "training.steps=9",
        "model.hidden_size=24",
        "training.learning_rate=0.003",
        "model.output_dropout=0.4",
        "tokenizer.level=word",
        "corpus.valid_share=0.3",
        "corpus.mode=records",
    ]
    config = choose([text_of(PROSE), *overrides], speed=speed).config
    assert (config.training.steps, config.training.learning_rate) == (9, 0.003)
    assert (config.model.hidden_size, config.model.output_dropout) == ((24,), 0.4)
    assert (config.tokenizer.level, config.corpus.valid_share) == ("word", 0.3)
    assert config.corpus.mode == "records"
    assert config.model.tied and config.model.embedding_size == 24


def test_other_fields_fit_a_set_batch_size_window_or_optimizer(text_of):
    text = text_of(PROSE * 50)
    training = chosen(text, "training.window=128", "training.batch_size=3").training
    assert (training.window, training.batch_size, training.clipnorm) == (128, 3, 128.0)
    muon = chosen(text).training
    sgd = chosen(text, "training.optimizer=sgd").training
    assert muon.optimizer == "muon"
    assert muon.learning_rate > sgd.learning_rate == load_config().training.learning_rate


def test_the_validation_part_of_a_large_text_is_no_larger_than_a_score_needs(text_of):
    assert chosen(text_of(PROSE)).corpus.valid_share == 0.1
    large = PROSE * 300
    choice = choose([text_of(large)], speed=constant_speed(50_000))
    fraction = choice.config.corpus.valid_share
    assert fraction * len(large) == pytest.approx(automatic._VALIDATION_CHARACTERS, rel=0.05)
    characters = choice.reasons[0].split(" characters")[0].split(", ")[-1].replace(",", "")
    assert int(characters) == pytest.approx((1 - fraction) * len(large), rel=1e-6)


def test_level_mode_and_validation_part_of_a_corpus_card_are_kept():
    config = chosen("corpus.text=python-source", "training.steps=3", "model.hidden_size=8")
    assert (config.tokenizer.level, config.corpus.mode) == ("byte", "stream")
    assert config.corpus.valid_share is None


def test_each_choice_has_one_line_with_its_reason(text_of):
    choice = choose([text_of(PROSE), "training.minutes=1"], speed=constant_speed(50_000))
    text, network, training, dropout = choice.reasons
    assert (
        text.startswith("text: ")
        and "split into characters; reading one long text: blank or indented lines" in text
    )
    assert network.startswith(f"network: {choice.config.model.hidden_size[0]} units, ")
    assert "1 minute and" in network
    assert training.startswith("training: ") and "stops early, before 1 minute" in training
    assert dropout.startswith("dropout: 0") and "passes over the text" in dropout
    records = choose([text_of(NAMES), "training.steps=3"], speed=constant_speed(50_000))
    assert records.reasons[0].endswith(
        "one record per line: the lines are short and their order does not matter"
    )


def test_an_uncertain_reading_names_the_alternative_setting(text_of):
    texts = {
        "stream": kinds.unpunctuated_sentences(300),
        "records": kinds.sentence_per_line(300, shuffled=True),
    }
    for mode, text in texts.items():
        choice = choose([text_of(text), "training.steps=3"], speed=constant_speed(50_000))
        assert choice.config.corpus.mode == mode
        other = {"stream": "records", "records": "stream"}[mode]
        assert choice.reasons[0].endswith(f", add --set corpus.mode={other}"), mode


@pytest.mark.parametrize("minutes", [1, 60])
@pytest.mark.parametrize("level", ["char", "byte", "word"])
def test_records_have_the_same_settings_whether_the_mode_is_chosen_or_set(level, minutes, text_of):
    text = text_of(kinds.headlines(900).replace("e", "é"))
    overrides = [text, f"tokenizer.level={level}", f"training.minutes={minutes}"]
    automatic_choice = choose(overrides, speed=constant_speed(50_000))
    set_mode = choose([*overrides, "corpus.mode=records"], speed=constant_speed(50_000))
    assert automatic_choice.config == set_mode.config
    assert automatic_choice.reasons[1:] == set_mode.reasons[1:]


def test_the_planned_steps_of_records_count_one_end_per_line(text_of):
    names = kinds.names(2000)
    overrides = ["training.epochs=2", "corpus.valid_share=0", "tokenizer.level=byte"]
    choice = choose([text_of(names), *overrides], speed=constant_speed(50_000))
    assert f", {len(names) - 2000:,} characters for training" in choice.reasons[0]
    steps = int(choice.reasons[2].removeprefix("training: ").split()[0].replace(",", ""))
    assert steps == pytest.approx(2 * 2000 / 64, rel=0.1)


def test_a_chosen_configuration_trains(text_of, tmp_path):
    overrides = [text_of(PROSE), "training.steps=3", "training.device=cpu"]
    config = choose(overrides, speed=constant_speed(300)).config
    folder = tmp_path / "run"
    train_all(config, folder)
    saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert saved["model"]["hidden_size"] == config.model.hidden_size[0]
    assert load_config(folder / "config.yaml").training == config.training


def test_the_measured_speed_falls_with_the_hidden_size(text_of, monkeypatch):
    monkeypatch.setattr(speed, "_SECONDS_PER_SIZE", 0.01)
    tokens_per_second = speed.measured_speed(
        {"steps": 10**9, "batch_size": 8, "window": 16},
        vocabulary_size=90,
        hardware=Hardware(torch.device("cpu")),
    )
    assert tokens_per_second(32) > tokens_per_second(256) > tokens_per_second(2048) > 0
    assert math.isfinite(tokens_per_second(64))
    overrides = [text_of(PROSE), "training.minutes=0.1", "training.device=cpu"]
    assert choose(overrides).config.model.hidden_size[0] in automatic._HIDDEN_SIZES


def test_mistakes_have_the_messages_of_a_configuration_file(text_of):
    with pytest.raises(CharlmError, match="hiden_size"):
        choose([text_of(PROSE), "model.hiden_size=3"])
    with pytest.raises(CharlmError, match=r"nowhere\.txt"):
        choose(["corpus.text=nowhere.txt"])
