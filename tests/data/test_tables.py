"""Documents from tables and compressed files, and the errors about bad files."""

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from reading import opened

from charlm.config.corpus import Corpus as Section
from charlm.errors import CorpusError

pytestmark = pytest.mark.usefixtures("own_cache")

ROWS = [
    {"text": "One,\ntwo.", "language": "en", "id": 1},
    {"text": "Eins, zwei.", "language": "de", "id": 2},
    {"text": "", "language": "en", "id": 3},
    {"text": "日本語 🚀", "language": "en", "id": 4},
]


COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def write_compressed(path: Path, data: bytes) -> Path:
    """Write data, compressed as the suffix of the path says."""
    if path.suffix == ".zst":
        with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
            file.write(data)
    else:
        path.write_bytes(COMPRESS.get(path.suffix, bytes)(data))
    return path


def write_table(path: Path) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
        return path
    suffix = path.suffixes[0]
    text = "\n".join(json.dumps(row) for row in ROWS)
    if suffix == ".json":
        text = json.dumps(ROWS, indent=1)
    if suffix in (".csv", ".tsv"):
        text = as_csv(delimiter="," if suffix == ".csv" else "\t")
    return write_compressed(path, text.encode())


def as_csv(**options: Any) -> str:
    """Return the rows as CSV, with a line end inside of a cell."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(ROWS[0]), **options)
    table.writeheader()
    table.writerows(ROWS)
    return text.getvalue()


def documents(path: Path, **fields: object) -> list[str]:
    text = opened(Section(text=(str(path),), valid_share=0.0, **fields)).parts["train"]
    return [
        text.files[number].path.read_bytes()[start:end].decode()
        for number, start, end in text.spans.tolist()
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.ndjson", "a.json", "a.csv"),
        *("a.tsv", "a.csv.gz", "a.json.bz2", "a.ndjson.xz", "a.JSONL"),
    ],
)
def test_every_row_is_a_document(name, tmp_path):
    path = write_table(tmp_path / name)
    assert documents(path) == ["One,\ntwo.", "Eins, zwei.", "日本語 🚀"]
    assert documents(path, where={"language": "en"}) == ["One,\ntwo.", "日本語 🚀"]
    assert documents(path, where={"language": "en", "id": 4}) == ["日本語 🚀"]
    assert documents(path, field="language") == ["en", "de", "en", "en"]
    with pytest.raises(CorpusError, match="contains no document"):
        documents(path, where={"no such field": 1})
    assert documents(path, mode="records") == ["One,\ntwo.", "Eins, zwei.", "日本語 🚀"]
    lines = documents(path, mode="records", record="line")
    assert lines == ["One,", "two.", "Eins, zwei.", "日本語 🚀"]
    assert documents(path, separator=", ") == ["One,\ntwo.", "Eins", "zwei.", "日本語 🚀"]


def test_a_compressed_text_is_read_by_its_name_or_by_its_first_bytes(tmp_path):
    for suffix in (".zst", ".gz", ".bz2", ".xz"):
        path = write_compressed(tmp_path / f"a.txt{suffix}", b"Ein Text." * 400_000)
        assert documents(path) == ["Ein Text." * 400_000], suffix
        assert documents(path.rename(tmp_path / "no_suffix")) == ["Ein Text." * 400_000], suffix


def test_csv_may_use_semicolons_and_any_line_end(tmp_path):
    for line_end in ("\r", "\n", "\r\n"):
        text = as_csv(delimiter=";", lineterminator=line_end, quoting=csv.QUOTE_ALL)
        path = write_compressed(tmp_path / "a.csv", text.encode("utf-8-sig"))
        assert documents(path) == ["One,\ntwo.", "Eins, zwei.", "日本語 🚀"], line_end


def test_the_first_line_of_excel_names_the_delimiter(tmp_path):
    for delimiter in ";,|\t":
        for line_end in ("\r\n", "\n"):
            text = as_csv(delimiter=delimiter, lineterminator=line_end)
            data = f"sep={delimiter}{line_end}{text}".encode("utf-8-sig")
            path = write_compressed(tmp_path / "a.csv", data)
            assert documents(path) == ["One,\ntwo.", "Eins, zwei.", "日本語 🚀"], delimiter
    path.write_text("sep=;\nid;text\n1;a\n2\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"a\.csv: line 4: has 1 cell, "):
        documents(path)
    path.write_text("sep=;\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"a\.csv: contains no document; "):
        documents(path)


def test_empty_lines_before_the_names_of_the_fields_are_skipped(tmp_path):
    path = write_compressed(tmp_path / "a.csv", b"\r\n\r\nid;text\r\n1;a\r\n\r\n2;b\r\n3\r\n")
    with pytest.raises(CorpusError, match=r"a\.csv: line 7: has 1 cell, "):
        documents(path)
    path = write_compressed(tmp_path / "a.csv", b"\n\nid;text\n1;a\n\n2;b\n")
    assert documents(path) == ["a", "b"]
    path = write_compressed(tmp_path / "a.csv", b" \n\n")
    with pytest.raises(CorpusError, match=r"a\.csv: contains no document; "):
        documents(path)


def test_a_tsv_file_with_a_single_column_may_contain_commas(tmp_path):
    path = write_compressed(tmp_path / "a.tsv", b"text\nOne, two.\nThree; four.\n")
    assert documents(path) == ["One, two.", "Three; four."]


def test_a_field_that_a_table_names_twice_is_refused_if_it_is_read(tmp_path):
    write_compressed(tmp_path / "a.csv", b"text,label,label,,\nhei,no,en,,\n")
    arrays = [pyarrow.array([value]) for value in ("hei", "no", "en")]
    table = pyarrow.Table.from_arrays(arrays, names=["text", "label", "label"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    rows = [b'{"text": "moi", "label": "no"}', b'{"text": "hei", "label": "no", "label": "en"}']
    write_compressed(tmp_path / "a.jsonl", b"\n".join(rows))
    write_compressed(tmp_path / "a.json", b"[%b, %b]" % (rows[0], rows[1]))
    places = {"a.csv": "", "a.parquet": "", "a.jsonl": ": line 2", "a.json": ": item 2"}
    for name, row in places.items():
        path = tmp_path / name
        assert documents(path)[-1] == "hei"
        for fields in ({"field": "label"}, {"where": {"label": "no"}}):
            with pytest.raises(
                CorpusError,
                match=rf"^{path}{row}: has 2 fields named 'label'; give each a name of its own$",
            ):
                documents(path, **fields)


def test_the_encoding_applies_to_tables_of_text(tmp_path):
    for name, text in (
        ("a.csv", "text\nnaïve café\n"),
        ("a.jsonl", json.dumps({"text": "naïve café"}, ensure_ascii=False)),
        ("a.json", json.dumps([{"text": "naïve café"}], ensure_ascii=False)),
    ):
        for encoding in ("cp1252", "utf-16"):
            path = write_compressed(tmp_path / name, text.encode(encoding))
            assert documents(path, encoding=encoding) == ["naïve café"], (name, encoding)


def test_a_long_object_of_a_json_file_is_read_over_several_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("charlm.data.tables.BLOCK_BYTES", 5)
    for text in (json.dumps(ROWS), "\n".join(map(json.dumps, ROWS))):
        path = write_compressed(tmp_path / "a.json", text.encode())
        assert documents(path) == ["One,\ntwo.", "Eins, zwei.", "日本語 🚀"]


def test_a_row_whose_text_is_null_is_skipped(tmp_path):
    path = write_compressed(tmp_path / "a.jsonl", b'{"text": null}\n{"text": "a text"}\n')
    assert documents(path) == ["a text"]
    path = write_compressed(tmp_path / "b.jsonl", b'{"text": null}\n')
    with pytest.raises(CorpusError, match=r"contains no document; .*'text' is null in every row"):
        documents(path)


def test_a_value_that_yaml_reads_as_no_text_matches_a_field_of_text(tmp_path):
    path = write_compressed(
        tmp_path / "a.csv", b"text,language,year,note\nhei,no,2020,\nhello,en,2021,x\n"
    )
    for where in ({"language": False}, {"year": 2020}, {"note": None}, {"year": "2020"}):
        assert documents(path, where=where) == ["hei"], where
    path.write_text(f"text,year\nhei,{2**60 + 1}\nhello,{2**60}\n", encoding="utf-8")
    assert documents(path, where={"year": 2**60 + 1}) == ["hei"]


def test_the_error_of_a_table_without_a_selected_row_has_the_values_of_its_rows(tmp_path):
    path = write_compressed(tmp_path / "a.csv", b"text,language\nhei,no\nhello,en\n")
    with pytest.raises(
        CorpusError,
        match=r"contains no document; corpus.where skips rows: language is 'no', 'en', not True",
    ):
        documents(path, where={"language": True})


def test_a_setting_without_effect_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a text", encoding="utf-8")
    table = write_table(tmp_path / "b.parquet")
    for name, fields in (
        ("field", {"field": "text"}),
        ("where", {"where": {"language": "en"}}),
        ("encoding", {"encoding": "cp1252"}),
    ):
        with pytest.raises(CorpusError, match=rf"^corpus\.{name}: has no effect, .*; remove it$"):
            documents(table if name == "encoding" else path, **fields)
    with pytest.raises(CorpusError, match=r"^corpus\.encoding: has no effect"):
        opened(Section(text=(str(path),), encoding="cp1252"), raw=True)
    mixed = Section(text=(str(path),), valid_text=(str(table),), field="text")
    assert set(opened(mixed).parts) == {"train", "valid"}


def test_rules_1_read_other_tables_and_compressed_files_as_earlier_versions_did(tmp_path):
    text = as_csv()
    path = write_compressed(tmp_path / "a.csv", text.encode())
    assert documents(path, rules=1, field="id") == [text]


def test_documents_of_tables_and_texts_have_a_stable_order(tmp_path):
    write_table(tmp_path / "b.jsonl")
    write_table(tmp_path / "c.parquet")
    (tmp_path / "a.txt").write_text("first", encoding="utf-8")
    assert documents(tmp_path / "[abc].*", where={"id": 2}) == [
        "first",
        "Eins, zwei.",
        "Eins, zwei.",
    ]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'{"text": "a"}\n{"text"', "line 2 is not JSON: Expecting ':' delimiter at character 8; "),
        (b'{"text": "a"}\n\n[1]\n', "line 3 must be a JSON object, got list; "),
        (
            b'{"text": "a"}\n{"text": 1}',
            r"line 2: field 'text' must be text, got int \(the fields are text\); name another ",
        ),
        (
            b'{"body": "a"}',
            r"line 1: field 'text' must be text, got nothing \(the fields are body\); ",
        ),
        (b'{"text": "a\\u0000"}', "document 1 has a NUL character"),
        (b"\xff", r"byte 0 \(0xff\) is not utf-8; "),
        (b"[" * 100_000, "line 1 is not JSON: "),
        (b"\n", "contains no document; "),
    ],
)
def test_a_bad_line_is_an_error_of_one_line(data, problem, tmp_path):
    path = write_compressed(tmp_path / "a.jsonl", data)
    with pytest.raises(CorpusError, match=rf"^{path}: {problem}[^\n]*$"):
        documents(path)


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.csv", b'text,n\n"a,1\n', "line 2 is not CSV: "),
        ("a.csv", b"text,n\na, b,1\n", "line 2: has 3 cells, but the first line names 2 fields; "),
        ("a.csv", b'text,n\n"a\na",1\n"b\nb"\n', "line 4: has 1 cell, "),
        (
            "a.csv",
            b"a,b\n1,2\n",
            "line 2: field 'text' .* got nothing "
            r"\(the first line is read as the names of the fields: a, b\); ",
        ),
        (
            "a.csv",
            b"date,title\n1,Rain\n",
            "line 2: .* with --set corpus.field=title, skip the row",
        ),
        ("a.csv", b"a b,c d\n1,Rain\n", "line 2: .* with --set 'corpus.field=c d', skip the row"),
        ("a.csv", b"c'd\n1\n", "line 2: .* with --set 'corpus.field=c'\"'\"'d', skip the row"),
        ("a.csv", b"c\x1b[31m\n1\n", "line 2: .* with --set corpus.field, skip the row"),
        ("a.json", b'[{"text": "a"}, 3]', "item 2 must be a JSON object, got int; "),
        ("a.json", b'[{"text": "a"}, {"te', "item 2 is not JSON: "),
        ("a.json", b"no JSON", "item 1 is not JSON: "),
        ("a.json", b'{"data": []}', r"item 1: field 'text' .* \(the fields are data\); "),
        ("a.csv", b"", "contains no document; "),
        ("a.json", b"[]", "contains no document; the table is empty"),
        ("a.json", b'[{"text": "a"}, ', r"ends after 1 item without the closing \] of its array; "),
        ("a.json", b"[", "ends after 0 items without "),
    ],
)
def test_a_bad_table_is_an_error_of_one_line(name, data, problem, tmp_path):
    path = write_compressed(tmp_path / name, data)
    with pytest.raises(CorpusError, match=rf"^{path}: {problem}[^\n]*$"):
        documents(path)


@pytest.mark.parametrize(
    "name", ["a.parquet", "a.txt.zst", "a.jsonl.zst", "a.csv.gz", "a.bz2", "a.txt.xz"]
)
def test_a_damaged_file_is_an_error_of_one_line(name, tmp_path):
    path = tmp_path / name
    for data in (b"", b"no such thing", b"PAR1" * 9, b"(\xb5/\xfd" + b"x" * 40):
        path.write_bytes(data)
        with pytest.raises(CorpusError, match=rf"^{path}: [^\n]+$"):
            documents(path)


def test_a_column_name_that_is_not_utf_8_is_an_error_of_one_line(tmp_path):
    path = write_table(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes().replace(b"text", b"t\xfcxt"))
    with pytest.raises(
        CorpusError, match=rf"^{path}: cannot be read as Parquet: [^\n]+; use [^\n]+$"
    ):
        documents(path)


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path):
    assert documents(write_compressed(tmp_path / "a.jsonl", b'{"text": "a\\ud83d."}')) == ["a?."]


def test_the_error_of_a_missing_field_lists_the_fields_of_the_file(tmp_path):
    path = write_table(tmp_path / "a.parquet")
    with pytest.raises(
        CorpusError,
        match=r"row 1: field 'body' must be text, .* \(the fields are id, language, text\)",
    ):
        documents(path, field="body")


def test_the_error_of_a_missing_library_has_the_command_that_installs_it(tmp_path, monkeypatch):
    path = write_table(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        CorpusError,
        match=r"a\.parquet: needs pyarrow, which.*: pip install 'charlm-rnn\[corpora\]'$",
    ):
        documents(path)
