"""Pieces of text ↔ ids and literals: the exact text of every <UNK>.

The tokens are those of the text as it is, without the tokenizer's normalization. Whatever has no
token, such as a character that the training text does not have, or bytes that are not UTF-8,
becomes <UNK> and a literal.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from tokenizers import Tokenizer as HuggingFaceTokenizer

from charlm.data.tokenizer import EOS, UNK, Tokenizer
from charlm.data.utf8 import split_lines

_NOT_UTF8 = re.compile("([\udc80-\udcff]+)")  # `surrogateescape` decodes such bytes to these codes.


class CodedPiece(NamedTuple):
    """The ids of a piece, and the bytes of each <UNK> among them."""

    ids: list[int]
    literals: list[bytes]


Split = Callable[[bytes], CodedPiece]


def splitter(tokenizer: Tokenizer, *, has_variant_ends: bool = False) -> Split:
    r"""Return a function from a piece of text to its ids and literals.

    Args:
        tokenizer: Tokenizer of the model.
        has_variant_ends: If spaces separate tokens: whether each line has a space before its first
            word and after its last one.

    >>> from charlm.config.schema import Tokenizer as Section
    >>> from charlm.data.vocabulary import learn_tokenizer
    >>> splitter(learn_tokenizer(["to be"], Section(level="char")))("béb".encode())
    CodedPiece(ids=[3, 1, 3], literals=[b'\xc3\xa9'])
    """
    kind = "spaces" if tokenizer.separates_by_space else tokenizer.section.level
    return _SPLITTERS[kind](tokenizer, has_variant_ends)


def _by_unit(
    tokenizer: Tokenizer, units: Callable[[str], list[str]], *, encoding: str = "utf-8"
) -> Split:
    """Return a function that splits a piece into units and looks up each of them."""
    texts = enumerate(tokenizer.token_bytes)
    ids = {text.decode(encoding): token for token, text in texts if token not in (EOS, UNK)}

    def split(piece: bytes) -> CodedPiece:
        parts = units(piece.decode(encoding, "surrogateescape"))
        literals = [part.encode(encoding, "surrogateescape") for part in parts if part not in ids]
        return CodedPiece([ids.get(part, UNK) for part in parts], literals)

    return split


def _characters(tokenizer: Tokenizer, has_variant_ends: bool) -> Split:
    return _by_unit(tokenizer, list)


def _bytes(tokenizer: Tokenizer, has_variant_ends: bool) -> Split:
    return _by_unit(tokenizer, list, encoding="latin-1")


def _words(tokenizer: Tokenizer, has_variant_ends: bool) -> Split:
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


def _words_between_spaces(tokenizer: Tokenizer, has_variant_ends: bool) -> Split:
    def words(line: str) -> list[str]:
        if has_variant_ends:
            return line[1:-1].split(" ") if len(line) > 1 else []
        return line.split(" ") if line else []

    return _by_unit(tokenizer, words)


def _subwords(tokenizer: Tokenizer, has_variant_ends: bool) -> Split:
    library = HuggingFaceTokenizer.from_str(tokenizer.library.to_str())
    library.normalizer = None

    def split(piece: bytes) -> CodedPiece:
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
        return CodedPiece(ids, literals)

    return split


_SPLITTERS: dict[str, Callable[[Tokenizer, bool], Split]] = {
    "char": _characters,
    "byte": _bytes,
    "word": _words,
    "spaces": _words_between_spaces,
    "bpe": _subwords,
}
