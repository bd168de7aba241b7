"""Bytes of a text file in any encoding → checked UTF-8, and the likely encoding of other bytes."""

import codecs
import io
from collections import Counter
from collections.abc import Iterable, Iterator

from charlm.data.formats import UNPACK, Source
from charlm.errors import CorpusError
from charlm.storage.memory_maps import BLOCK_BYTES

_BYTES_REMEDY = "or pass --set tokenizer.level=byte to read any bytes"
# Byte order marks and their encodings; the longer marks come first.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_TAR_MARKS = (b"ustar\x0000", b"ustar  \0")  # The header of the first member has one of them.
_SAMPLE_BYTES = 1 << 14
# Encodings of texts that people have: code pages of Windows, East Asia, Russia and the Macintosh.
_CANDIDATES = [
    *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254"),
    *("gb18030", "big5", "cp932", "euc_jp", "cp949", "koi8_r", "mac_roman"),
]
# Letters and marks of the languages that are written in cp1252, except those that cp1254 replaces.
_WESTERN = {
    *"àáâãäåæçèéêëìíîïñòóôõöøùúûüßœÿÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŒ«»„“”…—€£§°©®·•¿¡ªº\xa0",
    *"\u201a\u2018\u2019\u2013\u2039\u203a",  # Single quotation marks and the short dash.
}
# A text of fewer characters outside ASCII may be valid UTF-8 by chance.
_MIN_EVIDENCE = 3
_MOSTLY = 0.8


class EncodingError(CorpusError):
    """A file that is not text in the encoding in which it is read.

    Attributes:
        problem: The file and what is wrong with it.
        likely: Encoding that the bytes suggest; None if they suggest none.
    """

    def __init__(
        self, source: Source, problem: str, likely: str | None, *, is_damaged: bool = False
    ) -> None:
        """Make a message that says how to name the encoding, or to correct a damaged file."""
        self.problem = f"{source.name}: {problem}"
        self.likely = likely
        advice = "pass --set corpus.encoding=NAME with the name of its encoding"
        if is_damaged:
            advice = "the text before it is: correct the file"
        elif likely:
            advice = f"it looks like {likely}: pass --set corpus.encoding={likely}"
        # The texts of a table are decoded at every level.
        bytes_advice = "" if source.table else f", {_BYTES_REMEDY}"
        super().__init__(f"{self.problem}; {advice}{bytes_advice}")

    def for_scoring(self) -> CorpusError:
        """Return the error of a command that has no option for the encoding."""
        guess = f"it looks like {self.likely}; " if self.likely else ""
        return CorpusError(f"{self.problem}; {guess}save it as UTF-8")


def canonical_encoding(encoding: str) -> str:
    """Return Python's name of a text encoding.

    Raises:
        CorpusError: Python has no such encoding.
    """
    try:
        "a".encode(encoding)  # Refuses codecs that are not text encodings, such as zlib and rot13.
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise CorpusError(
            f"corpus.encoding: Python has no encoding {encoding!r}; try utf-8 or cp1252"
        ) from None


def contains_ascii(encoding: str) -> bool:
    """Return whether text of ASCII characters has the same bytes in an encoding."""
    ascii_bytes = bytes(range(0x80))
    try:
        return ascii_bytes.decode(encoding) == ascii_bytes.decode("ascii")
    except UnicodeError:
        return False


