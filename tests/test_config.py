"""The configuration: defaults, overrides, mistakes, and the file that it prints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import Cell, Config, check_config, dump, load_config, shipped
from charlm.errors import ConfigError


def mistakes_of(tmp_path, text: str) -> str:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_printed_configuration_reads_back_as_itself(tmp_path):
    config = load_config(None, ['corpus.separator="\\f"', "corpus.text=[a.txt, 'b: c#']", "training.epochs=2.5"])
    path = tmp_path / "printed.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load_config(path) == config


def test_every_field_is_printed_with_a_comment():
    for line in dump(load_config()).splitlines():
        assert "  # " in line and len(line.split("  # ")[1]) > 3


@pytest.mark.parametrize("path", sorted(shipped("configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid_and_tells_its_command_and_score(path):
    load_config(path)
    header = path.read_text(encoding="utf-8").split("corpus:")[0]
    assert "charlm train" in header and "nats" in header


def test_a_shipped_configuration_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart") == load_config("configs/quickstart.yaml")


def test_three_mistakes_are_told_together_with_the_nearest_keys(tmp_path):
    message = mistakes_of(tmp_path, "model:\n  hiden_size: 3\n  num_layers: 0\ntraning:\n  steps: 1\n")
    assert "model.hiden_size (nearest: model.hidden_size)" in message
    assert "model.num_layers must be greater than or equal to 1, got 0" in message
    assert "traning (nearest: training)" in message


def test_a_key_in_the_wrong_section_is_told_where_it_belongs(tmp_path):
    assert "training.hidden_size (nearest: model.hidden_size)" in mistakes_of(tmp_path, "training: {hidden_size: 3}")


@pytest.mark.parametrize("text", ["3e-4", "3.0e-4", "0.0003", "'3e-4'"])
def test_a_rate_is_read_in_every_way_of_writing_it(text):
    assert load_config(None, [f"training.learning_rate={text}"]).training.learning_rate == pytest.approx(3e-4)


def test_a_minute_is_the_budget_where_none_is_given():
    assert load_config().training.minutes == 1.0


def test_two_budgets_in_a_file_are_refused(tmp_path):
    assert "steps and epochs: give one" in mistakes_of(tmp_path, "training: {steps: 3, epochs: 2}")


def test_a_budget_on_the_command_line_takes_the_place_of_the_file_s(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("training: {minutes: 3, window: 8}", encoding="utf-8")
    training = load_config(path, ["training.steps=5"]).training
    assert (training.minutes, training.steps, training.window) == (None, 5, 8)


def test_a_cell_is_given_by_name_or_with_options():
    assert load_config(None, ["model.cell=gru"]).model.cell == Cell(kind="gru")
    assert load_config(None, ["model.cell={kind: elman, activation: relu}"]).model.cell == Cell(
        kind="elman", activation="relu"
    )
    overrides = ["model.cell=elman", "model.cell.activation=sigmoid"]
    assert load_config(None, overrides).model.cell == Cell(kind="elman", activation="sigmoid")


@pytest.mark.parametrize(
    ("override", "problem"),
    [("hidden_size=3", "must be section.key=value"), ("model.hidden_size", "must be section.key=value"),
     ("model.hidden_size=[", "not YAML"), ("model.hidden_size=1.5", "must be a valid integer"),
     ("training.learning_rate=.nan", "finite"), ("training.device=tpu", "training.device"),
     ("tokenizer.words=whitespace", "needs level: word"), ("corpus.valid_share=1", "less than 1"),
     ],
)  # fmt: skip
def test_a_wrong_override_is_one_clear_line(override, problem):
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as caught:
        load_config(None, [override])
    assert problem in str(caught.value)


def test_an_option_without_effect_is_refused():
    with pytest.raises(ConfigError, match="lowercase: has no effect at level byte"):
        load_config(None, ["tokenizer.level=byte", "tokenizer.lowercase=true"])


def test_shares_that_leave_no_training_text_are_refused():
    with pytest.raises(ConfigError, match="leave nothing to train on"):
        load_config(None, ["corpus.valid_share=0.6", "corpus.test_share=0.5"])


@pytest.mark.parametrize("text", ["[1, 2]", "model: {", "\x00", "just words"])
def test_a_file_that_is_no_configuration_is_one_clear_line(tmp_path, text):
    assert "bad.yaml" in mistakes_of(tmp_path, text)


def test_a_file_that_is_not_utf8_is_one_clear_line(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"model: \xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(path)


def test_yaml_tags_are_not_executed(tmp_path):
    assert "not YAML" in mistakes_of(tmp_path, "model: !!python/object/apply:os.system ['echo no']")


def test_a_missing_file_names_the_nearest_shipped_one():
    with pytest.raises(ConfigError, match="did you mean quickstart"):
        load_config("quickstrt")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["corpus", "tokenizer", "model", "training", "x"]), values))
def test_any_data_is_a_configuration_or_a_clear_error(data):
    try:
        assert isinstance(check_config(data, "here"), Config)
    except ConfigError as error:
        assert str(error).startswith("here: ")
