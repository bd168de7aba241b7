"""The configuration: defaults, overrides, mistakes, and the printed file."""

import json
import re
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from charlm.config.annotations import value_types
from charlm.config.cell import CELL_OPTIONS, Cell
from charlm.config.load import check_config, load_config, load_resolved, shipped
from charlm.config.mistakes import describe_problem
from charlm.config.schema import Config
from charlm.data.resolve import resolve
from charlm.errors import ConfigError, OptionError


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
    path.write_text(f"{config}\n", encoding="utf-8")
    assert load_config(path) == config


def test_every_field_is_printed_with_a_comment():
    for line in str(load_config()).splitlines():
        assert "  # " in line and len(line.split("  # ")[1]) > 3


def test_every_shipped_configuration_is_valid_and_states_its_command_and_score():
    paths = sorted(shipped("configs").glob("*.yaml"))
    assert len(paths) > 5
    for path in paths:
        load_config(path)
        header = path.read_text(encoding="utf-8").split("\ncorpus:")[0]
        assert f"charlm train --config {path.stem}" in header.replace("configs/", ""), path
        assert "nats" in header or "has not been run" in header, path


def test_a_shipped_configuration_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart") == load_config("configs/quickstart.yaml")


def test_three_mistakes_are_reported_together_with_the_nearest_keys(tmp_path):
    message = mistakes_of(
        tmp_path, "model:\n  hiden_size: 3\n  num_layers: 0\ntraning:\n  steps: 1\n"
    )
    assert "model.hiden_size (nearest: model.hidden_size)" in message
    assert "model.num_layers: must be at least 1, got 0" in message
    assert "traning (nearest: training)" in message


def test_a_configuration_that_is_made_in_python_reports_its_mistakes_in_one_line(tmp_path):
    with pytest.raises(ConfigError) as error:
        Config(model={"hiden_size": 8}, training={"device": "gpu"})
    assert str(error.value) == (
        "Config: unknown key model.hiden_size (nearest: model.hidden_size); "
        "training.device: must be auto, cpu, cuda or cuda:N, got 'gpu'"
    )
    path = tmp_path / "x.yaml"
    path.write_text("model: {hiden_size: 8}", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"^{path}: unknown key model"):
        load_config(path)


def test_a_key_in_the_wrong_section_is_reported_with_its_section(tmp_path):
    assert "training.hidden_size (nearest: model.hidden_size)" in mistakes_of(
        tmp_path, "training: {hidden_size: 3}"
    )


def test_a_learning_rate_can_be_written_in_every_usual_notation():
    for text in ("3e-4", "3.0e-4", "0.0003", "'3e-4'"):
        training = load_config(None, [f"training.learning_rate={text}"]).training
        assert training.learning_rate == pytest.approx(3e-4), text


def test_the_default_budget_is_one_minute():
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
    assert "training.steps and epochs: only one budget is possible" in mistakes_of(
        tmp_path, "training: {steps: 3, epochs: 2}"
    )


