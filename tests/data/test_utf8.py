"""Characters and lines of UTF-8, compared with Python's own decoding."""

import re
from itertools import pairwise
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from charlm.data import utf8
from charlm.data.utf8 import (
    as_line_feeds,
    character_bounds,
    count_characters,
    ends_line,
    find_line_ends,
    split_lines,
    starts_character,
    strip_line_end,
)

LINE_END = rb"[\n\r\x0b\x0c]|\xc2\x85|\xe2\x80[\xa8\xa9]"  # CR LF is two line ends.


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


def test_every_line_end_of_unicode_ends_a_line():
    text = "a\r\n\n\x0b\x0c\x85\u2028b\rc\u2029"
    lines = ["a\r\n", "\n", "\x0b", "\x0c", "\x85", "\u2028", "b\r", "c\u2029"]
    assert split_lines(text, "unicode") == lines
    assert split_lines(text.encode(), "unicode") == [line.encode() for line in lines]
    stripped = ["a", "", "", "", "", "", "b", "c"]
    assert [strip_line_end(line, "unicode") for line in lines] == stripped
    assert [strip_line_end(line.encode(), "unicode") for line in lines] == [
        line.encode() for line in stripped
    ]
    assert strip_line_end("a\r\r", "unicode") == "a\r" and not ends_line("a", "unicode")
    assert as_line_feeds(text.encode(), "unicode") == b"a\n\n\n\n\n\nb\nc\n"


@given(
    text=st.text("a日\xa8\x85\u2027\u2028\u2029\r\n\x0b\x0c\x1c", max_size=12),
    size=st.integers(1, 5),
)
def test_line_ends_are_found_across_the_boundaries_of_blocks(text, size):
    data = text.encode() + b"."
    for line_ends, pattern in (("unicode", LINE_END), ("line_feed", b"\n")):
        expected = [match.span() for match in re.finditer(pattern, data)]
        with patch.object(utf8, "BLOCK_BYTES", size):
            starts, stops = find_line_ends(np.frombuffer(data, dtype=np.uint8), line_ends)
        assert sorted(zip(starts.tolist(), stops.tolist(), strict=True)) == expected, line_ends


def test_by_the_earlier_rule_only_a_line_feed_ends_a_line():
    text = "a\r\n\n\x0b\x0c\x85\u2028b\rc"
    assert split_lines(text) == ["a\r\n", "\n", "\x0b\x0c\x85\u2028b\rc"]
    assert split_lines(text.encode()) == [line.encode() for line in split_lines(text)]
    assert split_lines("") == []


def test_a_carriage_return_before_the_end_of_a_line_belongs_to_the_line_end():
    assert [strip_line_end(line) for line in ("a\n", "a\r\n", "a\r", "a", "\n")] == [*"aaaa", ""]
    assert strip_line_end(b"a\r\r\n") == b"a\r"
    assert strip_line_end("a\n\n") == "a\n"
