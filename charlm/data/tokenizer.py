r"""Text ↔ token ids, at the level of characters, bytes, words or subwords.

A tokenizer is saved as Hugging Face's `tokenizer.json`; loaded with that library alone, the file
gives the same ids. Characters and bytes are encoded with a lookup table instead of the library: the
ids are the same, and the speed is that of memory.

    >>> from charlm.config.schema import Tokenizer as Section
    >>> from charlm.data.vocabulary import learn_tokenizer
    >>> tokenizer = learn_tokenizer(["to be or not to be"], Section(level="char"))
    >>> tokenizer.encode("bet").tolist()
    [3, 4, 8]
    >>> tokenizer.decode([3, 4, 8])
    'bet'
"""

import codecs
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as HuggingFaceTokenizer

from charlm.config.tokenizer import Tokenizer as TokenizerSection
from charlm.data.utf8 import starts_character
from charlm.errors import TokenizerError

Ids = npt.NDArray[np.integer[Any]]
EOS, UNK = 0, 1
EOS_TEXT, UNK_TEXT = "<EOS>", "<UNK>"
NUM_CODE_POINTS = 0x110000
_CHUNK_CHARACTERS = 1 << 14
_PART_BYTES = 1 << 12


class Tokenizer:
    """A tokenizer of one level, learned from a text or loaded from `tokenizer.json`.

    Attributes:
        library: Hugging Face tokenizer that `tokenizer.json` contains.
        section: Tokenizer section of the configuration.
        vocabulary_size: Number of ids, including <EOS> and <UNK>.
    """

    def __init__(self, library: HuggingFaceTokenizer, section: TokenizerSection) -> None:
        """Wrap a Hugging Face tokenizer."""
        self.library = library
        self.section = section
        self.vocabulary_size: int = library.get_vocab_size()

    def encode(self, text: str) -> Ids:
        """Return the ids of `text`, (tokens,).

        Raises:
            TokenizerError: The text has lone surrogates, so it is not Unicode.
        """
        return self.encode_pieces([_to_utf8(text)], [False])

    def encode_pieces(self, pieces: Sequence[bytes], ends: Sequence[bool]) -> Ids:
        """Return the ids of several pieces of text, concatenated, (tokens,).

        Args:
            pieces: UTF-8 text; at level `byte`, any bytes.
            ends: For each piece, whether <EOS> follows it.
        """
        if self._table is not None:
            return self._encode_by_table(self._table, pieces, np.asarray(ends))
        return self._encode_by_library(pieces, ends)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; bytes that are not valid UTF-8 become U+FFFD."""
        decoder = Decoder(self)
        return "".join(map(decoder.feed, ids)) + decoder.flush()

    def find_unknown(self, text: str) -> list[str]:
        """Return the distinct characters or words of `text` without an id, in order.

        Raises:
            TokenizerError: The text has lone surrogates, so it is not Unicode.
        """
        return list(self.count_unknown(text))

    def count_unknown(self, text: str) -> Counter[str]:
        """Return the number of each character or word of `text` without an id, by first occurrence.

        Raises:
            TokenizerError: As for `find_unknown`.
        """
        normalized = self.normalize(_to_utf8(text).decode())
        unknown: Iterable[str] = []  # Bytes and subwords represent every text.
        if self.section.level == "word":
            unknown = (
                word.strip(" ") or word
                for word in self.pre_tokenize(normalized)
                if self.library.token_to_id(word) in (None, UNK)
            )
        elif self.section.level == "char" and self._table is not None:
            table = self._table
            unknown = (character for character in normalized if table[ord(character)] == UNK)
        return Counter(unknown)

    def normalize(self, text: str) -> str:
        """Return the text after the tokenizer's normalization: Unicode form, case, markers."""
        normalizer = self.library.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def pre_tokenize(self, text: str) -> list[str]:
        """Return the words of a normalized text."""
        splitter = self.library.pre_tokenizer
        if splitter is None:
            return [text]
        return [word for word, _ in splitter.pre_tokenize_str(text)]

    def to_json(self) -> str:
        """Return the contents of `tokenizer.json`."""
        return self.library.to_str(pretty=True)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """UTF-8 bytes of each id; empty for <EOS>, and the marker "<UNK>" for <UNK>."""
        texts = [self.library.id_to_token(index) or "" for index in range(2, self.vocabulary_size)]
        if self.section.level in ("byte", "bpe"):
            byte_of = byte_alphabet()
            tokens = [bytes(byte_of[letter] for letter in text) for text in texts]
        else:
            tokens = [text.encode() for text in texts]
        return [b"", UNK_TEXT.encode(), *tokens]

    def token_texts(self, *, eos: bytes | None = None, unknown: bytes = b"") -> list[bytes]:
        """Return the UTF-8 bytes that each id adds to a text when it follows another on a line.

        Unlike `token_bytes`, they include the space before a word where the tokenizer splits at
        spaces; the first word of a line has none.

        Args:
            eos: Bytes that <EOS> adds; by default those that `decode` writes for it.
            unknown: Bytes that <UNK> adds.
        """
        space = b" " if self.separates_by_space else b""
        texts = [space + token for token in self.token_bytes]
        texts[EOS] = self.decode([EOS]).encode() if eos is None else eos
        texts[UNK] = space + unknown if unknown else b""
        return texts

    @property
    def separates_by_space(self) -> bool:
        """Whether spaces separate tokens, and <EOS> is the end of a line."""
        return self.section.level == "word" and self.section.words == "whitespace"

    @cached_property
    def _table(self) -> npt.NDArray[Any] | None:
        """Id of each code point (char) or byte (byte), in the smallest type; else None."""
        dtype = id_dtype(self.vocabulary_size)
        if self.section.level == "byte":
            return np.arange(2, 258).astype(dtype)
        if self.section.level == "char":
            table = np.full(NUM_CODE_POINTS, UNK, dtype=dtype)
            for token, index in self.library.get_vocab().items():
                if index not in (EOS, UNK):
                    table[ord(token)] = index
            return table
        return None

    def _encode_by_table(
        self, table: npt.NDArray[Any], pieces: Sequence[bytes], ends: npt.NDArray[np.bool_]
    ) -> Ids:
        if self.library.normalizer is not None:
            pieces = [self.normalize(piece.decode()).encode() for piece in pieces]
        joined = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        ids: Ids
        if self.section.level == "byte":
            # The table is 2, 3, 4, ...; convert before the sum, or the last two bytes would wrap.
            ids = np.frombuffer(joined, dtype=np.uint8).astype(table.dtype) + table[0]
        elif table.itemsize == 1 and joined.isascii():
            ids = np.frombuffer(joined.translate(table[:256].tobytes()), dtype=table.dtype)
        else:
            ids = _look_up(table, joined.decode())
        if not ends.any():
            return ids
        lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        if len(ids) != len(joined):
            lengths = _lengths_in_characters(joined, lengths)
        return np.insert(ids, np.cumsum(lengths)[ends], EOS)

    def _encode_by_library(self, pieces: Sequence[bytes], ends: Sequence[bool]) -> Ids:
        parts: list[str] = []
        eos_after: list[bool] = []
        for piece, end in zip(pieces, ends, strict=True):
            cut = [part.decode() for part in _cut_at_lines(piece)]
            parts += cut
            eos_after += [False] * (len(cut) - 1) + [end]
        encodings = self.library.encode_batch_fast(parts, add_special_tokens=False)
        arrays = [np.zeros(0, dtype=np.int64)]
        for encoding, end in zip(encodings, eos_after, strict=True):
            arrays.append(np.array(encoding.ids, dtype=np.int64))
            if end:
                arrays.append(np.array([EOS]))
        return np.concatenate(arrays)


