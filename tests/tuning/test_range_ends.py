"""A best value at an end of its range, beyond which there are values to try."""

import pytest

from charlm.tuning.range_ends import range_ends
from charlm.tuning.results import Trial, Tuning


def ends_of(config, folder, search: str, values: list, **others) -> list[tuple]:
    """Return the ends that a search reports whose trials had these values, the best one first."""
    key, _, text = search.partition("=")
    trials = [
        Trial(
            number=number,
            outcome=others.get("outcome", "finished"),
            loss_nats=others.get("loss_nats", 1.0 + number),
            seconds=1.0,
            values={key: value},
            note="",
        )
        for number, value in enumerate(values)
    ]
    tuning = Tuning(folder=folder, space={key: text}, trials=trials, config=config)
    return [(end.key, end.value, end.side, end.end) for end in range_ends(tuning)]


@pytest.mark.parametrize(
    ("search", "value", "side", "end"),
    [
        ("training.learning_rate=1e-3..1e-1", 0.09, "upper", 0.1),  # 0.98 of the two decades
        ("training.learning_rate=1e-3..1e-1", 0.0011, "lower", 0.001),
        ("training.learning_rate=0.02..0.1", 0.097, "upper", 0.1),
        ("training.learning_rate=0.02..0.1", 0.02, "lower", 0.02),
        ("model.num_layers=1..4", 4, "upper", 4),
        ("model.hidden_size=8,16,32", 32, "upper", 32),
        ("model.hidden_size=16,32,8", 8, "lower", 8),
        ("training.learning_rate=1e-3,3e-3,1e-2", 0.001, "lower", 0.001),
    ],
)
def test_a_best_value_at_an_end_is_reported_with_the_end(
    config, tmp_path, search, value, side, end
):
    found = ends_of(config, tmp_path, search, [value, 0.05, 16, 3])
    assert found == [(search.partition("=")[0], value, side, end)]


@pytest.mark.parametrize(
    ("search", "value"),
    [
        ("training.learning_rate=1e-3..1e-1", 0.07),  # 0.92 of the two decades, 0.7 of the range
        ("training.learning_rate=1e-3..1e-1", 0.003),  # 0.02 of the range, but 0.24 of the decades
        ("training.learning_rate=0.02..0.1", 0.09),
        ("model.num_layers=1..4", 3),
        ("model.hidden_size=8,16,32", 16),
        ("model.hidden_size=8,9,32", 9),
        ("model.hidden_size=8,16", 16),  # One of two choices is always at an end.
        ("model.hidden_size=8,[16,8],32", 32),
        ("training.clipnorm=null,1,10", 10),
        ("model.cell=gru,lstm,elman", "elman"),
    ],
)
def test_a_best_value_inside_a_range_or_without_an_order_is_not_reported(
    config, tmp_path, search, value
):
    assert ends_of(config, tmp_path, search, [value, 0.05, 16, 3]) == []


@pytest.mark.parametrize(
    ("search", "value"),
    [
        ("model.output_dropout=0..0.5", 0.0),
        ("model.output_dropout=0,0.1,0.2", 0),
        ("model.num_layers=1..4", 1),
        ("model.output_dropout=0.5..0.98", 0.97),
    ],
)
def test_an_end_that_is_the_limit_of_the_setting_is_not_reported(config, tmp_path, search, value):
    assert ends_of(config, tmp_path, search, [value, 0.3, 0.6, 3]) == []


def test_few_scored_values_and_an_unfinished_search_say_nothing_about_the_ends(config, tmp_path):
    search, values = "training.learning_rate=1e-3..1e-1", [0.1, 0.05, 0.01]
    assert ends_of(config, tmp_path, search, values)
    assert not ends_of(config, tmp_path, search, values[:2])
    assert not ends_of(config, tmp_path, search, [0.1, 0.05, 0.05])
    assert not ends_of(config, tmp_path, search, values, outcome="unfinished")
    assert not ends_of(config, tmp_path, search, values, outcome="diverged", loss_nats=None)
    assert not ends_of(config, tmp_path, search, [])
