"""The file format of compressed files: bytes to fields and back.

Numbers are in LEB128; a text or checksum comes after its length. A file consists of:

    "charlm", format; CRC-32 of all that follows
    method; length of the original, first 8 bytes of its SHA-256
    method 0, stored: the original, deflated
    method 2, raw: the original as it is, if that is smaller; such a file has format 2
    method 1, coded: the fingerprint: versions of charlm and torch, the processor's vector
        instructions, checksums of weights, tokenizer and arithmetic;
        variant of line ends, number of streams, number of tokens, size of the literals;
        the literals, deflated; the words of the range coder
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from charlm.errors import CharlmError

MAGIC = b"charlm"
FORMAT, RAW_FORMAT = 1, 2
STORED, CODED, RAW = 0, 1, 2
MAX_STREAMS = 256
# Per byte of the compressed file: about what deflate can reach. A file that claims more tokens is
# damaged or malicious.
MAX_TOKENS_PER_BYTE = 1024
_CHECKSUM_BYTES = 8


class Fingerprint(NamedTuple):
    """Facts that must be equal where a file is decompressed, unless they are for information.

    Attributes:
        charlm: Version of charlm, for information.
        torch: Version of torch.
        processor: Vector instructions that torch uses, for information.
        weights: Checksum of the weights, 4 bytes.
        tokenizer: Checksum of the tokenizer and the rules of the text, 4 bytes.
        arithmetic: Checksum of computed probabilities, 4 bytes.
    """

    charlm: bytes
    torch: bytes
    processor: bytes
    weights: bytes
    tokenizer: bytes
    arithmetic: bytes


@dataclass(frozen=True)
class Original:
    """Identity of an original file.

    Attributes:
        length: Number of bytes.
        checksum: First bytes of its SHA-256.
    """

    length: int
    checksum: bytes

    @classmethod
    def of(cls, data: bytes) -> "Original":
        """Return the identity of an original."""
        return cls(len(data), hashlib.sha256(data).digest()[:_CHECKSUM_BYTES])


@dataclass(frozen=True)
class StoredFile:
    """A file that no model compresses.

    Attributes:
        original: Identity of the original.
        data: The original, deflated or as it is.
        is_raw: Whether it is as it is.
    """

    original: Original
    data: bytes
    is_raw: bool = False


@dataclass(frozen=True)
class CodedFile:
    """A file that a model compresses.

    Attributes:
        original: Identity of the original.
        fingerprint: Facts that must be equal where the file is decompressed.
        has_variant_ends: Whether lines end in the less usual way.
        num_streams: Number of streams coded side by side.
        num_tokens: Number of tokens.
        literals: Bytes without a token, deflated.
        words: Words of the range coder.
    """

    original: Original
    fingerprint: Fingerprint
    has_variant_ends: bool
    num_streams: int
    num_tokens: int
    literals: bytes
    words: bytes


class Reader:
    """Reads bytes from their beginning to their end; missing bytes are damage."""

    def __init__(self, data: bytes, name: str) -> None:
        """Start at the beginning; `name` is the file in error messages."""
        self.name = name
        self._data = data
        self._position = 0

    @property
    def is_at_end(self) -> bool:
        """Whether all bytes were read."""
        return self._position >= len(self._data)

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        data = self._data[self._position : self._position + size]
        if len(data) != size:
            raise damaged(self.name)
        self._position += size
        return data

    def take_rest(self) -> bytes:
        """Return all remaining bytes."""
        return self.take(len(self._data) - self._position)

    def take_number(self) -> int:
        """Return a number in LEB128 of at most 63 bits."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise damaged(self.name)

    def take_sized(self) -> bytes:
        """Return bytes that come after their length."""
        return self.take(self.take_number())


def pack(file: StoredFile | CodedFile) -> bytes:
    """Return the bytes of a file."""
    original = number_to_bytes(file.original.length) + file.original.checksum
    if isinstance(file, StoredFile):
        method, file_format = (RAW, RAW_FORMAT) if file.is_raw else (STORED, FORMAT)
        return seal([bytes([method]), original, file.data], file_format)
    numbers = (file.has_variant_ends, file.num_streams, file.num_tokens, len(file.literals))
    return seal(
        [
            bytes([CODED]),
            original,
            *map(sized, file.fingerprint),
            *map(number_to_bytes, numbers),
            file.literals,
            file.words,
        ]
    )


