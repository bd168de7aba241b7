r"""Any bytes ↔ tokens and literals, without loss.

A text is coded as it is, without the tokenizer's normalization: "The" has no token if all words of
the vocabulary are in lower case. Whatever has no token becomes <UNK> and a literal, as in
charlm/data/literals.py. The end of a record, of a document, or of a line of words becomes <EOS>, as
in training.

    >>> from charlm.config.schema import Tokenizer as Section
    >>> from charlm.data.vocabulary import learn_tokenizer
    >>> alphabet = Alphabet(learn_tokenizer(["to be"], Section(level="char")), "stream")
    >>> to_tokens("béb".encode(), alphabet)
    CodedText(ids=array([3, 1, 3]), literals=[b'\xc3\xa9'], has_variant_ends=False)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from charlm.config.corpus import Mode, Record
from charlm.data.literals import splitter
from charlm.data.tokenizer import EOS, UNK, Ids, Tokenizer
from charlm.data.tokens import split_sentences
from charlm.data.utf8 import split_lines


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


def to_tokens(data: bytes, alphabet: Alphabet) -> CodedText | None:
    """Return a file as tokens and literals; None if they would not give back the same bytes."""
    has_variant_ends = _has_variant_ends(data, alphabet)
    split = splitter(alphabet.tokenizer, has_variant_ends=has_variant_ends)
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
