"""The suffix index, compared with a search at every position."""

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
def test_positions_are_those_of_a_search_at_every_position(text, pattern):
    index, pattern_bytes = SuffixIndex(text.encode()), pattern.encode()
    places = [
        at
        for at in range(len(index.text) + 1)
        if index.text[at : at + len(pattern_bytes)] == pattern_bytes
    ]
    assert index.occurs(pattern_bytes) is (pattern in text)
    if pattern_bytes:
        assert index.positions(*index.interval(pattern_bytes)).tolist() == places


def longest_at_each_end(query: str, text: str) -> list[int]:
    return [
        next(size for size in range(end, -1, -1) if query[end - size : end] in text)
        for end in range(1, len(query) + 1)
    ]


@given(text=TEXTS, query=TEXTS)
def test_match_lengths_are_those_of_trying_every_length(text, query):
    data = query.encode()
    assert SuffixIndex(text.encode()).match_lengths(
        data, character_bounds(data)
    ).tolist() == longest_at_each_end(query, text)


@given(
    text=st.lists(st.integers(0, 300), max_size=30),
    query=st.lists(st.integers(0, 300), max_size=12),
    width=st.sampled_from([2, 4]),
)
def test_symbols_of_several_bytes_match_as_a_whole(text, query, width):
    def data(symbols):
        return np.array(
            [symbol % 3 * 128 + symbol // 100 for symbol in symbols], dtype=f">u{width}"
        ).tobytes()

    as_letters = [
        "".join(chr(256 + symbol % 3 * 128 + symbol // 100) for symbol in symbols)
        for symbols in (query, text)
    ]
    lengths = SuffixIndex(data(text), width=width).match_lengths(
        data(query), range(0, width * len(query) + 1, width)
    )
    assert lengths.tolist() == longest_at_each_end(*as_letters)


def test_a_pattern_that_begins_inside_a_symbol_does_not_occur():
    index = SuffixIndex(bytes([1, 2, 3, 4]), width=2)
    assert index.occurs(bytes([1, 2]))
    assert index.occurs(bytes([3, 4]))
    assert not index.occurs(bytes([2, 3]))


def test_an_empty_text_contains_only_the_empty_pattern():
    index = SuffixIndex(b"")
    assert index.occurs(b"")
    assert not index.occurs(b"a")
    assert index.match_lengths(b"ab", [0, 1, 2]).tolist() == [0, 0]
    assert index.match_lengths(b"", [0]).tolist() == []


def test_match_lengths_of_a_long_copy_are_its_lengths():
    text = bytes(np.random.default_rng(1).integers(97, 99, 5000).tolist())
    lengths = SuffixIndex(text).match_lengths(text + text, range(2 * len(text) + 1))
    assert lengths[: len(text)].tolist() == list(range(1, len(text) + 1))


def test_the_error_of_a_missing_library_has_the_command_that_installs_it(monkeypatch):
    real = builtins.__import__

    def no_library(name, *rest, **named):
        if name == "pydivsufsort":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", no_library)
    with pytest.raises(
        CharlmError, match=r"pydivsufsort, which is not installed: pip install 'charlm-rnn\[eval\]'"
    ):
        SuffixIndex(b"text")
