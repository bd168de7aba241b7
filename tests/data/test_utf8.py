"""Characters and lines of UTF-8, compared with Python's own decoding."""

from itertools import pairwise
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from charlm.data import utf8
from charlm.data.utf8 import (
    character_bounds,
    count_characters,
    split_lines,
    starts_character,
    strip_line_end,
)


@given(text=st.text(max_size=20), block_bytes=st.integers(1, 7))
def test_characters_are_those_that_python_decodes(text, block_bytes):
    data = text.encode()
    with patch.object(utf8, "BLOCK_BYTES", block_bytes):
        assert count_characters(data) == len(text)
    bounds = character_bounds(data)
    pieces = [data[a:b].decode() for a, b in pairwise(bounds)]
    assert pieces == list(text)
    assert starts_character(data).sum() == len(text)


def test_bytes_that_continue_no_character_belong_to_the_character_before_them():
    assert character_bounds("aé𝄞".encode()) == [0, 1, 3, 7]
    assert character_bounds(b"") == [0]
    assert character_bounds(b"\xa9a") == [0, 1, 2]


def test_only_a_line_feed_ends_a_line():
    text = "a\r\n\n\x0b\x0c\x85\u2028b\rc"
    assert split_lines(text) == ["a\r\n", "\n", "\x0b\x0c\x85\u2028b\rc"]
    assert split_lines(text.encode()) == [line.encode() for line in split_lines(text)]
    assert split_lines("") == []


def test_a_carriage_return_before_the_end_of_a_line_belongs_to_the_line_end():
    assert [strip_line_end(line) for line in ("a\n", "a\r\n", "a\r", "a", "\n")] == [*"aaaa", ""]
    assert strip_line_end(b"a\r\r\n") == b"a\r"
    assert strip_line_end("a\n\n") == "a\n"
