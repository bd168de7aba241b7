"""Pairs from tables: which fields they are, and one line for each mistake."""

import json

import pytest
from conftest import small_config

from charlm.cli.main import run as charlm
from charlm.config.load import load_config
from charlm.data.corpus import open_corpus
from charlm.data.resolve import resolve
from charlm.data.tables import choose_fields
from charlm.errors import ConfigError, CorpusError


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (["id", "text", "label"], {}, ("text", "label")),
        (["id", "source", "target"], {}, ("source", "target")),
        (["review", "stars"], {}, ("review", "stars")),
        (["label", "review"], {}, ("review", "label")),
        (["review", "stars"], {"target": "review"}, ("stars", "review")),
    ],
)
def test_fields_are_guessed_where_there_is_one_possibility(names, given, expected):
    assert choose_fields(names, given.get("source"), given.get("target")) == expected


@pytest.mark.parametrize(
    ("names", "given", "named"),
    [
        (["a", "b", "c"], {}, "corpus.source=NAME --set corpus.target=NAME"),
        (["a", "b", "c"], {"source": "a"}, "corpus.target=NAME"),
        (["text", "label", "source", "target"], {}, "corpus.source=NAME"),
        (["a"], {}, "corpus.source=NAME"),
    ],
)
def test_other_fields_are_asked_for_in_one_line(names, given, named):
    with pytest.raises(ConfigError, match=named) as caught:
        choose_fields(names, given.get("source"), given.get("target"))
    assert "\n" not in str(caught.value)
    assert "(the first line of a .csv or .tsv file is read as their names)" in str(caught.value)


def corpus_of(path, *overrides):
    config = resolve(load_config(None, [f"corpus.text={path}", "task.kind=complete", *overrides]))
    return open_corpus(config)


def records_of(corpus):
    return sorted(block.decode() for text in corpus.parts.values() for block, _ in text.blocks())


ROWS = [{"source": f"s\t{n}", "target": f"line\n{n}", "lang": "en"} for n in range(10)]


def test_a_row_of_a_table_is_a_record_with_a_tab(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    records = records_of(corpus_of(path, "corpus.where={lang: en}"))
    assert records == [f"s {n}\tline\n{n}" for n in range(10)]


def test_other_fields_make_another_text_of_the_same_table(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("a,b,c\n" + "".join(f"x{n},y{n},z{n}\n" for n in range(10)), encoding="utf-8")
    for target in "bc":
        records = records_of(corpus_of(path, "corpus.source=a", f"corpus.target={target}"))
        letter = {"b": "y", "c": "z"}[target]
        assert records == [f"x{n}\t{letter}{n}" for n in range(10)]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": "a", "label": ""}, "line 11: field 'label', the target, is empty"),
        ({"text": "  ", "label": "x"}, "line 11: field 'text', the source, is empty"),
        ({"text": None, "label": "x"}, "line 11: field 'text', the source, is empty"),
        ({"text": "a"}, "line 11: field 'label' must be text, got nothing"),
        ({"text": {}, "label": "x"}, "line 11: field 'text' must be text, got dict"),
    ],
)
def test_a_wrong_cell_is_refused_with_its_line(row, problem, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": ["a", "b"], "label": n} for n in range(10)]
    path.write_text("\n".join(map(json.dumps, [*rows, row])), encoding="utf-8")
    with pytest.raises(CorpusError, match=problem):
        corpus_of(path)


def test_a_wrong_column_is_refused_with_the_names_of_the_fields(tmp_path, capsys):
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\n" + "good,yes\n" * 20, encoding="utf-8")
    settings = ["--set", "corpus.target=stars", "--set", "corpus.source=text"]
    out = ["--out", str(tmp_path / "run")]
    assert charlm(["train", str(path), "--task", "complete", *settings, *out]) == 1
    line = capsys.readouterr().err
    assert "field 'stars' must be text, got nothing (the first line is read as the names" in line
    assert "of the fields: label, text)" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["corpus.source=a"], "corpus.source: has no effect without a task"),
        (["task.pooling=max"], "pooling: is an option of classify"),
        (["task.kind=complete", "task.pooling=max"], "pooling: is an option of classify"),
        (["task.kind=tag", "model.direction=backward"], "must be forward or both with task"),
        (["task.kind=classify", "model.tied=true"], "model.tied: is not possible with task"),
        (["task.kind=complete", "corpus.mode=stream"], "corpus.mode: is not possible with task"),
        (["task.kind=complete", "corpus.field=a"], "corpus.field: is not possible with task"),
        (["task.kind=complete", "training.replay=0.1"], "training.replay: is not possible"),
        (["task.kind=complete", "model.direction=both"], "model.direction: must be forward with"),
    ],
)
def test_settings_that_do_not_suit_a_task_are_refused(overrides, problem, text_file):
    with pytest.raises(ConfigError, match=problem):
        small_config(text_file, *overrides)


def test_fields_without_a_table_are_refused(pairs_files):
    with pytest.raises(CorpusError, match=r"corpus.source: has no effect, because no text"):
        corpus_of(pairs_files["complete"], "corpus.source=a", "corpus.target=b")


CONLL = """\
-DOCSTART- -X- O

# text = Ann Lee sings
Ann NNP B-PER
Lee NNP I-PER
sings VBZ O

Rain\tO
# B-X
"""


def test_sentences_of_conll_columns_are_records(tmp_path):
    path = tmp_path / "news.conll"
    path.write_text(CONLL + "\n" + "Bob B-PER\n\n" * 8, encoding="utf-8")
    config = load_config(
        None, [f"corpus.text={path}", "task.kind=tag", "tokenizer.level=word",
               "tokenizer.words=whitespace", "corpus.valid_share=0"]
    )  # fmt: skip
    resolved = resolve(config)
    assert (resolved.corpus.source, resolved.corpus.target) == ("tokens", "tags")
    records = set(records_of(open_corpus(resolved)))
    assert records == {"Bob\tB-PER", "Rain #\tO B-X", "Ann Lee sings\tB-PER I-PER O"}


def test_without_a_task_conll_columns_are_plain_text(tmp_path):
    path = tmp_path / "news.conll"
    path.write_text(CONLL, encoding="utf-8")
    config = resolve(load_config(None, [f"corpus.text={path}", "corpus.valid_share=0"]))
    assert records_of(open_corpus(config)) == [CONLL]


@pytest.mark.parametrize("line", ["word", "a b\tc", "word\t"])
def test_a_conll_line_without_token_and_tag_is_refused_with_its_number(line, tmp_path):
    path = tmp_path / "news.conll"
    path.write_text(f"a O\n\n{line}\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"line 3: must have a token and its tag"):
        corpus_of(path)
