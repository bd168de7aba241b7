"""The format of compressed files: damage and impossible numbers are errors of one line."""

import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import make_model

from charlm.compression import container
from charlm.compression.compress import compress, decompress
from charlm.compression.container import Fingerprint
from charlm.compression.literals import Alphabet
from charlm.config.tokenizer import Tokenizer as TokenizerSection
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import CharlmError

CHARACTERS = Alphabet(learn_tokenizer(["catehs "], TokenizerSection(level="char")), "stream")
MODEL = make_model(vocabulary_size=CHARACTERS.tokenizer.vocabulary_size)
HEADER_BYTES = 11  # Magic, format and checksum.


def test_a_file_has_magic_format_checksum_and_method_in_this_order():
    compressed = compress(b"the cat", MODEL, CHARACTERS)
    assert compressed[:7] == b"charlm\x01"
    checksum = int.from_bytes(compressed[7:HEADER_BYTES], "little")
    assert zlib.crc32(compressed[HEADER_BYTES:]) == checksum
    assert compressed[HEADER_BYTES : HEADER_BYTES + 2] == bytes([container.CODED, 7])
    file = container.unpack(compressed, "the file")
    assert container.pack(file) == compressed
    assert (file.original, file.num_tokens) == (container.Original.of(b"the cat"), 7)


def test_stored_files_of_both_formats_are_read():
    original = container.Original.of(b"abc")
    deflated = container.StoredFile(original, container.deflate(b"abc"))
    raw = container.StoredFile(original, b"abc", is_raw=True)
    # Formats 1 and 2; the method follows the checksum.
    for file, file_format, method in [(deflated, 1, 0), (raw, 2, 2)]:
        packed = container.pack(file)
        assert (packed[6], packed[HEADER_BYTES]) == (file_format, method)
        assert container.unpack(packed, "") == file
        assert decompress(packed, MODEL, CHARACTERS) == b"abc"
        longer = container.pack(replace(file, data=file.data + b"d"))
        with pytest.raises(CharlmError):
            decompress(longer, MODEL, CHARACTERS)


def test_numbers_are_leb128_by_hand():
    for value, encoded in {0: b"\0", 127: b"\x7f", 128: b"\x80\x01", 300: b"\xac\x02"}.items():
        assert container.number_to_bytes(value) == encoded
        assert container.Reader(encoded, "").take_number() == value


def test_any_flipped_byte_or_truncation_is_refused():
    whole = compress("the cät".encode() * 3, MODEL, CHARACTERS)
    flipped = [
        whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :]
        for position in range(len(whole))
    ]
    for data in [*flipped, *(whole[:size] for size in range(len(whole))), whole + b"\0"]:
        with pytest.raises(CharlmError, match=r"^a\.charlm: [^\n]+; [^\n]+$"):
            decompress(data, MODEL, CHARACTERS, name="a.charlm")


@settings(max_examples=60)
@given(st.data())
def test_a_crafted_file_with_a_valid_checksum_gives_an_error_of_one_line(data):
    body = bytearray(compress(b"the cat", MODEL, CHARACTERS)[HEADER_BYTES:])
    position = data.draw(st.integers(0, len(body) - 1))
    body[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        decompress(container.seal([bytes(body)]), MODEL, CHARACTERS)
    except CharlmError as error:
        assert "\n" not in str(error)


def test_words_that_no_encoder_writes_are_refused():
    file = container.unpack(compress(b"the cat", MODEL, CHARACTERS), "the file")
    crafted = container.pack(replace(file, words=b"\xff" * 8))
    with pytest.raises(CharlmError, match=r"^the file: the file is damaged"):
        decompress(crafted, MODEL, CHARACTERS)


def test_a_claimed_length_allocates_no_memory():
    huge = container.Original(2**62, bytes(8))
    stored = container.pack(container.StoredFile(huge, container.deflate(b"x")))
    with pytest.raises(CharlmError, match="checksum of the decompressed data differs"):
        decompress(stored, MODEL, CHARACTERS)
    coded = container.CodedFile(
        original=huge,
        fingerprint=Fingerprint(*[b""] * 6),
        has_variant_ends=False,
        num_streams=2**40,
        num_tokens=2**50,
        literals=b"",
        words=b"",
    )
    with pytest.raises(CharlmError, match="damaged"):
        decompress(container.pack(coded), MODEL, CHARACTERS)
    sizes = container.number_to_bytes(2**62) + bytes(8) + bytes(6) + bytes(3)
    claimed = container.seal([bytes([container.CODED]), sizes, container.number_to_bytes(2**60)])
    with pytest.raises(CharlmError, match="damaged"):
        decompress(claimed, MODEL, CHARACTERS)


def test_too_many_streams_or_tokens_are_refused():
    file = container.unpack(compress(b"the cat", MODEL, CHARACTERS), "the file")
    for changes in [
        {"num_streams": 0},
        {"num_streams": 8},
        {"num_tokens": 2 * 7 + 2},
        {"words": file.words + b"\0"},
    ]:
        with pytest.raises(CharlmError, match="damaged"):
            container.unpack(container.pack(replace(file, **changes)), "the file")
