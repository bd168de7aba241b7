"""What occurs in a text, against looking everywhere."""

import builtins

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.data.suffix_index import SuffixIndex
from charlm.data.utf8 import character_bounds
from charlm.errors import CharlmError

# Characters of one to four bytes, two of which share all but their last byte.
TEXTS = st.text(alphabet="abéè\u0939𝄞\n", max_size=40)


@given(text=TEXTS, pattern=st.text(alphabet="abéè", max_size=3))
def test_a_pattern_occurs_where_it_is_found_by_looking(text, pattern):
    index, sought = SuffixIndex(text.encode()), pattern.encode()
    places = [
        at for at in range(len(index.text) + 1) if index.text[at : at + len(sought)] == sought
    ]
    assert index.occurs(sought) is (pattern in text)
    if sought:
        assert index.positions(*index.interval(sought)).tolist() == places


def longest_at_each_end(query: str, text: str) -> list[int]:
    return [
        next(size for size in range(end, -1, -1) if query[end - size : end] in text)
        for end in range(1, len(query) + 1)
    ]


@given(text=TEXTS, query=TEXTS)
def test_copied_lengths_are_those_of_trying_every_length(text, query):
    data = query.encode()
    assert SuffixIndex(text.encode()).match_lengths(
        data, character_bounds(data)
    ).tolist() == longest_at_each_end(query, text)


@given(
    text=st.lists(st.integers(0, 300), max_size=30),
    query=st.lists(st.integers(0, 300), max_size=12),
    width=st.sampled_from([2, 4]),
)
def test_symbols_of_several_bytes_are_found_as_wholes(text, query, width):
    def data(symbols):
        return np.array(
            [symbol % 3 * 128 + symbol // 100 for symbol in symbols], dtype=f">u{width}"
        ).tobytes()

    as_letters = [
        "".join(chr(256 + symbol % 3 * 128 + symbol // 100) for symbol in symbols)
        for symbols in (query, text)
    ]
    found = SuffixIndex(data(text), width=width).match_lengths(
        data(query), range(0, width * len(query) + 1, width)
    )
    assert found.tolist() == longest_at_each_end(*as_letters)


def test_a_match_between_two_symbols_is_none():
    index = SuffixIndex(bytes([1, 2, 3, 4]), width=2)
    assert index.occurs(bytes([1, 2]))
    assert index.occurs(bytes([3, 4]))
    assert not index.occurs(bytes([2, 3]))


def test_nothing_occurs_in_an_empty_text_but_nothing():
    index = SuffixIndex(b"")
    assert index.occurs(b"")
    assert not index.occurs(b"a")
    assert index.match_lengths(b"ab", [0, 1, 2]).tolist() == [0, 0]
    assert index.match_lengths(b"", [0]).tolist() == []


def test_a_copy_of_the_whole_text_takes_no_longer_than_its_length_asks():
    text = bytes(np.random.default_rng(1).integers(97, 99, 5000).tolist())
    found = SuffixIndex(text).match_lengths(text + text, range(2 * len(text) + 1))
    assert found[: len(text)].tolist() == list(range(1, len(text) + 1))


def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def no_library(name, *rest, **named):
        if name == "pydivsufsort":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", no_library)
    with pytest.raises(
        CharlmError, match=r"pydivsufsort, which is not installed: pip install 'charlm\[eval\]'"
    ):
        SuffixIndex(b"text")
