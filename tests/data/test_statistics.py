"""Statistics of texts, by examples that can be counted by hand."""

from pathlib import Path

import pytest
from reading import opened

from charlm.config.corpus import Corpus as Section
from charlm.data.corpus import Text
from charlm.data.statistics import QUANTILES, Statistics, compute_statistics

pytestmark = pytest.mark.usefixtures("own_cache")


def parts_of(path: Path, data: bytes, *, raw: bool = False, **fields: object) -> list[Text]:
    path.write_bytes(data)
    return list(opened(Section(text=(str(path),), **fields), raw=raw).parts.values())


def count(path: Path, text: str, **fields: object) -> Statistics:
    return compute_statistics(*parts_of(path, text.encode(), **{"valid_share": 0.0} | fields))


def test_documents_characters_bytes_and_alphabet_are_counted(tmp_path):
    statistics = count(tmp_path / "a.txt", "añb|日a|a", separator="|")
    assert (statistics.documents, statistics.characters, statistics.bytes) == (3, 6, 9)
    assert statistics.alphabet == {"a": 3, "b": 1, "ñ": 1, "日": 1}
    # Equally frequent characters are in the order of their code points.
    assert list(statistics.alphabet) == ["a", "b", "ñ", "日"]


def test_every_repetition_of_a_document_is_a_duplicate(tmp_path):
    assert count(tmp_path / "a.txt", "ab|c|ab|abc|ab|c", separator="|").duplicates == 3
    assert count(tmp_path / "b.txt", "ab\n\nab\r\nAB\n", mode="records").duplicates == 1


def test_lengths_are_quantiles(tmp_path):
    statistics = count(
        tmp_path / "a.txt", "|".join("日" * length for length in range(21, 0, -1)), separator="|"
    )
    assert QUANTILES == (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    assert statistics.lengths == (1, 2, 6, 11, 16, 20, 21)
    assert count(tmp_path / "b.txt", "only").lengths == (4,) * 7


def test_a_document_cut_between_two_parts_is_counted_once(tmp_path):
    text = "one|two|a long document, which is cut|two"
    parts = parts_of(
        tmp_path / "a.txt", text.encode(), separator="|", valid_share=0.3, test_share=0.3
    )
    assert [len(part.spans) for part in parts] == [3, 1, 2] and parts[0].is_cut and parts[1].is_cut
    statistics = compute_statistics(*parts)
    assert statistics == count(tmp_path / "a.txt", text, separator="|")
    assert (statistics.documents, statistics.duplicates, statistics.lengths[-1]) == (4, 1, 29)


def test_a_text_read_as_bytes_is_counted_in_bytes(tmp_path):
    statistics = compute_statistics(
        *parts_of(tmp_path / "a.bin", b"\xff\x00\xff\xc3", raw=True, valid_share=0.0)
    )
    assert (statistics.documents, statistics.characters, statistics.bytes) == (1, 4, 4)
    assert statistics.alphabet == {"\xff": 2, "\0": 1, "\xc3": 1}


def test_a_document_read_in_many_blocks_is_one_document(tmp_path, monkeypatch):
    text = "ein Satz\nnoch ein Sätzchen\n"
    whole = count(tmp_path / "a.txt", text + "|" + text, separator="|")
    monkeypatch.setattr(Text.blocks, "__defaults__", (3,))
    assert count(tmp_path / "a.txt", text + "|" + text, separator="|") == whole
    assert (whole.documents, whole.duplicates) == (2, 1)
