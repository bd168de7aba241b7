"""Settings chosen for a text, a device and a budget."""

import itertools
import json
import math

import kinds
import numpy as np
import pytest
import yaml
from conftest import RECORDS, TEXT, train_all

from charlm.config.load import load_config
from charlm.config.schema import Config
from charlm.data.corpus import open_corpus
from charlm.data.resolve import resolve
from charlm.data.windows.records import record_windows
from charlm.data.windows.window import Position
from charlm.errors import CharlmError
from charlm.runs.automatic.choice import choose
from charlm.runs.automatic.device import device_speed
from charlm.runs.automatic.plan import MAX_PASSES, max_passes
from charlm.runs.automatic.recipes import HIDDEN_SIZES, STREAM, WORDS
from charlm.runs.automatic.text import TextFacts, inspect_text
from charlm.runs.encoding import encode

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


def test_records_that_are_set_decide_whether_documents_or_lines_are_examined(text_of):
    for record, mode in (("line", "records"), ("document", "stream")):
        config = chosen(text_of(NAMES), f"corpus.record={record}")
        assert (config.corpus.record, config.corpus.mode) == (record, mode)


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


def test_characters_of_a_text_that_is_read_at_most_two_and_a_half_times_have_ngrams(text_of):
    text = text_of(PROSE * 50)
    cases = [
        (4, ["training.epochs=1"]),
        (4, ["training.epochs=2.5"]),
        (0, ["training.epochs=2.6"]),
        (0, ["training.epochs=1", "tokenizer.level=word"]),
        (0, ["training.epochs=1", "corpus.mode=records"]),
        (3, ["training.epochs=1", "model.ngrams=3"]),
    ]
    for expected, overrides in cases:
        choice = choose([text, *overrides], speed=constant_speed(50_000))
        assert choice.config.model.ngrams == expected, overrides
        says = f"embeddings of the last 2 to {expected} characters" in choice.reasons[1]
        assert says == (expected > 0), overrides
        is_chosen = choice.reasons[1].endswith("because the text is read at most 2.5 times")
        assert is_chosen == (expected == 4), overrides