class Decoder:
    """Ids → text, one id at a time, to print a text while it is generated."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Begin at the start of a text."""
        self._token_bytes = tokenizer.token_bytes
        self._adds_spaces = tokenizer.separates_by_space
        # After a line <EOS> adds nothing, because the text has its own line end.
        self._eos = "\n" if self._adds_spaces or tokenizer.section.eos == "document" else ""
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._starts_line = True

    def feed(self, token: int) -> str:
        """Return the text that `token` adds, without an incomplete character at its end."""
        if token == EOS:
            self._starts_line = True
            return self.flush() + self._eos
        space = " " if self._adds_spaces and not self._starts_line else ""
        self._starts_line = False
        return space + self._utf8.decode(self._token_bytes[token])

    def flush(self) -> str:
        """Return the incomplete character at the end of the text, as U+FFFD."""
        return self._utf8.decode(b"", final=True)


def id_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """Return the smallest unsigned integer type that can represent every id."""
    return np.min_scalar_type(vocabulary_size - 1)


def byte_alphabet() -> dict[str, int]:
    """Return the byte of each letter of the byte-level alphabet (Radford et al. 2019).

    The printable bytes of Latin-1 are their own letters; the others are the code points from 256
    on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + rank): byte for rank, byte in enumerate(others)
    }


def _cut_at_lines(piece: bytes) -> Iterator[bytes]:
    """Yield a text in parts that end at line ends, because the library is slow on long texts."""
    start = 0
    while len(piece) - start > _PART_BYTES:
        line_end = piece.find(b"\n", start + _PART_BYTES)
        if line_end < 0:
            break
        yield piece[start : line_end + 1]
        start = line_end + 1
    yield piece[start:]


def _look_up(table: npt.NDArray[Any], text: str) -> Ids:
    """Return the table's entry for each code point, in chunks that fit the processor's cache."""
    ids = [table[:0]]
    for start in range(0, len(text), _CHUNK_CHARACTERS):
        chunk = text[start : start + _CHUNK_CHARACTERS].encode("utf-32-le")
        ids.append(table.take(np.frombuffer(chunk, dtype=np.int32), mode="clip"))
    return np.concatenate(ids)


def _lengths_in_characters(joined: bytes, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the lengths of adjacent pieces of UTF-8 in characters, given those in bytes."""
    characters_before = np.concatenate([[0], np.cumsum(starts_character(joined))])
    bounds: npt.NDArray[np.int64] = characters_before[np.concatenate([[0], np.cumsum(lengths)])]
    return np.diff(bounds)


def _to_utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"character {error.start} of the text ({error.object[error.start]!r}) is not "
            "Unicode; give the text in UTF-8"
        ) from None
