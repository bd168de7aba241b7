"""Documents out of lines of JSON, rows of Parquet and packed files; what is wrong with them, in one line."""

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


def packed(path: Path, data: bytes) -> Path:
    """Write data as the name says that it is packed."""
    if path.suffix == ".zst":
        with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
            file.write(data)
    else:
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def table(path: Path) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
        return path
    return packed(path, "\n".join(json.dumps(row) for row in ROWS).encode())


def documents(path: Path, **fields: object) -> list[str]:
    text = opened(Section(text=(str(path),), valid_share=0.0, **fields)).parts["train"]
    return [
        text.files[number].path.read_bytes()[start:end].decode()
        for number, start, end in text.spans.tolist()
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_row_is_a_document(name, tmp_path):
    path = table(tmp_path / name)
    assert documents(path) == ["One,\ntwo.", "Eins, zwei.", "日本語 🚀"]
    assert documents(path, where={"language": "en"}) == ["One,\ntwo.", "日本語 🚀"]
    assert documents(path, where={"language": "en", "id": 4}) == ["日本語 🚀"]
    assert documents(path, field="language") == ["en", "de", "en", "en"]
    assert documents(path, mode="records") == ["One,", "two.", "Eins, zwei.", "日本語 🚀"]
    assert documents(path, separator=", ") == ["One,\ntwo.", "Eins", "zwei.", "日本語 🚀"]


def test_a_text_packed_by_zstandard_is_the_text(tmp_path):
    assert documents(packed(tmp_path / "a.txt.zst", b"Ein Text." * 400_000)) == [
        "Ein Text." * 400_000
    ]


def test_documents_of_tables_and_texts_stand_together_in_a_stable_order(tmp_path):
    table(tmp_path / "b.jsonl")
    table(tmp_path / "c.parquet")
    (tmp_path / "a.txt").write_text("first", encoding="utf-8")
    assert documents(tmp_path / "[abc].*", where={"id": 2}) == [
        "first",
        "Eins, zwei.",
        "Eins, zwei.",
    ]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'{"text": "a"}\n{"text"', "line 2 is no JSON: "),
        (b'{"text": "a"}\n\n[1]\n', "line 3 is list, not a JSON object; "),
        (
            b'{"text": "a"}\n{"text": 1}',
            r"line 2 has no text in field 'text', but int \(it has text\); name another by ",
        ),
        (
            b'{"body": "a"}',
            r"line 1 has no text in field 'text', but NoneType \(it has body\); name another by ",
        ),
        (b'{"text": "a\\u0000"}', "document 1 holds a NUL character"),
        (b"\xff", "line 1 is no JSON: "),
        (b"[" * 100_000, "line 1 is no JSON: "),
        (b"\n", "holds no document; "),
    ],
)
def test_a_bad_line_is_told_in_one_line(data, problem, tmp_path):
    path = packed(tmp_path / "a.jsonl", data)
    with pytest.raises(CorpusError, match=rf"^{path}: {problem}[^\n]*$"):
        documents(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.txt.zst", "a.jsonl.zst"])
@pytest.mark.parametrize("data", [b"", b"no such thing", b"PAR1" * 9, b"(\xb5/\xfd" + b"x" * 40])
def test_a_damaged_file_is_told_in_one_line(name, data, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=rf"^{path}: [^\n]+$"):
        documents(path)


def test_a_column_whose_name_is_no_text_is_told_in_one_line(tmp_path):
    path = table(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes().replace(b"text", b"t\xfcxt"))
    with pytest.raises(CorpusError, match=rf"^{path}: cannot be read as Parquet: [^\n]+$"):
        documents(path)


def test_half_a_character_is_no_character(tmp_path):
    assert documents(packed(tmp_path / "a.jsonl", b'{"text": "a\\ud83d."}')) == ["a?."]


def test_a_field_that_parquet_has_not_is_told_with_those_it_has(tmp_path):
    path = table(tmp_path / "a.parquet")
    with pytest.raises(
        CorpusError,
        match=r"row 1 has no text in field 'body', but NoneType \(it has id, language, text\)",
    ):
        documents(path, field="body")


def test_what_is_missing_is_told_with_the_command_that_installs_it(tmp_path, monkeypatch):
    path = table(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        CorpusError, match=r"a\.parquet: needs pyarrow .*: pip install 'charlm\[corpora\]'$"
    ):
        documents(path)