@pytest.mark.parametrize(
    ("minutes", "overrides", "expected"),
    [(1, [], 4), (4, [], 4), (5, [], 0), (5, ["model.ngrams=3"], 3), (1, ["model.ngrams=0"], 0)],
)
def test_the_measured_speed_is_that_of_a_network_with_the_chosen_ngrams(
    minutes, overrides, expected, text_of, monkeypatch
):
    """With n-grams, four minutes are 2.1 passes and five 2.7; without them, four are 2.7."""
    speeds = {0: 1000.0, 3: 900.0, 4: 800.0}
    monkeypatch.setattr(
        "charlm.runs.automatic.device.measured_speed",
        lambda *_, network, **__: lambda size: speeds[network(size)["ngrams"]],
    )
    text = text_of(PROSE * (100_000 // len(PROSE)))
    fields = [text, f"training.minutes={minutes}", "training.device=cpu", *overrides]
    choice = choose([*fields, "training.batch_size=1", "training.window=50"])
    assert choice.config.model.ngrams == expected
    steps = minutes * 60 * speeds[expected] / 50
    assert choice.reasons[2].startswith(f"training: about {steps:,.0f} steps ")


def test_the_measured_network_has_the_set_recurrence_layers_and_block(text_of, monkeypatch):
    measured = []

    def measured_speed(*_, network, **__):
        measured.append(network(256))
        return lambda size: 1000.0

    monkeypatch.setattr("charlm.runs.automatic.device.measured_speed", measured_speed)
    overrides = ["model.cell.kind=gru", "model.cell.reset=before", "model.num_layers=2"]
    block = ["model.block=griffin", "model.mlp_expansion=2"]
    choice = choose([text_of(PROSE), "training.minutes=1", *overrides, *block])
    assert measured[0] == {
        "cell": {"kind": "gru", "reset": "before"},
        "num_layers": 2,
        "block": "griffin",
        "mlp_expansion": 2,
        "hidden_size": 256,
        "embedding_size": 256,
        "ngrams": 0,
    }
    model = choice.config.model
    assert model.embedding_size == model.hidden_size[0]
    assert choose([text_of(PROSE), "training.minutes=1"]).config.model.embedding_size == 16


def test_two_networks_read_half_of_the_tokens(text_of, pairs_files, monkeypatch):
    monkeypatch.setattr(
        "charlm.runs.automatic.device.measured_speed", lambda *_, **__: lambda size: 1000.0
    )
    tagged = [f"corpus.text={pairs_files['tag']}", "task.kind=tag"]
    for settings, expected in (
        ([text_of(PROSE)], 1000),
        ([text_of(PROSE), "model.direction=both"], 500),
        (tagged, 500),
        ([*tagged, "model.direction=forward"], 1000),
    ):
        config = load_config(None, settings)
        tokens_per_second = device_speed(config, inspect_text(config).text)
        assert tokens_per_second(256) == expected, settings


def test_the_measured_steps_are_taken_as_those_of_the_training(text_of, pairs_files, monkeypatch):
    measured = []

    def measured_speed(fields, **_):
        measured.append((fields["accumulation"], fields["cuda_graph"]))
        return lambda size: 1000.0

    monkeypatch.setattr("charlm.runs.automatic.device.measured_speed", measured_speed)
    settings = ["training.minutes=1", "training.accumulation=4", "training.cuda_graph=true"]
    choose([text_of(PROSE), *settings])
    choose([f"corpus.text={pairs_files['tag']}", "task.kind=tag", *settings])  # Without graphs.
    assert (measured[0], measured[-1]) == ((4, True), (4, False))


def test_the_measured_batch_and_vocabulary_are_those_of_the_training(text_of, monkeypatch):
    measured = []

    def measured_speed(fields, *, vocabulary_size, **_):
        measured.append((fields["batch_size"], fields["window"], vocabulary_size))
        return lambda size: 1000.0

    monkeypatch.setattr("charlm.runs.automatic.device.measured_speed", measured_speed)
    short, names = PROSE[:2000], kinds.names(300)
    for text, overrides, expected in (
        (short, [], (2, 64, len(set(short)) + 2)),
        (short, ["training.batch_size=5", "training.window=1"], (5, 1, len(set(short)) + 2)),
        (short, ["tokenizer.level=byte"], (2, 64, 258)),
        (short, ["tokenizer.vocabulary_size=9"], (2, 64, 9)),
        (short, ["tokenizer.level=word", "tokenizer.vocabulary_size=77"], (1, 32, 77)),
        (short, ["tokenizer.level=word", "tokenizer.vocabulary_size=99999"], (1, 32, 10_000)),
        (names, ["corpus.valid_share=0"], (64, 8, len(set(names)) + 1)),  # No line end.
    ):
        choose([text_of(text), "training.minutes=1", *overrides])
        batch_size, window, vocabulary_size = measured[-1]
        assert abs(window - expected[1]) <= 3, overrides
        assert (batch_size, vocabulary_size) == (expected[0], expected[2]), overrides


def test_a_change_of_the_speed_by_three_percent_seldom_changes_the_choice():
    text = TextFacts(
        title="a novel",
        characters=2_000_000,
        mode="stream",
        reading="",
        level="char",
        alphabet_size=80,
        num_records=1,
        record_tokens=40,
        record_lengths=np.array([40.0]),
    )
    changes = {
        "hidden_size": lambda x: STREAM.hidden_size(
            text, lambda size: 1e5 * x * (256 / size) ** 2, in_minutes=True
        ),
        "rate": lambda x: STREAM.peak_rate(256, 1000 * x, passes=8),
        "dropout": STREAM.output_dropout,
    }
    for name, most in {"hidden_size": 0.04, "rate": 0.05, "dropout": 0.15}.items():
        amounts = [1.01**power for power in range(500)]
        changed = sum(changes[name](x) != changes[name](1.03 * x) for x in amounts)
        assert 0 < changed < most * len(amounts), (name, changed)


def test_rates_are_rounded_to_ten_per_decade():
    rates = {STREAM.peak_rate(256, steps, passes=8) for steps in range(4000, 80_000, 500)}
    assert sorted(rates) == [0.016, 0.02, 0.025, 0.032, 0.04]


def test_minutes_of_few_passes_have_a_smaller_network_and_twice_the_batch(text_of):
    """As docs/lab/2026-11-28.md measured it; a budget of steps or of passes has neither."""
    text = text_of("".join(f"word{number} and " for number in range(200_000)))

    def size_and_batch(budget: str) -> tuple[int, int]:
        config = chosen(text, f"training.{budget}", tokens_per_second=40_000)
        return config.model.hidden_size[0], config.training.batch_size

    assert size_and_batch("minutes=1") == (192, 64)
    for budget in ("steps=1100", "epochs=1"):
        assert size_and_batch(budget) == (256, 32), budget
    for minutes in (0.1, 10):  # A few steps, and many passes.
        assert size_and_batch(f"minutes={minutes}")[1] == 32, minutes


def test_the_rate_of_a_text_that_is_read_once_falls_sooner():
    once, thrice, often = (
        [STREAM.peak_rate(512, steps, passes) for steps in (500, 1_900, 5_346)]
        for passes in (1, 3, 8)
    )
    assert once == [0.04, 0.02, 0.01]
    assert thrice == [0.04, 0.025, 0.016]
    assert often == [0.04, 0.04, 0.04]
    assert WORDS.peak_rate(256, 3_000, passes=1) == WORDS.learning_rate


def test_training_on_a_small_text_stops_early(text_of):
    training = chosen(text_of(PROSE), "training.minutes=60").training
    assert training.minutes is None
    assert training.epochs == MAX_PASSES
    assert (training.optimizer, training.weight_decay) == ("muon", 0.3)
    long = PROSE * 200
    config = chosen(text_of(long), "training.minutes=1")
    assert config.training.minutes == 1 and config.training.epochs is None
    assert (config.training.optimizer, config.training.weight_decay) == ("muon", 0.1)
    tokens = 60 * constant_speed(50_000)(config.model.hidden_size[0])
    assert tokens / (0.9 * len(long)) < MAX_PASSES


@pytest.mark.parametrize(
    ("mode", "level", "passes"),
    [
        ("stream", "char", [60, 60, 42.4, 30, 30]),
        ("records", "char", [60] * 5),
        ("stream", "word", [60] * 5),
    ],
)
def test_a_longer_text_of_characters_is_read_fewer_times(mode, level, passes):
    sizes = (50_000, 400_000, 632_000, 1_000_000, 100_000_000)
    texts = [
        TextFacts(
            title="a novel",
            characters=characters,
            mode=mode,
            reading="",
            level=level,
            alphabet_size=80,
            num_records=1,
            record_tokens=40,
            record_lengths=np.array([40.0]),
        )
        for characters in sizes
    ]
    assert list(map(max_passes, texts)) == passes


def test_the_optimizer_does_not_depend_on_the_budget_and_no_setting_jumps_at_the_last_pass(text_of):
    text = text_of(PROSE)
    below, above = (
        chosen(text, f"training.minutes={60 * factor}", tokens_per_second=23.5).training
        for factor in (0.9, 1.5)
    )
    assert below.epochs is None and above.epochs == MAX_PASSES
    same = ("optimizer", "batch_size", "weight_decay")
    assert [getattr(below, name) for name in same] == [getattr(above, name) for name in same]
    assert below.learning_rate / 1.3 < above.learning_rate < 1.3 * below.learning_rate


def test_weight_decay_falls_with_the_steps_of_a_training_of_many_passes():
    decays = [
        STREAM.weight_decay(25, steps, rate)
        for steps, rate in ((1_200, 0.04), (4_400, 0.04), (12_600, 0.025))
    ]
    assert decays == [0.3, 0.15, 0.1]


def by_mode_and_passes(text_of, field: str, *passes: int) -> dict[tuple[str, int], object]:
    """Return a chosen setting of the training for each mode and number of passes."""
    return {
        (mode, epochs): getattr(
            chosen(text_of(PROSE), f"corpus.mode={mode}", f"training.epochs={epochs}").training,
            field,
        )
        for mode in ("stream", "records")
        for epochs in passes
    }


def test_the_streams_of_a_text_read_many_times_begin_at_other_places_in_each_pass(text_of):
    shuffled = by_mode_and_passes(text_of, "partial_shuffle", 2, 16)
    assert [key for key, value in shuffled.items() if value] == [("stream", 16)]


def test_only_a_stream_read_many_times_gets_a_high_weight_decay(text_of):
    decay = by_mode_and_passes(text_of, "weight_decay", 1, 16, 60)
    assert decay == {
        ("stream", 1): 0.1,
        ("stream", 16): 0.2,
        ("stream", 60): 0.3,
        ("records", 1): 0.1,
        ("records", 16): 0.1,
        ("records", 60): 0.1,
    }


def test_a_budget_of_steps_or_epochs_stays_as_set(text_of):
    text = text_of(PROSE)
    assert chosen(text, "training.epochs=500").training.epochs == 500
    assert chosen(text, "training.steps=7").training.steps == 7


def test_twice_the_batch_is_chosen_for_many_steps_unless_their_number_is_set(text_of):
    text = text_of(PROSE * 50)
    for budget, batch_size in (("epochs=2000", 64), ("steps=30000", 32)):
        choice = choose([text, f"training.{budget}"], speed=constant_speed(50_000))
        assert choice.config.training.batch_size == batch_size
        assert f" steps of {batch_size} streams x 64 tokens" in choice.reasons[2]
    assert choice.reasons[2].startswith("training: 30,000 steps ")


def planned_steps(training: str) -> int:
    """Return the number of steps in the line of reasons about the training."""
    number = training.removeprefix("training: ").removeprefix("about ").split()[0]
    return int(number.replace(",", ""))


def steps_of(config: Config) -> int:
    """Return the number of steps of a training by passes over a text of records."""
    windows = record_windows(
        encode(resolve(config)).tokens["train"].ids,
        batch_size=config.training.batch_size,
        window=config.training.window,
        seed=config.training.seed,
        start=Position(),
    )
    epochs = config.training.epochs
    return 1 + sum(1 for _ in itertools.takewhile(lambda window: window.epochs < epochs, windows))


@pytest.mark.parametrize("count", [300, 1000, 5000])
def test_the_planned_steps_of_records_shorter_than_a_window_are_those_of_the_training(
    count, text_of
):
    for overrides in ([], ["corpus.valid_share=0"], ["training.batch_size=7"]):
        text = text_of(kinds.names(count))
        choice = choose([text, "training.epochs=10", *overrides], speed=constant_speed(50_000))
        assert planned_steps(choice.reasons[2]) == steps_of(choice.config), overrides


def test_the_planned_steps_of_a_stream_leave_out_windows_that_are_not_full(text_of):
    for size, batch_size in ((1_999, 2), (30_000, 32)):
        overrides = [text_of((PROSE * 20)[:size]), "training.epochs=10", "corpus.valid_share=0"]
        choice = choose(overrides, speed=constant_speed(50_000))
        assert choice.config.training.batch_size == batch_size
        assert planned_steps(choice.reasons[2]) == 10 * (size // (64 * batch_size))


def test_the_number_of_steps_is_approximate_unless_it_is_set(text_of):
    text = text_of(PROSE)
    for budget, beginning in (
        ("steps=1", "training: 1 step of "),
        ("epochs=3", "training: about 30 steps of "),
        ("minutes=1", "training: about "),
    ):
        choice = choose([text, f"training.{budget}"], speed=constant_speed(50_000))
        assert choice.reasons[2].startswith(beginning)


def test_the_number_of_steps_counts_every_window_of_records_longer_than_a_window(text_of):
    for shortest, longest in ((5, 20), (30, 90), (66, 130), (10, 600)):
        lengths = np.random.default_rng(1).integers(shortest, longest, 2000)
        text = text_of("\n".join("ab" * (length // 2) for length in lengths.tolist()))
        overrides = [text, "corpus.mode=records", "corpus.valid_share=0", "training.epochs=1"]
        choice = choose(overrides, speed=constant_speed(50_000))
        planned, steps = planned_steps(choice.reasons[2]), steps_of(choice.config)
        assert planned == pytest.approx(steps, rel=0.05), (shortest, longest)


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
    fraction = chosen(text_of(large)).corpus.valid_share
    assert fraction * len(large) == pytest.approx(200_000, rel=0.05)


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
    assert training.startswith("training: ")
    assert "after these passes, and not after 1 minute" in training
    assert dropout.startswith("dropout: 0") and "passes over the text" in dropout
    set_dropout = [text_of(PROSE), "model.output_dropout=0"]
    assert choose(set_dropout, speed=constant_speed(50_000)).reasons[3] == (
        "dropout: 0 of the output (as set), 0.25 of the embedding, because of 60.0 passes over "
        "the text"
    )
    few = choose([text_of(PROSE * 50), "training.steps=4"], speed=constant_speed(50_000))
    assert ", 0.0" in few.reasons[2] and ", 0.0 passes" not in few.reasons[2]
    one = choose([text_of(PROSE), "training.steps=1"], speed=constant_speed(50_000))
    assert one.reasons[2].startswith("training: 1 step of ")
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
    settings = ["training.epochs=2", "corpus.valid_share=0", "tokenizer.level=byte"]
    overrides = [text_of(names), *settings]
    choice = choose(overrides, speed=constant_speed(50_000))
    assert inspect_text(load_config(None, overrides)).text.characters == len(names) - 2000
    assert planned_steps(choice.reasons[2]) == 2 * math.ceil(2000 / 64)


def test_characters_of_several_bytes_are_counted_without_the_line_ends_of_records(text_of):
    names = "".join(chr(0x4E00 + ord(letter)) if letter.isalpha() else letter for letter in NAMES)
    overrides = [text_of(names), "corpus.valid_share=0", "corpus.mode=records"]
    characters = len(names) - names.count("\n")
    assert inspect_text(load_config(None, overrides)).text.characters == characters


def test_the_planned_passes_over_few_records_are_those_of_the_training(text_of, tmp_path):
    names = "".join(f"{word}{number}\n" for word in ("anna", "otto") for number in range(50))
    overrides = [text_of(names), "corpus.mode=records", "training.steps=12"]
    choice = choose([*overrides, "training.device=cpu"], speed=constant_speed(300))
    experiment = train_all(choice.config, tmp_path / "run")
    assert f"{experiment.state.epochs:.1f} passes" in choice.reasons[2]


def test_pairs_are_read_whole_and_fewer_of_them_per_step_if_they_are_long(text_of, monkeypatch):
    measured = []

    def measured_speed(fields, **_):
        measured.append(fields["window"])
        return lambda size: 10_000.0

    monkeypatch.setattr("charlm.runs.automatic.device.measured_speed", measured_speed)
    pairs = "".join(f"{'a sentence and ' * 20}{number}\t{number % 2}\n" for number in range(400))
    overrides = ["task.kind=classify", "corpus.valid_share=0", "training.window=100"]
    choice = choose([text_of(pairs), *overrides, "training.minutes=1"])
    tokens = len(pairs) / 400
    assert measured[-1] == 64
    steps = f"{600_000 / 8 / tokens:,.0f}"
    assert choice.reasons[2].startswith(f"training: about {steps} steps of 8 records x 3")


def test_a_chosen_configuration_trains(text_of, tmp_path):
    overrides = [text_of(PROSE), "training.steps=3", "training.device=cpu"]
    config = choose(overrides, speed=constant_speed(300)).config
    folder = tmp_path / "run"
    train_all(config, folder)
    saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert saved["model"]["hidden_size"] == config.model.hidden_size[0]
    assert load_config(folder / "config.yaml").training == config.training


def test_the_speed_is_measured_if_none_is_given(text_of, monkeypatch):
    monkeypatch.setattr("charlm.runs.automatic.speed._SECONDS_PER_SAMPLE", 0.005)
    overrides = [text_of(PROSE), "training.minutes=0.1", "training.device=cpu"]
    assert choose(overrides).config.model.hidden_size[0] in HIDDEN_SIZES


def test_mistakes_have_the_messages_of_a_configuration_file(text_of):
    with pytest.raises(CharlmError, match="hiden_size"):
        choose([text_of(PROSE), "model.hiden_size=3"])
    with pytest.raises(CharlmError, match=r"nowhere\.txt"):
        choose(["corpus.text=nowhere.txt"])
