r"""Pretrained word vectors from text files of GloVe, word2vec and fastText.

A line is a token and its numbers, separated by single spaces. Files of word2vec and fastText begin
with a line `count size`. GloVe has tokens that contain spaces (". . ."), so the numbers are the
last fields of a line. The files are larger than memory: they are read line by line, and only the
numbers of known tokens are parsed.
"""

import codecs
import gzip
import math
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from charlm.data.tokenizer import EOS, UNK, Tokenizer
from charlm.errors import CorpusError
from charlm.storage.memory_maps import BLOCK_BYTES

_GZIP_MAGIC = b"\x1f\x8b"
_ZIP_MAGIC = b"PK\x03\x04"
_HEADER = re.compile(rb"(\d{1,18}) (\d{1,18})")
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_NEEDS_TEXT_FILE = "model.vectors must name a text file of GloVe or word2vec vectors"


@dataclass(frozen=True)
class Vectors:
    """The vectors of a vocabulary.

    Attributes:
        rows: Vector of each token, (vocabulary, size), float32; zeros for a token without one.
        found: Whether the file has a vector for each token, (vocabulary,).
    """

    rows: npt.NDArray[np.float32]
    found: npt.NDArray[np.bool_]

    @property
    def fraction_found(self) -> float:
        """Fraction of the vocabulary, without <EOS> and <UNK>, that has a vector."""
        words = self.found[UNK + 1 :]
        return int(np.count_nonzero(words)) / max(len(words), 1)


class _Entry(NamedTuple):
    """A line with a vector: its number from 1, its token, and the whole line."""

    number: int
    token: bytes
    line: bytes


def read_vectors(path: Path, tokenizer: Tokenizer, *, size: int) -> Vectors:
    """Read the vectors of a tokenizer's vocabulary.

    The vector of "the" is that of the tokens "the" and " the"; that of "</s>" is for <EOS>, that of
    "<unk>" for <UNK>. If a token occurs twice in the file, its first vector counts.

    Args:
        path: Text file of GloVe or word2vec in UTF-8, compressed with gzip or not, with any name.
        tokenizer: Tokenizer with the vocabulary.
        size: Numbers per vector.

    Raises:
        CorpusError: The file cannot be read, is not such a file, is damaged or truncated, has
            vectors of another size, or has none of the vocabulary.
    """
    wanted = _ids_by_key(tokenizer)
    rows = np.zeros((tokenizer.vocabulary_size, size), dtype=np.float32)
    found = np.zeros(tokenizer.vocabulary_size, dtype=np.bool_)
    for number, key, line in _read_entries(path, size):
        if key in wanted:
            tokens = wanted.pop(key)
            rows[tokens] = _parse_vector(line.rsplit(b" ", size)[1:], f"{path}:{number}", key)
            found[tokens] = True
    if not found[UNK + 1 :].any():
        raise CorpusError(f"{path}: has no vector of the vocabulary; {_mismatch_remedy(tokenizer)}")
    return Vectors(rows, found)


def _ids_by_key(tokenizer: Tokenizer) -> dict[bytes, list[int]]:
    """Return the ids that share the vector of each key of a file."""
    ids: defaultdict[bytes, list[int]] = defaultdict(list, {b"</s>": [EOS], b"<unk>": [UNK]})
    for index, token in enumerate(tokenizer.token_bytes):
        if index not in (EOS, UNK):
            ids[token.removeprefix(b" ") or token].append(index)
    return dict(ids)


