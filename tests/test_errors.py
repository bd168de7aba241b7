"""An OptionError names its option in a field; Python and the command line spell it their own way."""

import pickle

import pytest

from charlm.cli import main
from charlm.cli.options import flag
from charlm.data.listing import MissingTextError
from charlm.errors import CorpusError, DivergenceError, OptionError, counted


def test_python_and_the_command_line_spell_the_options_their_own_way():
    error = OptionError("max_copy", "has no effect with {}; leave one out", others=("fill",))
    assert str(error) == "max_copy: has no effect with fill; leave one out"
    assert error.message(flag) == "--max-copy: has no effect with --fill; leave one out"


def test_the_value_follows_the_problem():
    assert str(OptionError("top_k", "must be at least 1", value=0)) == (
        "top_k: must be at least 1, got 0"
    )


def test_a_problem_may_hold_braces_where_it_names_no_other_option():
    assert str(OptionError("matching", "a{3 is no pattern")) == "matching: a{3 is no pattern"


def test_the_command_line_prints_the_flag_and_ends_with_wrong_usage(monkeypatch, capsys):
    def fail(*arguments: object, **options: object) -> None:
        raise OptionError("no_repeat_ngram", "must be at least 1", value=0)

    monkeypatch.setattr(main, "app", fail)
    assert main.run(["sample"]) == 2
    assert capsys.readouterr().err == "charlm: --no-repeat: must be at least 1, got 0\n"


@pytest.mark.parametrize("option", ["as_json", "max_copy"])
def test_a_flag_begins_with_two_dashes(option):
    assert flag(option).startswith("--")


def test_an_error_of_another_process_arrives_with_its_message_and_fields():
    errors = (
        OptionError("max_copy", "has no effect without {}", value=3, others=["novel"]),
        MissingTextError("a.txt", "no such text", "correct the path"),
        DivergenceError("step 3: the loss is not finite"),
        CorpusError("a.txt: is empty"),
    )
    for error in errors:
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert (str(copy), vars(copy)) == (str(error), vars(error))


def test_a_count_has_its_noun_in_the_singular_or_plural_and_all_of_its_digits():
    assert [counted(count, "minute") for count in (1, 1.0, 0.5, 0)] == [
        *("1 minute", "1 minute", "0.5 minutes", "0 minutes")
    ]
    assert counted(2_500_000, "step") == "2,500,000 steps"
