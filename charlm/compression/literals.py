r"""Any bytes ↔ tokens and literals, without loss.

A text is coded as it is, without the tokenizer's normalization: "The" has no token if all words of
the vocabulary are in lower case. Whatever has no token, such as a character that the training text
does not have, or bytes that are not UTF-8, becomes <UNK> and a literal. The end of a record, of a
document, or of a line of words becomes <EOS>, as in training.

    >>> from charlm.config.schema import Tokenizer as Section
    >>> from charlm.data.tokenizer import learn_tokenizer
    >>> alphabet = Alphabet(learn_tokenizer(["to be"], Section(level="char")), "stream")
    >>> to_tokens("béb".encode(), alphabet)
    CodedText(ids=array([3, 1, 3]), literals=[b'\xc3\xa9'], has_variant_ends=False)
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer as HuggingFaceTokenizer

from charlm.config.schema import Mode, Record
from charlm.data.tokenizer import EOS, UNK, Ids, Tokenizer
from charlm.data.tokens import split_sentences
from charlm.data.utf8 import split_lines

_NOT_UTF8 = re.compile("([\udc80-\udcff]+)")  # Such bytes, as `surrogateescape` decodes them.


@dataclass(frozen=True)
class Alphabet:
    """The tokens of a model, and the rules by which bytes become tokens.

    Attributes:
        tokenizer: Tokenizer of the model.
        mode: `records`: a line or a document is a record; `stream`: one long text.
        separator: Separator of documents; may be empty.
        record: What a record is.
    """

    tokenizer: Tokenizer
    mode: Mode
    separator: str = ""
    record: Record = "line"

    @property
    def has_lines(self) -> bool:
        """Whether each line is a record."""
        return self.mode == "records" and self.record == "line"


@dataclass(frozen=True)
class CodedText:
    """A file as tokens and literals.

    Attributes:
        ids: Ids in the order of the text, (tokens,).
        literals: Bytes of each <UNK> among them.
        has_variant_ends: Whether all lines end in the less usual way: records with CR LF; lines of
            words with one more space, while each word has a space before it.
    """

    ids: Ids
    literals: list[bytes]
    has_variant_ends: bool


class _Piece(NamedTuple):
    """A piece of a file, and whether <EOS> follows it."""

    data: bytes
    ends: bool


class _CodedPiece(NamedTuple):
    """The ids of a piece, and the bytes of each <UNK> among them."""

    ids: list[int]
    literals: list[bytes]


_Split = Callable[[bytes], _CodedPiece]


def to_tokens(data: bytes, alphabet: Alphabet) -> CodedText | None:
    """Return a file as tokens and literals; None if they would not give back the same bytes."""
    has_variant_ends = _has_variant_ends(data, alphabet)
    tokenizer = alphabet.tokenizer
    kind = "spaces" if tokenizer.separates_by_space else tokenizer.section.level
    split = _SPLITS[kind](tokenizer, has_variant_ends)
    ids: list[Ids] = [np.zeros(0, dtype=np.int64)]
    literals: list[bytes] = []
    for piece in _pieces(data, alphabet, has_variant_ends):
        coded_piece = split(piece.data)
        ids.append(np.array([*coded_piece.ids, *([EOS] * piece.ends)], dtype=np.int64))
        literals += coded_piece.literals
    coded = CodedText(np.concatenate(ids), literals, has_variant_ends)
    return coded if to_bytes(coded, alphabet, len(data)) == data else None


def to_bytes(coded: CodedText, alphabet: Alphabet, length: int) -> bytes | None:
    """Return the file of `length` bytes with these tokens; None if there are too few literals."""
    texts = list(alphabet.tokenizer.token_bytes)
    texts[EOS] = _end(alphabet, coded.has_variant_ends)
    literals = iter(coded.literals)
    spaced = alphabet.tokenizer.separates_by_space
    starts_line = True
    parts = []
    for token in coded.ids.tolist():
        text = next(literals, None) if token == UNK else texts[token]
        if text is None:
            return None
        # In the variant the first word of a line has a space before it, too.
        has_space = spaced and token != EOS and (coded.has_variant_ends or not starts_line)
        parts.append(b" " + text if has_space else text)
        starts_line = token == EOS
    # The last <EOS> of records is an end even if the file does not have one.
    return b"".join(parts)[:length]


def _has_variant_ends(data: bytes, alphabet: Alphabet) -> bool:
    if alphabet.tokenizer.separates_by_space:
        *lines, last = data.split(b"\n")
        return bool(lines) and not last and all(line[:1] == line[-1:] == b" " for line in lines)
    return alphabet.has_lines and data.count(b"\n") == data.count(b"\r\n") > 0


def _end(alphabet: Alphabet, has_variant_ends: bool) -> bytes:
    """Return the bytes of <EOS>; none where the text keeps its line ends."""
    if alphabet.tokenizer.separates_by_space:
        return b" \n" if has_variant_ends else b"\n"
    if alphabet.has_lines:
        return b"\r\n" if has_variant_ends else b"\n"
    has_documents = alphabet.mode == "records" or alphabet.tokenizer.section.eos == "document"
    return alphabet.separator.encode() if has_documents else b""


def _pieces(data: bytes, alphabet: Alphabet, has_variant_ends: bool) -> Iterator[_Piece]:
    """Yield the pieces of a file."""
    eos = alphabet.tokenizer.section.eos
    end = b"\n" if alphabet.tokenizer.separates_by_space else _end(alphabet, has_variant_ends)
    if end:
        *pieces, last = data.split(end)
        yield from (_Piece(piece, ends=True) for piece in pieces)
        if last:
            yield _Piece(last, ends=alphabet.mode == "records")
    elif alphabet.mode == "records":
        yield _Piece(data, ends=True)
    elif eos == "line":
        yield from (_Piece(line, ends=line.endswith(b"\n")) for line in split_lines(data))
    elif eos == "sentence":
        yield from (_Piece(*sentence) for sentence in split_sentences(data, False))
    else:
        yield _Piece(data, ends=False)


def _by_unit(
    tokenizer: Tokenizer, units: Callable[[str], list[str]], *, encoding: str = "utf-8"
) -> _Split:
    """Return a function that splits a piece into units and looks up each of them."""
    texts = enumerate(tokenizer.token_bytes)
    ids = {text.decode(encoding): token for token, text in texts if token not in (EOS, UNK)}

    def split(piece: bytes) -> _CodedPiece:
        parts = units(piece.decode(encoding, "surrogateescape"))
        literals = [part.encode(encoding, "surrogateescape") for part in parts if part not in ids]
        return _CodedPiece([ids.get(part, UNK) for part in parts], literals)

    return split


def _characters(tokenizer: Tokenizer, has_variant_ends: bool) -> _Split:
    return _by_unit(tokenizer, list)


def _bytes(tokenizer: Tokenizer, has_variant_ends: bool) -> _Split:
    return _by_unit(tokenizer, list, encoding="latin-1")


def _words(tokenizer: Tokenizer, has_variant_ends: bool) -> _Split:
    pre_tokenizer = tokenizer.library.pre_tokenizer

    def words(text: str) -> list[str]:
        units: list[str] = []
        for number, part in enumerate(_NOT_UTF8.split(text)):
            if number % 2:  # Bytes that are not UTF-8.
                units.append(part)
            else:
                units += [word for word, _ in pre_tokenizer.pre_tokenize_str(part)]
        return units

    return _by_unit(tokenizer, words)


def _words_between_spaces(tokenizer: Tokenizer, has_variant_ends: bool) -> _Split:
    def words(line: str) -> list[str]:
        if has_variant_ends:
            return line[1:-1].split(" ") if len(line) > 1 else []
        return line.split(" ") if line else []

    return _by_unit(tokenizer, words)


def _subwords(tokenizer: Tokenizer, has_variant_ends: bool) -> _Split:
    library = HuggingFaceTokenizer.from_str(tokenizer.library.to_str())
    library.normalizer = None

    def split(piece: bytes) -> _CodedPiece:
        ids: list[int] = []
        literals: list[bytes] = []
        for number, part in enumerate(_NOT_UTF8.split(piece.decode(errors="surrogateescape"))):
            if number % 2:  # Bytes that are not UTF-8.
                ids.append(UNK)
                literals.append(part.encode(errors="surrogateescape"))
                continue
            lines = split_lines(part)  # No token crosses the end of a line.
            for encoding in library.encode_batch_fast(lines, add_special_tokens=False):
                ids += encoding.ids
        return _CodedPiece(ids, literals)

    return split


_SPLITS: dict[str, Callable[[Tokenizer, bool], _Split]] = {
    "char": _characters,
    "byte": _bytes,
    "word": _words,
    "spaces": _words_between_spaces,
    "bpe": _subwords,
}