def _read_entries(path: Path, size: int) -> Iterator[_Entry]:
    """Yield the lines with a vector; each has at least `size` fields after its token."""
    number, header = 0, None
    for number, line in _read_lines(path):
        if number == 1 and (header := _HEADER.fullmatch(line)):
            _check_size(int(header[2]), size, f"{path}:1")
            continue
        num_spaces = line.count(b" ")
        if num_spaces != size and number == (2 if header else 1):
            _check_size(_vector_size(line), size, f"{path}:{number}")
        if num_spaces < size:
            raise CorpusError(
                f"{path}:{number}: has {num_spaces} numbers instead of {size}: the file is damaged "
                "or truncated; download it again"
            )
        key = line.partition(b" ")[0] if num_spaces == size else line.rsplit(b" ", size)[0]
        yield _Entry(number, key, line)
    if number == 0:
        raise CorpusError(f"{path}: is empty; {_NEEDS_TEXT_FILE}")
    if header and number - 1 < int(header[1]):
        raise CorpusError(
            f"{path}:{number}: the file is truncated: it has {number - 1} of the {int(header[1])} "
            "vectors that its first line announces; download it again"
        )


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers from 1: valid UTF-8, without the line end."""
    number, has_header = 0, False
    try:
        with path.open("rb") as file:
            is_gzip = file.peek(2)[:2] == _GZIP_MAGIC
            stream: BufferedIOBase = gzip.GzipFile(fileobj=file) if is_gzip else file
            # Without a limit, a file without line ends would be read into memory whole.
            while line := stream.readline(BLOCK_BYTES):
                number += 1
                if problem := _line_problem(line):
                    remedy = _line_remedy(line, number, has_header)
                    raise CorpusError(f"{path}:{number}: {problem}; {remedy}")
                # word2vec leaves a space after the last number. Other white space can be a token.
                stripped = line.rstrip(b" \r\n")
                if number == 1:
                    stripped = stripped.removeprefix(codecs.BOM_UTF8)
                    has_header = _HEADER.fullmatch(stripped) is not None
                yield number, stripped
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorpusError(
            f"{path}:{number + 1}: the gzip file is damaged: {error}; download it again"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise CorpusError(f"{path}: cannot be read: {reason}; {_NEEDS_TEXT_FILE}") from None


def _line_problem(line: bytes) -> str:
    """Return why a line is not a line of text; an empty string if it is one."""
    if b"\0" in line:
        return "is not UTF-8 text: it contains a NUL character"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"is not UTF-8 text: byte {error.start + 1} of the line is 0x{line[error.start]:02x}"
    if len(line) == BLOCK_BYTES and line[-1:] != b"\n":
        return f"has no line end in {BLOCK_BYTES} bytes"
    return ""


def _line_remedy(line: bytes, number: int, has_header: bool) -> str:
    if has_header and number == 2:
        return (
            "this seems to be word2vec's binary format: save it as text, with gensim: "
            "KeyedVectors.load_word2vec_format(OLD, binary=True).save_word2vec_format(NEW)"
        )
    if number == 1:
        is_zip = line.startswith(_ZIP_MAGIC)
        hint = "unpack the zip file first" if is_zip else "binary formats are not supported"
        return f"{_NEEDS_TEXT_FILE}: {hint}"
    return "convert the file to UTF-8, or remove the line"


def _check_size(actual: int, size: int, place: str) -> None:
    if actual == 0:
        raise CorpusError(
            f"{place}: is not a token with numbers after it, separated by spaces; "
            f"{_NEEDS_TEXT_FILE}"
        )
    if actual != size:
        raise CorpusError(
            f"{place}: has {actual} numbers per line, but model.embedding_size is {size}; "
            f"set model.embedding_size={actual}"
        )


def _vector_size(line: bytes) -> int:
    """Return how many of the last fields are numbers; the first field is always a token."""
    fields = line.split(b" ")[1:]
    return sum(1 for _ in takewhile(math.isfinite, map(_to_float, reversed(fields))))


def _parse_vector(fields: Sequence[bytes], place: str, key: bytes) -> list[float]:
    numbers = [_to_float(field) for field in fields]
    for field, number in zip(fields, numbers, strict=True):
        if not abs(number) <= _MAX_FLOAT32:  # This refuses NaN as well.
            raise CorpusError(
                f"{place}: the vector of {key.decode()!r} must be finite numbers, got "
                f"{field.decode()!r}; correct or remove the line"
            )
    return numbers


def _to_float(field: bytes) -> float:
    try:
        return float(field)
    except ValueError:
        return math.nan


def _mismatch_remedy(tokenizer: Tokenizer) -> str:
    section = tokenizer.section
    if section.level != "word":
        return f"the level is {section.level}: word vectors need tokenizer.level=word"
    if not section.lowercase:
        return (
            "the vocabulary has capital letters: if the file has none, set tokenizer.lowercase=true"
        )
    return "the vocabulary is in small letters: use vectors of the language of the text"