def raw_blocks(source: Source) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file in blocks; the last one is empty."""
    with source.open() as file:
        while True:
            block: bytes = file.read(BLOCK_BYTES)
            yield block
            if not block:
                return


def utf8_blocks(source: Source, encoding: str, *, checks_encoding: bool) -> Iterator[bytes]:
    """Yield a text file in blocks of UTF-8, without its byte order mark.

    Args:
        source: The file.
        encoding: Encoding of the file.
        checks_encoding: Whether to refuse a file that is UTF-8 in place of `encoding`.

    Raises:
        EncodingError: The file is not text in this encoding.
        CorpusError: The file is a tar archive, or there is no such encoding.
    """
    name = canonical_encoding(encoding)
    decoder = codecs.getincrementaldecoder(name)()
    offset = 0
    for block in raw_blocks(source):
        if offset == 0 and checks_encoding:
            if block[257:265] in _TAR_MARKS:
                raise CorpusError(f"{source.name}: is a tar archive; {UNPACK}")
            if name != "utf-8" and _is_utf8(block):
                raise EncodingError(source, f"is not {encoding}", "utf-8")
        yield _decode_block(decoder, block, source, offset)
        offset += len(block)


def open_utf8(blocks: Iterable[bytes]) -> io.BufferedReader:
    """Return blocks as one file."""
    return io.BufferedReader(_Blocks(blocks), BLOCK_BYTES)  # type: ignore[arg-type]


class _Blocks(io.RawIOBase):
    """The bytes of blocks, read like a file."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = filter(None, blocks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = memoryview(next(self._blocks, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def likely_encoding(sample: bytes) -> str | None:
    """Return the encoding that the bytes of a text suggest; None if they suggest none.

    Args:
        sample: Beginning of the text, or some lines of it.
    """
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if sample.startswith(mark):
            return encoding
    if b"\0" in sample:
        return _utf16_by_zeros(sample)
    if sample.isascii() or _is_utf8(sample):
        return "utf-8"
    lines = sample[: sample.rfind(b"\n") + 1] or sample  # No character is cut at a line end.
    if _is_western(lines):
        return "cp1252"
    from charset_normalizer import from_bytes  # Imported late: only error messages need it.

    best = from_bytes(lines, cp_isolation=_CANDIDATES).best()
    return best.encoding if best else None


def _utf16_by_zeros(sample: bytes) -> str | None:
    """Return the order of UTF-16 that the bytes of a text with an alphabet suggest, else None."""
    match _are_high_bytes(sample[0::2]), _are_high_bytes(sample[1::2]):
        case False, True:
            return "utf-16-le"
        case True, False:
            return "utf-16-be"
    return None


def _are_high_bytes(values: bytes) -> bool:
    """Return whether most bytes have one of two values: 0, and that of an alphabet's letters."""
    common = dict(Counter(values).most_common(2))
    return 0 in common and sum(common.values()) >= _MOSTLY * len(values)


def _is_utf8(block: bytes) -> bool:
    """Return whether bytes are UTF-8 and not only ASCII; the last character may be cut."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(block)
    except UnicodeDecodeError:
        return False
    return len(text.encode("ascii", errors="ignore")) <= len(text) - _MIN_EVIDENCE


def _is_western(sample: bytes) -> bool:
    """Return whether bytes read as cp1252 have only characters of Western European languages."""
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        return False
    others = [character for character in text if character > "\x7f"]
    letters = [character for character in others if character.isalpha()]
    # Read as cp1252, a text in KOI8-R has mostly capitals, and a Hungarian one has õ for ő, but
    # neither ã nor ä.
    num_small = sum(character.islower() for character in letters)
    is_hungarian = {"õ", "Õ"} & {*letters} and not {"ã", "ä"} & {*letters}
    return _WESTERN.issuperset(others) and 2 * num_small >= len(letters) and not is_hungarian


def _decode_block(
    decoder: codecs.IncrementalDecoder, block: bytes, source: Source, offset: int
) -> bytes:
    """Return a block of a text, which begins at `offset` in its file, as UTF-8.

    Raises:
        EncodingError: The block is not text in the decoder's encoding.
    """
    num_pending = len(decoder.getstate()[0])
    try:
        text = decoder.decode(block, final=not block)
        if offset == 0:
            text = text.removeprefix("\ufeff")
        data = text.encode()
    except UnicodeDecodeError as error:
        raise _decode_error(source, error, offset - num_pending) from None
    except UnicodeError as error:  # Raised by utf-7 and idna, and for lone surrogates of utf-7.
        likely = likely_encoding(block[:_SAMPLE_BYTES])
        raise EncodingError(source, f"cannot be decoded: {error}", likely) from None
    if "\0" in text:
        raise EncodingError(
            source, "has a NUL character, so it is not text", _utf16_by_zeros(block)
        )
    return data


def _decode_error(source: Source, error: UnicodeDecodeError, offset: int) -> EncodingError:
    """Return an error with the position of the invalid byte and the likely encoding."""
    data = error.object
    value = f"0x{data[error.start]:02x}"
    problem = f"byte {offset + error.start} ({value}) is not {error.encoding}"
    begin = 0
    if error.start > _SAMPLE_BYTES:
        begin = data.rfind(b"\n", 0, error.start - _SAMPLE_BYTES) + 1
    before = data[begin : error.start]
    if error.encoding == "utf-8" and _is_utf8(before):
        return EncodingError(source, problem, None, is_damaged=True)
    return EncodingError(
        source, problem, likely_encoding(data[begin : error.start + _SAMPLE_BYTES])
    )
