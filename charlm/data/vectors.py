r"""Pretrained vectors of words, from text files of GloVe, word2vec and fastText.

A line is a token and its numbers, separated by single spaces. word2vec and fastText put `count size` before the first;
GloVe has tokens with spaces inside (". . ."), so that the numbers are the last fields of a line. Such files are larger
than memory: they are read line by line, and only the numbers of known tokens are parsed.
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

import numpy as np
import numpy.typing as npt

from charlm.data.tokenizer import EOS, UNK, Tokenizer
from charlm.errors import CorpusError
from charlm.storage.memory_maps import BLOCK_BYTES

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_HEADER = re.compile(rb"(\d{1,18}) (\d{1,18})")
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Vectors:
    """Vectors of the tokens that a file has.

    Attributes:
        rows: Vector of each token, (vocabulary, size), float32; zeros where the file has none.
        found: Whether the file has one, (vocabulary,).
    """

    rows: npt.NDArray[np.float32]
    found: npt.NDArray[np.bool_]

    @property
    def share(self) -> float:
        """Share of the vocabulary, <EOS> and <UNK> left out, that was found."""
        words = self.found[UNK + 1 :]
        return int(np.count_nonzero(words)) / max(len(words), 1)


def read_vectors(path: Path, tokenizer: Tokenizer, *, size: int) -> Vectors:
    """Read the vectors of a tokenizer's vocabulary.

    The vector of "the" goes to the tokens "the" and " the", that of "</s>" to <EOS>, that of "<unk>" to <UNK>. Where a
    file has a token twice, the first counts.

    Args:
        path: A text file, in UTF-8, of GloVe or word2vec; packed by gzip or not, whatever its name.
        tokenizer: Says which tokens are wanted.
        size: Numbers in a vector.

    Raises:
        CorpusError: The file cannot be read, is no such text, is damaged or cut short, has vectors of another size, or
            has none of the vocabulary.
    """
    wanted = _tokens_by_key(tokenizer)
    rows = np.zeros((tokenizer.vocabulary_size, size), dtype=np.float32)
    found = np.zeros(tokenizer.vocabulary_size, dtype=np.bool_)
    for number, key, line in _entries(path, size):
        if key in wanted:
            tokens = wanted.pop(key)
            rows[tokens] = _numbers(line.rsplit(b" ", size)[1:], f"{path}:{number}", key)
            found[tokens] = True
    if not found[UNK + 1 :].any():
        raise CorpusError(f"{path}: has no vector of the vocabulary, {_mismatch(tokenizer)}")
    return Vectors(rows, found)


def _tokens_by_key(tokenizer: Tokenizer) -> dict[bytes, list[int]]:
    """Return the ids that the vector of each key of a file goes to."""
    tokens: defaultdict[bytes, list[int]] = defaultdict(list, {b"</s>": [EOS], b"<unk>": [UNK]})
    for index, token in enumerate(tokenizer.token_bytes):
        if index not in (EOS, UNK):
            tokens[token.removeprefix(b" ") or token].append(index)
    return dict(tokens)


def _entries(path: Path, size: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield number, key and whole of each line that holds a vector; it has at least `size` fields after its key."""
    number, header = 0, None
    for number, line in _lines(path):
        if number == 1 and (header := _HEADER.fullmatch(line)):
            _check_size(int(header[2]), size, f"{path}:1")
            continue
        spaces = line.count(b" ")
        if spaces != size and number == (2 if header else 1):
            _check_size(_width(line), size, f"{path}:{number}")
        if spaces < size:
            raise CorpusError(
                f"{path}:{number}: has {spaces} numbers, not {size}: the file is damaged or cut short; "
                "download it again"
            )
        yield (
            number,
            line.partition(b" ")[0] if spaces == size else line.rsplit(b" ", size)[0],
            line,
        )
    if number == 0:
        raise CorpusError(
            f"{path}: is empty; model.vectors must name a text file of GloVe or word2vec vectors"
        )
    if header and number - 1 < int(header[1]):
        raise CorpusError(
            f"{path}:{number}: the file is cut short: it ends after {number - 1} of the "
            f"{int(header[1])} vectors that its first line promises; download it again"
        )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers, from 1: UTF-8, checked, without what ends them."""
    number, has_header = 0, False
    try:
        with path.open("rb") as file:
            stream: BufferedIOBase = (
                gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _GZIP else file
            )
            # Without a limit, a file that has no line ends would stand in memory whole.
            while line := stream.readline(BLOCK_BYTES):
                number += 1
                if problem := _why_no_text(line):
                    raise CorpusError(
                        f"{path}:{number}: {problem}; {_remedy(line, number, has_header)}"
                    )
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
        raise CorpusError(
            f"{path}: cannot be read: {error.strerror or error}; model.vectors must name a text file of "
            "GloVe or word2vec vectors"
        ) from None


def _why_no_text(line: bytes) -> str:
    """Return what shows that a line is no line of text; nothing, if it is one."""
    if b"\0" in line:
        return "is not UTF-8 text: it holds a NUL character"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"is not UTF-8 text: byte {error.start + 1} of the line is 0x{line[error.start]:02x}"
    return (
        f"has no line end in {BLOCK_BYTES} bytes"
        if len(line) == BLOCK_BYTES and line[-1:] != b"\n"
        else ""
    )


def _remedy(line: bytes, number: int, has_header: bool) -> str:
    if has_header and number == 2:
        return (
            "this seems to be word2vec's binary format: save it as text, with gensim: "
            "KeyedVectors.load_word2vec_format(OLD, binary=True).save_word2vec_format(NEW)"
        )
    if number == 1:
        packed = (
            "unpack the zip file first" if line.startswith(_ZIP) else "no binary format is read"
        )
        return f"model.vectors must name a text file of GloVe or word2vec vectors: {packed}"
    return "convert the file to UTF-8, or remove the line"


def _check_size(width: int, size: int, place: str) -> None:
    if width == 0:
        raise CorpusError(
            f"{place}: is no token with numbers after it, separated by spaces; model.vectors must name "
            "a text file of GloVe or word2vec vectors"
        )
    if width != size:
        raise CorpusError(
            f"{place}: has {width} numbers a line, model.embedding_size is {size}; "
            f"set model.embedding_size={width}"
        )


def _width(line: bytes) -> int:
    """Return how many of the last fields are numbers; the first field is a token, even if it is one."""
    fields = line.split(b" ")[1:]
    return sum(1 for _ in takewhile(math.isfinite, map(_as_number, reversed(fields))))


def _numbers(fields: Sequence[bytes], place: str, key: bytes) -> list[float]:
    """Return the vector that the fields spell."""
    numbers = [_as_number(field) for field in fields]
    for field, number in zip(fields, numbers, strict=True):
        if not abs(number) <= _LARGEST:  # Nor is NaN.
            raise CorpusError(
                f"{place}: the vector of {key.decode()!r} holds {field.decode()!r}, which is no finite "
                "number; mend or remove the line"
            )
    return numbers


def _as_number(field: bytes) -> float:
    try:
        return float(field)
    except ValueError:
        return math.nan


def _mismatch(tokenizer: Tokenizer) -> str:
    section = tokenizer.section
    if section.level != "word":
        return f"which is of level {section.level}; vectors of words need tokenizer.level=word"
    if not section.lowercase:
        return "which is of words with capital letters; if the file has none, set tokenizer.lowercase=true"
    return "which is of words in small letters; give vectors of the language that the text is in"
