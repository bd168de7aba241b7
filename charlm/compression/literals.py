r"""Any bytes ↔ tokens and literals, exactly: what a tokenizer would not give back stands beside as it is.

Text is coded as it stands, without the tokenizer's normalization: "The" has no token where all words are lower case.
What has no token, be it a character never seen or bytes that are not UTF-8, is <UNK> and a literal. What ends a record,
a document or a line of words is <EOS>, as in training.

    >>> from charlm.config.schema import Tokenizer as Section
    >>> from charlm.data.tokenizer import learn_tokenizer
    >>> alphabet = Alphabet(learn_tokenizer(["to be"], Section(level="char")), "stream")
    >>> to_tokens("béb".encode(), alphabet)
    Coded(ids=array([3, 1, 3]), literals=[b'\xc3\xa9'], variant=False)
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer as HuggingFaceTokenizer

from charlm.config.schema import Mode
from charlm.data.tokenizer import EOS, UNK, Ids, Tokenizer
from charlm.data.tokens import split_sentences
from charlm.data.utf8 import split_lines

_NOT_UTF8 = re.compile(
    "([\udc80-\udcff]+)"
)  # What `surrogateescape` makes of bytes that are not UTF-8.

Split = Callable[
    [bytes], tuple[list[int], list[bytes]]
]  # A piece → ids, and the literals of those that are <UNK>.


@dataclass(frozen=True)
class Alphabet:
    """What decides how bytes become tokens.

    Attributes:
        tokenizer: Of the model.
        mode: `records`: a line is a record; `stream`: one long text.
        separator: What stands between documents in stream mode; may be empty.
    """

    tokenizer: Tokenizer
    mode: Mode
    separator: str = ""


@dataclass(frozen=True)
class Coded:
    """A file as tokens and literals.

    Attributes:
        ids: In the order of the text, (tokens,).
        literals: What each <UNK> among them stands for.
        variant: Whether all lines end in the less usual way: records by CR LF; words, each after its space, by another.
    """

    ids: Ids
    literals: list[bytes]
    variant: bool


def to_tokens(data: bytes, alphabet: Alphabet) -> Coded | None:
    """Return a file as tokens and literals; None where these would not give back the identical bytes."""
    variant = _has_variant_ends(data, alphabet)
    split = _SPLITS[
        "spaces" if alphabet.tokenizer.separates_by_space else alphabet.tokenizer.section.level
    ](alphabet.tokenizer, variant)
    ids: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = [np.zeros(0, dtype=np.int64)]
    literals: list[bytes] = []
    for piece, end in _pieces(data, alphabet, variant):
        found, unknown = split(piece)
        ids.append(np.array([*found, EOS] if end else found, dtype=np.int64))
        literals += unknown
    coded = Coded(np.concatenate(ids), literals, variant)
    return coded if to_bytes(coded, alphabet, len(data)) == data else None


def to_bytes(coded: Coded, alphabet: Alphabet, length: int) -> bytes | None:
    """Return the file of `length` bytes that tokens and literals stand for; None if the literals are too few."""
    texts, literals = list(alphabet.tokenizer.token_bytes), iter(coded.literals)
    texts[EOS] = _end(alphabet, coded.variant)
    spaced, line_starts, found = alphabet.tokenizer.separates_by_space, True, []
    for index in coded.ids.tolist():
        text = next(literals, None) if index == UNK else texts[index]
        if text is None:
            return None
        # Words of the variant have a space before each, the first too.
        is_after_space = spaced and index != EOS and (coded.variant or not line_starts)
        found.append(b" " + text if is_after_space else text)
        line_starts = index == EOS
    return b"".join(found)[
        :length
    ]  # A record's last <EOS> is a line end even where the file has none.


def _has_variant_ends(data: bytes, alphabet: Alphabet) -> bool:
    if alphabet.tokenizer.separates_by_space:
        *lines, last = data.split(b"\n")
        return bool(lines) and not last and all(line[:1] == line[-1:] == b" " for line in lines)
    return alphabet.mode == "records" and data.count(b"\n") == data.count(b"\r\n") > 0


def _end(alphabet: Alphabet, variant: bool) -> bytes:
    """Return what <EOS> stands for; empty where the text keeps its line ends itself."""
    if alphabet.tokenizer.separates_by_space:
        return b" \n" if variant else b"\n"
    if alphabet.mode == "records":
        return b"\r\n" if variant else b"\n"
    return alphabet.separator.encode() if alphabet.tokenizer.section.eos == "document" else b""


def _pieces(data: bytes, alphabet: Alphabet, variant: bool) -> Iterator[tuple[bytes, bool]]:
    """Yield the file in pieces, each with whether <EOS> follows it."""
    eos = alphabet.tokenizer.section.eos
    end = b"\n" if alphabet.tokenizer.separates_by_space else _end(alphabet, variant)
    if end:
        *pieces, last = data.split(end)
        yield from ((piece, True) for piece in pieces)
        if last:
            yield last, alphabet.mode == "records"
    elif eos == "line":
        yield from ((line, line.endswith(b"\n")) for line in split_lines(data))
    elif eos == "sentence":
        yield from split_sentences(data, False)
    else:
        yield data, False


def _by_unit(
    tokenizer: Tokenizer, units: Callable[[str], list[str]], *, encoding: str = "utf-8"
) -> Split:
    """Return what splits a piece into characters or words and looks each of them up."""
    texts = enumerate(tokenizer.token_bytes)
    known = {text.decode(encoding): index for index, text in texts if index not in (EOS, UNK)}

    def split(piece: bytes) -> tuple[list[int], list[bytes]]:
        found = units(piece.decode(encoding, "surrogateescape"))
        ids = [known.get(unit, UNK) for unit in found]
        unknown = [
            unit.encode(encoding, "surrogateescape")
            for unit, index in zip(found, ids, strict=True)
            if index == UNK
        ]
        return ids, unknown

    return split


def _characters(tokenizer: Tokenizer, variant: bool) -> Split:
    return _by_unit(tokenizer, list)


def _bytes(tokenizer: Tokenizer, variant: bool) -> Split:
    return _by_unit(tokenizer, list, encoding="latin-1")


def _words(tokenizer: Tokenizer, variant: bool) -> Split:
    splitter = tokenizer.library.pre_tokenizer

    def words(text: str) -> list[str]:
        found: list[str] = []
        for number, part in enumerate(_NOT_UTF8.split(text)):
            found += [part] if number % 2 else [word for word, _ in splitter.pre_tokenize_str(part)]
        return found

    return _by_unit(tokenizer, words)


def _words_between_spaces(tokenizer: Tokenizer, variant: bool) -> Split:
    def words(line: str) -> list[str]:
        if variant:
            return line[1:-1].split(" ") if len(line) > 1 else []
        return line.split(" ") if line else []

    return _by_unit(tokenizer, words)


def _subwords(tokenizer: Tokenizer, variant: bool) -> Split:
    library = HuggingFaceTokenizer.from_str(tokenizer.library.to_str())
    library.normalizer = None

    def split(piece: bytes) -> tuple[list[int], list[bytes]]:
        ids: list[int] = []
        literals: list[bytes] = []
        for number, part in enumerate(_NOT_UTF8.split(piece.decode(errors="surrogateescape"))):
            if number % 2:
                ids.append(UNK)
                literals.append(part.encode(errors="surrogateescape"))
                continue
            lines = re.findall(r"[^\n]*\n|[^\n]+", part)  # No token reaches over a line's end.
            for encoding in library.encode_batch_fast(lines, add_special_tokens=False):
                ids += encoding.ids
        return ids, literals

    return split


_SPLITS: dict[str, Callable[[Tokenizer, bool], Split]] = {
    "char": _characters,
    "byte": _bytes,
    "word": _words,
    "spaces": _words_between_spaces,
    "bpe": _subwords,
}