def test_an_override_replaces_the_budget_of_the_file(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("training: {minutes: 3, window: 8}", encoding="utf-8")
    training = load_config(path, ["training.steps=5"]).training
    assert (training.minutes, training.steps, training.window) == (None, 5, 8)


def test_a_budget_of_null_clears_only_its_own_field(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("training: {minutes: 3}", encoding="utf-8")
    for overrides in (
        ["training.steps=5", "training.minutes=null"],
        ["training.minutes=null", "training.steps=5"],
    ):
        for config in (path, None):
            training = load_config(config, overrides).training
            assert (training.minutes, training.steps) == (None, 5), (config, overrides)


def test_a_cell_is_given_by_name_or_as_a_section():
    assert load_config(None, ["model.cell=gru"]).model.cell == Cell(kind="gru")
    assert load_config(None, ["model.cell={kind: elman, activation: relu}"]).model.cell == Cell(
        kind="elman", activation="relu"
    )
    overrides = ["model.cell=elman", "model.cell.activation=sigmoid"]
    assert load_config(None, overrides).model.cell == Cell(kind="elman", activation="sigmoid")


def test_a_wrong_override_names_the_option_and_the_value():
    for change, problem in (
        ("hidden_size=3", "must be section.key=value"),
        ("model.hidden_size", "must be section.key=value"),
        (".hidden_size=3", "must be section.key=value"),
        ("model.hidden_size=[", "is not YAML"),
    ):
        with pytest.raises(OptionError, match=r"^overrides: [^\n]*$") as caught:
            load_config(None, [change])
        assert problem in str(caught.value) and f"got {change!r}" in str(caught.value)


def test_an_override_of_a_value_that_is_not_a_section_is_refused(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("model: 3", encoding="utf-8")
    with pytest.raises(OptionError, match=r"^overrides: model is not a section, but 3, got 'mod"):
        load_config(path, ["model.hidden_size=3"])


def test_a_text_field_takes_an_override_as_written():
    written = [
        "###",
        "---",
        "\n",
        " ",
        "~",
        "a: b",
        "# x",
        "%",
        "no",
        "2020",
        "1:30",
        "Null",
        "'",
        "é",
    ]
    for key in ("separator", "field"):
        for text in written:
            corpus = load_config(None, [f"corpus.{key}={text}"]).corpus
            assert getattr(corpus, key) == text, (key, text)


def test_escapes_and_quotes_in_a_separator():
    for written, text in {
        r"\n\n": "\n\n",
        r"\t|\r|\f|\v": "\t|\r|\f|\v",
        r"\\n": r"\n",
        r"\x1e\u2029": "\x1e\u2029",
        r'"\n%%\n"': "\n%%\n",
        "'---'": "---",
        "'null'": "null",
    }.items():
        assert load_config(None, [f"corpus.separator={written}"]).corpus.separator == text, written
    for wrong in (r"a\d", "a\\"):
        with pytest.raises(
            OptionError, match=r"^overrides: corpus\.separator: \\.* is not an escape; w"
        ):
            load_config(None, [f"corpus.separator={wrong}"])


def test_the_word_null_clears_a_text_field(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("corpus: {separator: '##', field: body}", encoding="utf-8")
    corpus = load_config(path, ["corpus.separator=null", "corpus.field=null"]).corpus
    assert (corpus.separator, corpus.field) == (None, None)


def test_a_path_takes_backslashes_and_yaml_signs_as_written():
    for name in (r"C:\new\table.txt", "a #1.txt", "*.txt", "@x", "-", "1984", "a: b", "[a.txt"):
        assert load_config(None, [f"corpus.text={name}"]).corpus.text == (name,), name
    names = ["😀.txt", "no", "\udce9.txt"]
    assert list(load_config(None, [f"corpus.text={json.dumps(names)}"]).corpus.text) == names


def test_an_override_without_a_value_is_refused():
    for change in (
        "training.clipnorm=",
        "model.cell=",
        "training.patience=###",
        "training.seed=---",
    ):
        with pytest.raises(OptionError, match="has no value; write null to clear the setting"):
            load_config(None, [change])
    for change in ("corpus.separator=", "corpus.text="):
        with pytest.raises(ConfigError, match="must have at least 1 character, got ''"):
            load_config(None, [change])


def test_text_in_a_file_is_not_converted(tmp_path):
    path = tmp_path / "file.yaml"
    text = "{field: no, separator: 1:30, encoding: 1252, text: [1984, 010], test_text: 2020-01-01}"
    path.write_text(f"corpus: {text}\nmodel: {{cell: elman}}", encoding="utf-8")
    corpus = load_config(path).corpus
    assert (corpus.field, corpus.separator, corpus.encoding) == ("no", "1:30", "1252")
    assert (corpus.text, corpus.test_text) == (("1984", "010"), ("2020-01-01",))


def test_a_word_of_yaml_is_quoted_as_it_is_written(tmp_path):
    assert "model.cell.kind: no cell is named 'no'" in mistakes_of(tmp_path, "model: {cell: no}")
    assert "or 'none', got 'off'" in mistakes_of(tmp_path, "model: {cell: {kind: gru, reset: off}}")
    assert "unknown key model.on " in mistakes_of(tmp_path, "model: {on: 3}")


# What YAML reads as something else than it seems to say, and the message.
MISLEADING = {
    "model:\n  num_layers: 2\n\nmodel:\n  hidden_size: 8": (
        "the key model is already on line 1; keep one of them (line 4)"
    ),
    "training:\n  steps: 5\n  window: 8\n  steps: 9": (
        "the key steps is already on line 2; keep one of them (line 4)"
    ),
    "training:\n  minutes: 1:30": "1:30 is a number in base 60 in YAML; write a decimal number",
    "training: {minutes: 1:30.5}": "1:30.5 is a number in base 60",
    "training:\n  seed: 010": "010 is an octal number in YAML; write 10, or put a text in quotes",
    "training: {seed: 08}": "training.seed: must be a number without leading zeros, got '08'",
    "model: {hidden_size: [8, 008]}": "must be a number without leading zeros, got [8, '008']",
    "training: {seed: 0o10}": "training.seed: must be an integer, got '0o10'",
    "corpus: {where: {zip: 01234}}": "01234 is an octal number in YAML; write 1234, or put a text",
    "corpus:\n  separator: ###": "### is a comment in YAML, and no value; write null before it",
    "corpus:\n\tfield: x": "a tab is found; use spaces instead (line 2)",
    "corpus:\n  text: *.txt": "put a text that begins with such a sign in quotes (line 2)",
    "corpus:\n  text: @x": "put a text that begins with such a sign in quotes (line 2)",
    "corpus:\n  text: - x": "put a text that begins with such a sign in quotes (line 2)",
    "model: {num_layers: yes}": "model.num_layers: must be a number, got True",
    "model: {hidden_size: [on, 8]}": "model.hidden_size: must be a number, got [True, 8]",
    "model: {dropout: off}": "model.dropout: must be a number, got False",
    "model: {<<: {num_layers: 2}}": "unknown key model.<<",
}


def test_yaml_that_means_something_else_is_refused(tmp_path):
    for text, problem in MISLEADING.items():
        assert problem in mistakes_of(tmp_path, text), text


def test_an_override_that_means_something_else_is_refused():
    for change, problem in {
        "model.cell={kind: gru, kind: lstm}": "the key kind is already on line 1",
        "training.minutes=1:30": "1:30 is a number in base 60",
        "training.seed=010": "010 is an octal number in YAML; write 10",
    }.items():
        with pytest.raises(OptionError, match=r"^overrides: [^\n]*$") as caught:
            load_config(None, [change])
        assert problem in str(caught.value), change


def test_an_empty_section_means_its_defaults(tmp_path):
    path = tmp_path / "file.yaml"
    for text in ("model:", "corpus:\ntraining: # nothing yet\n", "model:\n  cell:\n", "{}", ""):
        path.write_text(text, encoding="utf-8")
        assert load_config(path) == load_config(), text
        assert load_config(path, ["model.num_layers=2"]).model.num_layers == 2, text


def test_an_argument_of_the_posix_locale_is_read_as_utf8(monkeypatch):
    monkeypatch.setattr("os.fsencode", lambda text: text.encode("ascii", "surrogateescape"))
    odd = "é".encode().decode("ascii", "surrogateescape")
    corpus = load_config(
        None, [f"corpus.separator={odd}", f"corpus.field={odd}", f"corpus.text={odd}"]
    ).corpus
    assert (corpus.separator, corpus.field, corpus.text) == ("é", "é", (odd,))
    assert load_config(None, [f"corpus.where={{a: {odd}}}"]).corpus.where == {"a": "é"}


MISTAKES = {
    "model.hidden_size=1.5": "model.hidden_size: must be an integer, got 1.5",
    "model.hidden_size=[]": "model.hidden_size: must have at least 1 element, got []",
    "model.layer_norm=perhaps": "model.layer_norm: must be true or false, got 'perhaps'",
    "model.vectors=''": "model.vectors: must have at least 1 character, got ''",
    "model.cell=3": "model.cell.kind: no cell is named '3'",
    "model.cell=[3]": "model.cell: must be a section of keys and values, got ['3']",
    "training.learning_rate=.nan": "training.learning_rate: must be a finite number, got nan",
    "training.learning_rate=fast": "training.learning_rate: must be a number, got 'fast'",
    "training.device=tpu": "training.device: must be auto, cpu, cuda or cuda:N, got 'tpu'",
    "training.halvings=101": "training.halvings: must be at most 100, got 101",
    "tokenizer.words=whitespace": "tokenizer.words: whitespace needs level: word, got level: char",
    "corpus.valid_share=1": "corpus.valid_share: must be less than 1, got 1",
    "corpus.encoding=null": "corpus.encoding: must be text, got None",
    f"training.seed={1 << 64}": f"training.seed: must be at most {(1 << 64) - 1}, got",
    "corpus.where={a: [1]}": "overrides: corpus.where.a: must be text, a finite number, true, false",
    "corpus.where.a=.nan": "overrides: corpus.where.a: must be text, a finite number, true, false",
    "corpus.where=3": "corpus.where: must be a mapping of keys to values, got 3",
}


def test_a_wrong_value_is_one_line_with_place_problem_and_value():
    for change, problem in MISTAKES.items():
        with pytest.raises(ConfigError, match=r"^overrides: [^\n]*$") as caught:
            load_config(None, [change])
        message = str(caught.value)
        assert problem in message and message.count(", got ") <= 1, change


def test_a_type_of_mistake_without_a_text_is_still_reported_with_its_value():
    detail = {"type": "date_type", "loc": (), "msg": "", "input": "soon"}
    assert describe_problem(detail) == "is not valid (date_type), got 'soon'"


def test_an_option_without_effect_is_refused():
    with pytest.raises(ConfigError, match=r"tokenizer\.lowercase: has no effect at level byte"):
        load_config(None, ["tokenizer.level=byte", "tokenizer.lowercase=true"])


def test_held_out_parts_that_leave_no_training_text_are_refused():
    for share, total in ((0.6, r"1\.1"), (0.5, r"1\.0")):
        with pytest.raises(ConfigError, match=rf"leave no training text; .* got {total}"):
            load_config(None, [f"corpus.valid_share={share}", "corpus.test_share=0.5"])


def test_a_file_that_is_not_a_configuration_is_reported_in_one_line(tmp_path):
    for text in ("[1, 2]", "model: {", "\x00", "just words"):
        assert "bad.yaml" in mistakes_of(tmp_path, text), text


def test_a_file_that_is_not_utf8_is_reported_in_one_line(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"model: \xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(path)


def test_yaml_tags_are_not_executed(tmp_path):
    assert "not YAML" in mistakes_of(tmp_path, "model: !!python/object/apply:os.system ['echo no']")


def test_a_missing_file_is_reported_with_the_nearest_shipped_one():
    with pytest.raises(ConfigError, match="did you mean quickstart"):
        load_config("quickstrt")


def test_a_configuration_that_is_changed_in_place_is_refused_in_one_line():
    config = load_config("quickstart")
    with pytest.raises(ConfigError, match=r"^hidden_size: a configuration cannot be changed; give"):
        config.model.hidden_size = 8


def test_a_run_folder_is_no_configuration_but_has_one(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match=r"is a run folder; did you mean .*config\.yaml\?$"):
        load_config(tmp_path)


def test_a_wrong_override_of_a_right_file_is_not_said_to_be_in_the_file(tmp_path):
    path = tmp_path / "right.yaml"
    path.write_text("model: {hidden_size: 8}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^overrides: unknown key model.size "):
        load_config(path, ["model.size=9"])
    path.write_text("model: {size: 8}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"right\.yaml: unknown key model.size "):
        load_config(path, ["training.steps=9"])


def test_many_mistakes_are_counted_and_the_first_are_described(tmp_path):
    keys = ", ".join(f"key{number}: 0" for number in range(25))
    message = mistakes_of(tmp_path, f"model: {{{keys}}}")
    assert "model.key19" in message and "model.key20" not in message
    assert message.endswith("; and 5 more")


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


def test_every_cell_is_named_briefly_or_as_a_section():
    for kind in CELL_SECTIONS:
        short = load_config(None, [f"model.cell={kind}"]).model.cell
        long = check_config({"model": {"cell": {"kind": kind}}}, "here").model.cell
        assert short == long == Cell(kind=kind), kind
        assert short.kind == kind and short.options == CELL_OPTIONS.get(kind, ())


# For each kind of cell, values of all its options.
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
    "rg_lru": {},
    "hgrn": {},
    "slstm": {},
    "diagonal_gru": {},
    "diagonal_lstm": {},
}
CHANGED_OPTIONS = {
    **{name: value for section in CELL_SECTIONS.values() for name, value in section.items()},
    "coupled": True,
}


def test_a_printed_cell_has_only_the_options_of_its_kind_and_reads_back_as_itself(tmp_path):
    path = tmp_path / "printed.yaml"
    for kind, options in CELL_SECTIONS.items():
        section = {"kind": kind, **options}
        config = check_config({"model": {"cell": section}}, "here")
        path.write_text(f"{config}\n", encoding="utf-8")
        assert list(yaml.safe_load(path.read_text())["model"]["cell"]) == list(section), kind
        assert load_config(path) == config, kind
        for option, value in options.items():
            expected = tuple(value) if isinstance(value, list) else value
            assert getattr(config.model.cell, option) == expected, f"{kind}: {option}"


def test_an_option_is_refused_by_every_other_kind():
    for owner, options in CELL_OPTIONS.items():
        for option in options:
            for kind in set(CELL_SECTIONS) - {owner}:
                cell = {"kind": kind, option: CHANGED_OPTIONS[option]}
                with pytest.raises(ConfigError) as caught:
                    check_config({"model": {"cell": cell}}, "here")
                assert str(caught.value) == (
                    f"here: model.cell.{option}: is an option of {owner}, not of {kind}; remove it"
                )


def test_an_override_of_the_cell_removes_the_options_of_the_file(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("model: {cell: {kind: lstm, peepholes: [input]}}", encoding="utf-8")
    assert load_config(path, ["model.cell=gru"]).model.cell == Cell(kind="gru")
    assert load_config(path, ["model.cell.coupled=true"]).model.cell.peepholes == ("input",)
    with pytest.raises(ConfigError, match="peepholes: is an option of lstm, not of gru; remove it"):
        load_config(path, ["model.cell.kind=gru"])


def test_a_name_is_read_as_a_list_of_one_name():
    cell = load_config(None, ["model.cell={peepholes: input, without: output_gate}"]).model.cell
    assert (cell.peepholes, cell.without) == (("input",), ("output_gate",))


# Cells that are refused, and the message.
WRONG_CELLS = {
    "{kind: lstn}": "model.cell.kind: no cell is named 'lstn' (nearest: lstm; known: bag, ",
    "{kind: RG-LRU}": "model.cell.kind: no cell is named 'RG-LRU' (nearest: rg_lru; known: bag, ",
    "{kind: lstm, peephole: [input]}": "model.cell.peephole (nearest: model.cell.peepholes)",
    "{activation: swish, kind: elman}": (
        "model.cell.activation: must be 'tanh', 'relu' or 'sigmoid', got 'swish'"
    ),
    "{kind: gru, reset: behind}": (
        "model.cell.reset: must be 'after', 'before' or 'none', got 'behind'"
    ),
    "{peepholes: [in]}": ("model.cell.peepholes: must be 'input', 'forget' or 'output', got 'in'"),
    "{without: [forget]}": "model.cell.without: must be 'input_gate', 'forget_gate', 'output_gate'",
    "{kind: nested_lstm, depth: 1}": "model.cell.depth: must be at least 2, got 1",
    "{kind: mogrifier_lstm, rounds: 0}": "model.cell.rounds: must be at least 1, got 0",
    "{kind: mogrifier_lstm, rank: 0}": "model.cell.rank: must be at least 1, got 0",
    "{peepholes: [input], without: [input_gate]}": "peepholes: there is no input gate",
    "{peepholes: [input, output], without: [output_gate]}": "peepholes: there is no output gate",
    "{peepholes: [input, forget], coupled: true}": "peepholes: with coupled, the input and the",
    "{coupled: true, capped: true}": "capped: with coupled, the input gate is already 1 -",
    "{coupled: true, without: [input_gate]}": "coupled: needs .* without contains input_gate;",
    "{coupled: true, without: [forget_gate]}": "coupled: needs .* without contains forget_gate;",
    "{capped: true, without: [forget_gate]}": "capped: needs .* without contains forget_gate;",
    "{peephole_weights: full}": "peephole_weights: the cell has no peepholes; add them",
    "{full_gate_recurrence: true, without: [input_gate, output_gate, forget_gate]}": (
        "full_gate_recurrence: there is no gate, because without contains all three; remove one"
    ),
}


def test_an_impossible_cell_is_refused_with_the_reason():
    for cell, problem in WRONG_CELLS.items():
        with pytest.raises(ConfigError, match=r"^[^\n]*$") as caught:
            load_config(None, [f"model.cell={cell}"])
        pattern = re.escape(problem).replace(r"\.\*", ".*")
        assert re.search(pattern, str(caught.value)), f"{cell}: {caught.value}"


# Model sections that are refused, and the message.
WRONG_MODELS = {
    "{hidden_size: [8, 0]}": "model.hidden_size: must be at least 1, got 0",
    "{hidden_size: [8, 4], num_layers: 3}": (
        "model.hidden_size: has 2 entries, but num_layers is 3; remove num_layers"
    ),
    "{hidden_size: [8, 4], skip: residual}": (
        "model.skip: residual adds the outputs of layers, so all layers must have the same size, "
        "got [8, 4]"
    ),
    "{hidden_size: [8, 4], skip: sum}": "model.skip: sum adds the outputs of layers",
    "{embedding: one-hot}": (
        "model.embedding: must be 'learned', 'one_hot' or 'pretrained', got 'one-hot'"
    ),
    "{embedding: pretrained}": "model.embedding: pretrained needs a file of vectors",
    "{vectors: x.txt}": (
        "model.vectors: has an effect only with embedding: pretrained, got learned"
    ),
    "{vectors: x.txt, embedding: one_hot}": (
        "model.vectors: has an effect only with embedding: pretrained, got one_hot"
    ),
    "{freeze_embedding: true}": (
        "model.freeze_embedding: has an effect only with embedding: pretrained, got learned"
    ),
    "{ngrams: 1}": "model.ngrams: must be 0, or at least 2 tokens, got 1",
    "{ngram_width: 8}": "model.ngram_width: has an effect only with ngrams; set ngrams: 4",
    "{ngrams: 0, ngram_dropout: 0.1}": "model.ngram_dropout: has an effect only with ngrams",
    "{mlp_expansion: 2}": "model.mlp_expansion: .* set block: griffin, or remove mlp_expansion",
    "{embedding: one_hot, tied: true}": (
        "model.tied: one_hot has no matrix to share; remove one of the two"
    ),
    "{embedding: pretrained, vectors: x, freeze_embedding: true, tied: true}": (
        "model.tied: freeze_embedding would freeze the projection too; remove one of the two"
    ),
    "{embedding: one_hot, word_dropout: 0.1}": "model.word_dropout: one_hot has no embeddings",
    "{adaptive_cutoffs: [4], tied: true}": "model.adaptive_cutoffs: .* remove tied",
    "{adaptive_cutoffs: [4], mixture: 2}": "model.adaptive_cutoffs: .* remove mixture",
    "{adaptive_cutoffs: [4, 3]}": "model.adaptive_cutoffs: must be increasing, got [4, 3]",
    "{adaptive_cutoffs: [4, 4]}": "model.adaptive_cutoffs: must be increasing, got [4, 4]",
    "{direction: sideways}": (
        "model.direction: must be 'forward', 'backward' or 'both', got 'sideways'"
    ),
    "{initial_state: random}": "model.initial_state: must be 'zero' or 'learned', got 'random'",
    "{recurrent_gain: 0}": "model.recurrent_gain: must be greater than 0",
}


def test_an_impossible_network_is_refused_with_the_reason():
    for model, problem in WRONG_MODELS.items():
        with pytest.raises(ConfigError, match=r"^here: [^\n]*$") as caught:
            check_config({"model": yaml.safe_load(model)}, "here")
        pattern = re.escape(problem).replace(r"\.\*", ".*")
        assert re.search(pattern, str(caught.value)), f"{model}: {caught.value}"


def test_a_list_of_sizes_gives_the_size_of_each_layer():
    model = load_config(None, ["model.hidden_size=[8, 4, 2]"]).model
    assert (model.hidden_sizes, model.num_layers) == ((8, 4, 2), 3)
    model = load_config(None, ["model.hidden_size=[8, 4]", "model.num_layers=2"]).model
    assert model.hidden_sizes == (8, 4)


def test_one_size_applies_to_every_layer():
    for size in ("8", "[8]"):
        model = load_config(None, [f"model.hidden_size={size}", "model.num_layers=3"]).model
        assert (model.hidden_sizes, model.num_layers) == ((8, 8, 8), 3)


def test_skip_connections_accept_a_list_of_equal_sizes():
    model = load_config(None, ["model.hidden_size=[8, 8]", "model.skip=sum"]).model
    assert model.hidden_sizes == (8, 8)


def test_a_printed_network_reads_back_as_itself(tmp_path):
    path = tmp_path / "printed.yaml"
    for overrides in (
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
    ):
        config = load_config(None, overrides)
        path.write_text(f"{config}\n", encoding="utf-8")
        assert load_config(path) == config, overrides
        assert load_config(path).model.hidden_sizes == config.model.hidden_sizes, overrides


def test_the_default_network_is_a_plain_lstm():
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


def test_the_peephole_of_coupled_gates_can_have_the_name_of_either_gate():
    cell = load_config(
        None, ["model.cell={kind: lstm, peepholes: [forget, output], coupled: true}"]
    ).model.cell
    assert cell.peepholes == ("input", "output")


def test_a_choice_of_numbers_is_read_as_a_number(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("corpus: {rules: 1}", encoding="utf-8")
    assert load_config(path).corpus.rules == load_config(None, ["corpus.rules=1"]).corpus.rules == 1


def test_the_types_of_values_are_found_within_lists_and_choices():
    assert value_types(Literal[1, 2]) == {int}
    assert value_types(tuple[Literal["a", "b"], ...] | None) == {Literal, type(None)}
    assert value_types(Annotated[tuple[str, ...], "names"]) == {str}


def test_a_run_of_an_earlier_version_keeps_the_rules_that_it_was_begun_with(tmp_path):
    path = tmp_path / "config.yaml"
    overrides = [f"corpus.text={path}", "corpus.mode=records", 'corpus.separator="%"']
    new = resolve(load_config(None, overrides))
    assert (new.corpus.record, new.corpus.copies, new.training.restart_windows) == (
        "document",
        "together",
        16,
    )
    lines = str(new).splitlines()
    added = ("  record:", "  copies:", "  restart_windows:")
    path.write_text("\n".join(line for line in lines if not line.startswith(added)))
    earlier = load_resolved(path)
    assert (earlier.corpus.record, earlier.corpus.copies, earlier.training.restart_windows) == (
        "line",
        "apart",
        0,
    )
    path.write_text("\n".join(lines))
    assert load_resolved(path) == new