def unpack(data: bytes, name: str) -> StoredFile | CodedFile:
    """Return the fields of a file; `name` is its name in error messages.

    Raises:
        CharlmError: The file is damaged, or is not a compressed file of this format.
    """
    body = _unseal(data, name)
    reader = Reader(body, name)
    method = reader.take(1)[0]
    original = Original(reader.take_number(), reader.take(_CHECKSUM_BYTES))
    if method in (STORED, RAW):
        return StoredFile(original, reader.take_rest(), is_raw=method == RAW)
    fingerprint = Fingerprint(*(reader.take_sized() for _ in Fingerprint._fields))
    variant, num_streams, num_tokens, literal_bytes = (reader.take_number() for _ in range(4))
    file = CodedFile(
        original=original,
        fingerprint=fingerprint,
        has_variant_ends=bool(variant),
        num_streams=num_streams,
        num_tokens=num_tokens,
        literals=reader.take(literal_bytes),
        words=reader.take_rest(),
    )
    _check_sizes(file, len(body), name)
    return file


def original_of(file: StoredFile, name: str) -> bytes:
    """Return the original of a stored file.

    Raises:
        CharlmError: The data is damaged, or would be larger than the original.
    """
    if file.is_raw:
        return file.data
    return inflate(file.data, max_bytes=file.original.length, name=name)


def deflate(data: bytes) -> bytes:
    """Return deflated data; of no data, none."""
    if not data:
        return b""
    deflater = zlib.compressobj(9, wbits=-15)
    return deflater.compress(data) + deflater.flush()


def inflate(data: bytes, *, max_bytes: int, name: str) -> bytes:
    """Return inflated data, at most `max_bytes` + 1 bytes of it.

    Raises:
        CharlmError: The data is damaged, or would be larger.
    """
    if not data:
        return b""
    inflater = zlib.decompressobj(wbits=-15)
    try:
        inflated = inflater.decompress(data, max_bytes + 1)
    except (zlib.error, OverflowError):
        raise damaged(name) from None
    if not inflater.eof or inflater.unused_data:
        raise damaged(name)
    return inflated


def number_to_bytes(value: int) -> bytes:
    """Return a number in LEB128: seven bits per byte, the lowest first, the high bit for more."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + number_to_bytes(rest) if rest else bytes([low])


def sized(data: bytes) -> bytes:
    """Return bytes after their length."""
    return number_to_bytes(len(data)) + data


def seal(parts: Sequence[bytes], file_format: int = FORMAT) -> bytes:
    """Return the parts of a file after magic, format and checksum."""
    body = b"".join(parts)
    return MAGIC + bytes([file_format]) + zlib.crc32(body).to_bytes(4, "little") + body


def damaged(name: str) -> CharlmError:
    """Return the error for a damaged file."""
    return CharlmError(
        f"{name}: the file is damaged or cut short; restore it from a backup, or compress the "
        "original again"
    )


def _unseal(data: bytes, name: str) -> bytes:
    """Return what `seal` joined, after verifying the checksum."""
    if not data.startswith(MAGIC):
        raise CharlmError(
            f"{name}: not a file that charlm compress wrote; name a file that ends in .charlm"
        )
    reader = Reader(data[len(MAGIC) :], name)
    file_format = reader.take(1)[0]
    if file_format not in (FORMAT, RAW_FORMAT):
        raise CharlmError(
            f"{name}: has format {file_format}, but this charlm reads formats up to {RAW_FORMAT}; "
            "update charlm"
        )
    checksum = int.from_bytes(reader.take(4), "little")
    body = reader.take_rest()
    if zlib.crc32(body) != checksum:
        raise damaged(name)
    return body


def _check_sizes(file: CodedFile, body_bytes: int, name: str) -> None:
    """Raise CharlmError unless the numbers of a file are possible, before they allocate memory."""
    is_possible = (
        1 <= file.num_streams <= min(MAX_STREAMS, file.num_tokens)
        and file.num_tokens <= 2 * file.original.length + 1
        and file.num_tokens <= MAX_TOKENS_PER_BYTE * body_bytes
        and len(file.words) % 4 == 0
    )
    if not is_possible:
        raise damaged(name)
