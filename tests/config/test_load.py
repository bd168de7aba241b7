"""The configuration: defaults, overrides, mistakes, and the file that it prints."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from charlm.config.load import check_config, load_config, shipped
from charlm.config.schema import CELL_OPTIONS, Cell, Config
from charlm.config.show import dump
from charlm.errors import ConfigError


def mistakes_of(tmp_path, text: str) -> str:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_printed_configuration_reads_back_as_itself(tmp_path):
    config = load_config(
        None, ['corpus.separator="\\f"', "corpus.text=[a.txt, 'b: c#']", "training.epochs=2.5"]
    )
    path = tmp_path / "printed.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load_config(path) == config


def test_every_field_is_printed_with_a_comment():
    for line in dump(load_config()).splitlines():
        assert "  # " in line and len(line.split("  # ")[1]) > 3


@pytest.mark.parametrize(
    "path", sorted(shipped("configs").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_shipped_configuration_is_valid_and_tells_its_command_and_score(path):
    load_config(path)
    header = path.read_text(encoding="utf-8").split("\ncorpus:")[0]
    assert f"charlm train --config {path.stem}" in header.replace("configs/", "")
    assert "nats" in header or "has not been run" in header


def test_a_shipped_configuration_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart") == load_config("configs/quickstart.yaml")


def test_three_mistakes_are_told_together_with_the_nearest_keys(tmp_path):
    message = mistakes_of(
        tmp_path, "model:\n  hiden_size: 3\n  num_layers: 0\ntraning:\n  steps: 1\n"
    )
    assert "model.hiden_size (nearest: model.hidden_size)" in message
    assert "model.num_layers must be greater than or equal to 1, got 0" in message
    assert "traning (nearest: training)" in message


def test_a_key_in_the_wrong_section_is_told_where_it_belongs(tmp_path):
    assert "training.hidden_size (nearest: model.hidden_size)" in mistakes_of(
        tmp_path, "training: {hidden_size: 3}"
    )


@pytest.mark.parametrize("text", ["3e-4", "3.0e-4", "0.0003", "'3e-4'"])
def test_a_rate_is_read_in_every_way_of_writing_it(text):
    assert load_config(
        None, [f"training.learning_rate={text}"]
    ).training.learning_rate == pytest.approx(3e-4)


def test_a_minute_is_the_budget_where_none_is_given():
    assert load_config().training.minutes == 1.0


def test_an_option_that_was_removed_is_refused_with_the_reason(tmp_path):
    for key, value in (("gradient_compression", "powersgd"), ("shard_optimizer", "true")):
        message = mistakes_of(tmp_path, f"training: {{{key}: {value}, step: 3}}")
        assert f"training.{key}: {value} was removed, because" in message, key
        assert "unknown key training.step " in message, key


def test_the_default_of_an_option_that_was_removed_still_loads():
    for change in ("gradient_compression=none", "shard_optimizer=false"):
        assert load_config(None, [f"training.{change}"]) == load_config(), change


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
    [
        ("hidden_size=3", "must be section.key=value"),
        ("model.hidden_size", "must be section.key=value"),
        ("model.hidden_size=[", "not YAML"),
        ("model.hidden_size=1.5", "must be a valid integer"),
        ("training.learning_rate=.nan", "finite"),
        ("training.device=tpu", "training.device"),
        ("tokenizer.words=whitespace", "needs level: word"),
        ("corpus.valid_share=1", "less than 1"),
    ],
)
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
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["corpus", "tokenizer", "model", "training", "x"]), values))
def test_any_data_is_a_configuration_or_a_clear_error(data):
    try:
        assert isinstance(check_config(data, "here"), Config)
    except ConfigError as error:
        assert str(error).startswith("here: ")


# The network.


@pytest.mark.parametrize(
    "kind", ["bag", "elman", "gru", "lstm", "nested_lstm", "mogrifier_lstm", "min_gru", "min_lstm"]
)
def test_every_recurrence_is_named_in_short_or_as_a_section(kind):
    short = load_config(None, [f"model.cell={kind}"]).model.cell
    assert (
        short
        == check_config({"model": {"cell": {"kind": kind}}}, "here").model.cell
        == Cell(kind=kind)
    )
    assert short.kind == kind and short.options == CELL_OPTIONS.get(kind, ())


# A cell section each that uses every option of its kind, and what of it is printed.
CELL_SECTIONS = {
    "bag": {},
    "elman": {"activation": "relu"},
    "gru": {"reset": "before"},
    "lstm": {
        "peepholes": ["input", "output"],
        "peephole_weights": "full",
        "without": ["output_activation"],
        "coupled": False,
        "capped": True,
        "full_gate_recurrence": True,
    },
    "nested_lstm": {"depth": 3},
    "mogrifier_lstm": {"rounds": 2, "rank": None},
    "min_gru": {},
    "min_lstm": {},
}
CHANGED_OPTIONS = {
    **{name: value for section in CELL_SECTIONS.values() for name, value in section.items()},
    "coupled": True,
}


@pytest.mark.parametrize("kind", CELL_SECTIONS)
def test_a_printed_cell_has_the_options_of_its_kind_alone_and_reads_back_as_itself(tmp_path, kind):
    given = {"kind": kind, **CELL_SECTIONS[kind]}
    config = check_config({"model": {"cell": given}}, "here")
    printed = dump(config)
    path = tmp_path / "printed.yaml"
    path.write_text(printed, encoding="utf-8")
    assert list(yaml.safe_load(printed)["model"]["cell"]) == list(given)
    assert load_config(path) == config
    for option, value in CELL_SECTIONS[kind].items():
        assert getattr(load_config(path).model.cell, option) == (
            tuple(value) if isinstance(value, list) else value
        )


@pytest.mark.parametrize(
    "option", sorted({option for options in CELL_OPTIONS.values() for option in options})
)
def test_an_option_is_refused_by_every_kind_but_its_own(option):
    (owner,) = [kind for kind, options in CELL_OPTIONS.items() if option in options]
    value = CHANGED_OPTIONS[option]
    for kind in CELL_SECTIONS:
        if kind != owner:
            section = {"model": {"cell": {"kind": kind, option: value}}}
            with pytest.raises(
                ConfigError, match=rf"here: model\.cell {option}: .*of {owner}.*{kind}.*remove it"
            ):
                check_config(section, "here")


def test_another_kind_on_the_command_line_does_not_inherit_the_options_of_the_file_s(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("model: {cell: {kind: lstm, peepholes: [input]}}", encoding="utf-8")
    assert load_config(path, ["model.cell=gru"]).model.cell == Cell(kind="gru")
    assert load_config(path, ["model.cell.coupled=true"]).model.cell.peepholes == ("input",)
    with pytest.raises(
        ConfigError, match="peepholes: is an option of lstm; kind gru has none such; remove it"
    ):
        load_config(path, ["model.cell.kind=gru"])


def test_one_name_stands_for_a_list_of_one():
    cell = load_config(None, ["model.cell={peepholes: input, without: output_gate}"]).model.cell
    assert (cell.peepholes, cell.without) == (("input",), ("output_gate",))


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("{kind: lstn}", "model.cell.kind 'lstn' is not registered (nearest: lstm; known: bag, "),
        ("{kind: lstm, peephole: [input]}", "model.cell.peephole (nearest: model.cell.peepholes)"),
        (
            "{activation: swish, kind: elman}",
            "model.cell.activation must be 'tanh', 'relu' or 'sigmoid', got 'swish'",
        ),
        (
            "{kind: gru, reset: behind}",
            "model.cell.reset must be 'after', 'before' or 'none', got 'behind'",
        ),
        (
            "{peepholes: [in]}",
            "model.cell.peepholes must be 'input', 'forget' or 'output', got 'in'",
        ),
        (
            "{without: [forget]}",
            "model.cell.without must be 'input_gate', 'forget_gate', 'output_gate'",
        ),
        (
            "{kind: nested_lstm, depth: 1}",
            "model.cell.depth must be greater than or equal to 2, got 1",
        ),
        (
            "{kind: mogrifier_lstm, rounds: 0}",
            "model.cell.rounds must be greater than or equal to 1, got 0",
        ),
        (
            "{kind: mogrifier_lstm, rank: 0}",
            "model.cell.rank must be greater than or equal to 1, got 0",
        ),
        ("{peepholes: [input], without: [input_gate]}", "peepholes: the input gate is left out"),
        (
            "{peepholes: [input, output], without: [output_gate]}",
            "peepholes: the output gate is left out",
        ),
        (
            "{peepholes: [input, forget], coupled: true}",
            "with coupled the input and forget gate are one; name one",
        ),
        (
            "{coupled: true, without: [input_gate]}",
            "coupled: joins input and forget gate, but input_gate is left out",
        ),
        (
            "{coupled: true, without: [forget_gate]}",
            "coupled: joins input and forget gate, but forget_gate is left",
        ),
        ("{peephole_weights: full}", "peephole_weights: there are no peepholes; name them"),
        (
            "{full_gate_recurrence: true, without: [input_gate, output_gate, forget_gate]}",
            "full_gate_recurrence: every gate is left out, so there is none to recur; remove one",
        ),
    ],
)
def test_a_cell_that_cannot_be_is_refused_with_its_reason(cell, problem):
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as caught:
        load_config(None, [f"model.cell={cell}"])
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("{hidden_size: []}", "model.hidden_size"),
        ("{hidden_size: [8, 0]}", "model.hidden_size must be greater than or equal to 1, got 0"),
        (
            "{hidden_size: [8, 4], num_layers: 3}",
            "hidden_size: is a list of 2, but num_layers is 3; remove num_layers",
        ),
        (
            "{hidden_size: [8, 4], skip: residual}",
            "skip: residual adds layers up, so all of hidden_size must be equal, got [8, 4]",
        ),
        ("{hidden_size: [8, 4], skip: sum}", "skip: sum adds layers up"),
        (
            "{embedding: one-hot}",
            "model.embedding must be 'learned', 'one_hot' or 'pretrained', got 'one-hot'",
        ),
        ("{embedding: pretrained}", "embedding: pretrained needs vectors, a file of them"),
        ("{vectors: x.txt}", "vectors: is read with embedding: pretrained alone, got learned"),
        (
            "{vectors: x.txt, embedding: one_hot}",
            "vectors: is read with embedding: pretrained alone, got one_hot",
        ),
        ("{vectors: ''}", "model.vectors"),
        (
            "{freeze_embedding: true}",
            "freeze_embedding: is read with embedding: pretrained alone, got learned",
        ),
        (
            "{embedding: one_hot, tied: true}",
            "tied: one_hot has no matrix to share; remove one of the two",
        ),
        (
            "{embedding: pretrained, vectors: x, freeze_embedding: true, tied: true}",
            "tied: freeze_embedding would freeze the projection with it; remove one of the two",
        ),
        (
            "{direction: sideways}",
            "model.direction must be 'forward', 'backward' or 'both', got 'sideways'",
        ),
        (
            "{initial_state: random}",
            "model.initial_state must be 'zero' or 'learned', got 'random'",
        ),
        ("{recurrent_gain: 0}", "model.recurrent_gain must be greater than 0, got 0"),
        ("{layer_norm: perhaps}", "model.layer_norm"),
    ],
)
def test_a_network_that_cannot_be_is_refused_with_its_reason(model, problem):
    with pytest.raises(ConfigError, match=r"^here: [^\n]*$") as caught:
        check_config({"model": yaml.safe_load(model)}, "here")
    assert problem in str(caught.value)


def test_a_list_of_sizes_is_a_list_of_layers():
    model = load_config(None, ["model.hidden_size=[8, 4, 2]"]).model
    assert (model.hidden_sizes, model.num_layers) == ((8, 4, 2), 3)
    model = load_config(None, ["model.hidden_size=[8, 4]", "model.num_layers=2"]).model
    assert model.hidden_sizes == (8, 4)


def test_one_size_is_that_of_every_layer():
    for size in ("8", "[8]"):
        model = load_config(None, [f"model.hidden_size={size}", "model.num_layers=3"]).model
        assert (model.hidden_sizes, model.num_layers) == ((8, 8, 8), 3)


def test_layers_of_one_size_may_be_added_up_also_as_a_list():
    assert load_config(None, ["model.hidden_size=[8, 8]", "model.skip=sum"]).model.hidden_sizes == (
        8,
        8,
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.hidden_size=[8, 4, 2]"],
        ["model.hidden_size=[8]", "model.num_layers=2"],
        ["model.embedding=pretrained", "model.vectors=a b.txt", "model.freeze_embedding=true"],
        [
            "model.embedding=one_hot",
            "model.layer_norm=true",
            "model.direction=both",
            "model.initial_state=learned",
            "model.recurrent_gain=1.0e-3",
        ],
    ],
    ids=["sizes", "one_size", "pretrained", "all_else"],
)
def test_a_printed_network_reads_back_as_itself(tmp_path, overrides):
    config = load_config(None, overrides)
    path = tmp_path / "printed.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load_config(path) == config
    assert load_config(path).model.hidden_sizes == config.model.hidden_sizes


def test_a_network_is_a_plain_lstm_where_nothing_is_said():
    model = load_config().model
    assert model.cell == Cell(kind="lstm")
    assert not any(
        getattr(model.cell, option) for option in model.cell.options if option != "peephole_weights"
    )
    assert (model.embedding, model.direction, model.skip, model.initial_state) == (
        "learned",
        "forward",
        "none",
        "zero",
    )
    assert not (model.layer_norm or model.tied or model.freeze_embedding)


def test_the_peephole_of_coupled_gates_may_be_named_by_either():
    cell = load_config(
        None, ["model.cell={kind: lstm, peepholes: [forget, output], coupled: true}"]
    ).model.cell
    assert cell.peepholes == ("input", "output")
