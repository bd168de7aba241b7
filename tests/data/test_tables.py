"""Documents from JSON lines, Parquet and compressed files, and the errors about bad files."""

import gzip
import json
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from reading import opened

from charlm.config.schema import Corpus as Section
from charlm.errors import CorpusError

ROWS = [
    {"text": "One,\ntwo.", "language": "en", "id": 1},
    {"text": "Eins, zwei.", "language": "de", "id": 2},
    {"text": "", "language": "en", "id": 3},
    {"text": "日本語 🚀", "language": "en", "id": 4},
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "cache"))


def write_compressed(path: Path, data: bytes) -> Path:
    """Write data, compressed as the suffix of the path says."""
    if path.suffix == ".zst":
        with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
            file.write(data)
    else:
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_table(path: Path) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
        return path
    return write_compressed(path, "\n".join(json.dumps(row) for row in ROWS).encode())


def documents(path: Path, **fields: object) -> list[str]:
    text = opened(Section(text=(str(path),), valid_share=0.0, **fields)).parts["train"]
    return [
        text.files[number].path.read_bytes()[start:end].decode()
        for number, start, end in text.spans.tolist()
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_every_row_is_a_document(name, tmp_path):
    path = write_table(tmp_path / name)
    assert documents(path) == ["One,\ntwo.", "Eins, zwei.", "日本語 🚀"]
    assert documents(path, where={"language": "en"}) == ["One,\ntwo.", "日本語 🚀"]
    assert documents(path, where={"language": "en", "id": 4}) == ["日本語 🚀"]
    assert documents(path, field="language") == ["en", "de", "en", "en"]
    with pytest.raises(CorpusError, match="contains no document"):
        documents(path, where={"no such field": 1})
    assert documents(path, mode="records") == ["One,", "two.", "Eins, zwei.", "日本語 🚀"]
    assert documents(path, separator=", ") == ["One,\ntwo.", "Eins", "zwei.", "日本語 🚀"]


def test_a_text_compressed_with_zstandard_is_read(tmp_path):
    assert documents(write_compressed(tmp_path / "a.txt.zst", b"Ein Text." * 400_000)) == [
        "Ein Text." * 400_000
    ]


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
        (b'{"text": "a"}\n{"text"', "line 2 is not JSON: "),
        (b'{"text": "a"}\n\n[1]\n', "line 3 must be a JSON object, got list; "),
        (
            b'{"text": "a"}\n{"text": 1}',
            r"line 2: field 'text' must be text, got int \(the fields are text\); name another ",
        ),
        (
            b'{"body": "a"}',
            r"line 1: field 'text' must be text, got NoneType \(the fields are body\); ",
        ),
        (b'{"text": "a\\u0000"}', "document 1 has a NUL character"),
        (b"\xff", "line 1 is not JSON: "),
        (b"[" * 100_000, "line 1 is not JSON: "),
        (b"\n", "contains no document; "),
    ],
)
def test_a_bad_line_is_an_error_of_one_line(data, problem, tmp_path):
    path = write_compressed(tmp_path / "a.jsonl", data)
    with pytest.raises(CorpusError, match=rf"^{path}: {problem}[^\n]*$"):
        documents(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.txt.zst", "a.jsonl.zst"])
def test_a_damaged_file_is_an_error_of_one_line(name, tmp_path):
    path = tmp_path / name
    for data in (b"", b"no such thing", b"PAR1" * 9, b"(\xb5/\xfd" + b"x" * 40):
        path.write_bytes(data)
        with pytest.raises(CorpusError, match=rf"^{path}: [^\n]+$"):
            documents(path)


def test_a_column_name_that_is_not_utf_8_is_an_error_of_one_line(tmp_path):
    path = write_table(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes().replace(b"text", b"t\xfcxt"))
    with pytest.raises(CorpusError, match=rf"^{path}: cannot be read as Parquet: [^\n]+$"):
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
