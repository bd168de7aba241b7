"""Text → token ids on disk: encoded once per text and tokenizer, kept with a checksum, read through a memory map."""

import hashlib
import json
import mmap
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from charlm.config import Mode
from charlm.data.corpora import Text
from charlm.data.tokenizer import UNK, Ids, Tokenizer, id_type
from charlm.files import BLOCK_BYTES, let_go, writing
from charlm.untrusted import parse_json

FORMAT = 1
_PIECES_AT_ONCE = 1 << 16
# A sentence ends after its mark, the quotes and brackets that close it, and one space; or after a full-width mark.
_SENTENCE = re.compile(rb"""[.!?]["')\]]*\s|(?:\xe3\x80\x82|\xef\xbc\x81|\xef\xbc\x9f)""")


@dataclass(frozen=True)
class Counts:
    """What was counted while a text was encoded.

    Attributes:
        tokens: Ids, <EOS> included.
        unknown: How many of them are <UNK>.
        characters: Characters of the original text, line ends included.
        bytes: Its UTF-8 bytes.
    """

    tokens: int
    unknown: int
    characters: int
    bytes: int

    @property
    def unknown_share(self) -> float:
        """Share of tokens that are <UNK>."""
        return self.unknown / max(self.tokens, 1)


@dataclass(frozen=True)
class Tokens:
    """A text as ids, (tokens,), in a memory map that is only read."""

    ids: Ids
    counts: Counts


def encode_text(text: Text, tokenizer: Tokenizer, *, mode: Mode, cache: Path) -> Tokens:
    """Return a text's ids, from the cache if they are there and whole.

    Args:
        text: What to encode.
        tokenizer: Says, besides the ids, where <EOS> goes in `stream` mode; in `records` mode it ends each record.
        mode: How the text is read.
        cache: Folder in which ids are kept.

    Raises:
        CorpusError: The cache cannot be written.
    """
    recipe = [FORMAT, text.fingerprint, text.raw, tokenizer.to_json(), tokenizer.section.model_dump(), mode]
    path = cache / f"{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:24]}.ids"
    kind = id_type(tokenizer.vocabulary_size)
    counts = _kept(path)
    if counts is None:
        counts = _encode(text, tokenizer, mode, path, kind)
    if counts.tokens == 0:
        return Tokens(np.zeros(0, dtype=kind), counts)
    return Tokens(np.memmap(path, dtype=kind, mode="r"), counts)


def _kept(path: Path) -> Counts | None:
    """Return the counts of ids that are in the cache and have the checksum they were written with."""
    try:
        facts: dict[str, Any] = parse_json(path.with_suffix(".json").read_bytes())
        expected = facts.pop("sha256")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        digest.update(json.dumps(facts).encode())
        if digest.hexdigest() == expected:
            return Counts(**facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # Whatever is wrong with it, it is only a copy: encode again.
    return None


def _encode(text: Text, tokenizer: Tokenizer, mode: Mode, path: Path, kind: np.dtype[Any]) -> Counts:
    digest = hashlib.sha256()
    tokens = unknown = 0
    separators = (len(text.spans) - text.is_cut) * text.separator
    characters, bytes_ = len(separators), len(separators.encode())
    with writing(path) as file:
        for pieces, ends in _batches(text, tokenizer, mode):
            ids = tokenizer.encode_pieces(pieces, ends).astype(kind)
            tokens, unknown = tokens + len(ids), unknown + int(np.count_nonzero(ids == UNK))
            digest.update(ids.tobytes())
            file.write(ids.tobytes())
    for block, _ in text.blocks():
        bytes_ += len(block)
        characters += int(np.count_nonzero((np.frombuffer(block, dtype=np.uint8) & 0xC0) != 0x80))
    counts = Counts(tokens, unknown, characters, bytes_)
    digest.update(json.dumps(asdict(counts)).encode())
    with writing(path.with_suffix(".json")) as file:
        file.write(json.dumps(asdict(counts) | {"sha256": digest.hexdigest()}).encode())
    return counts


def _batches(text: Text, tokenizer: Tokenizer, mode: Mode) -> Iterator[tuple[list[bytes], list[bool]]]:
    """Gather pieces until they are worth a call."""
    pieces: list[bytes] = []
    ends: list[bool] = []
    size = 0
    for piece, end in _pieces(text, tokenizer, mode):
        pieces.append(piece)
        ends.append(end)
        size += len(piece)
        if size >= BLOCK_BYTES or len(pieces) >= _PIECES_AT_ONCE:
            yield pieces, ends
            pieces, ends, size = [], [], 0
    if pieces:
        yield pieces, ends


def _pieces(text: Text, tokenizer: Tokenizer, mode: Mode) -> Iterator[tuple[bytes, bool]]:
    """Yield the text in pieces, each with whether <EOS> follows it."""
    eos = "document" if mode == "records" else tokenizer.section.eos
    for block, ends_document in text.blocks():
        if tokenizer.separates_by_space:
            yield from ((line.removesuffix(b"\n"), ends) for line, ends in _lines(block, ends_document))
        elif eos == "line":
            yield from _lines(block, ends_document)
        elif eos == "sentence":
            yield from sentences(block, ends_document)
        else:
            yield block, ends_document and eos == "document"


def _lines(block: bytes, ends_document: bool) -> Iterator[tuple[bytes, bool]]:
    """Return the lines of a block with their ends, and whether each is over; only a line feed ends a line."""
    # Only the last can lack its end: it goes on in the next block, unless the document ends with it.
    return ((line, line.endswith(b"\n") or ends_document) for line in re.findall(rb"[^\n]*\n|[^\n]+", block))


def sentences(block: bytes, ends_document: bool) -> Iterator[tuple[bytes, bool]]:
    """Yield a block's sentences, and after each whether it ends; the last one does where the document does."""
    start = 0
    for match in _SENTENCE.finditer(block):
        yield block[start : match.end()], True
        start = match.end()
    if start < len(block):
        yield block[start:], ends_document


def count_ids(ids: npt.NDArray[Any], vocabulary_size: int) -> npt.NDArray[np.int64]:
    """Return how often each id occurs, (vocabulary,)."""
    counts: npt.NDArray[np.int64] = np.zeros(vocabulary_size, dtype=np.int64)
    for at in range(0, len(ids), BLOCK_BYTES):
        counts += np.bincount(ids[at : at + BLOCK_BYTES], minlength=vocabulary_size)
        if isinstance(ids.base, mmap.mmap):
            let_go(ids.base, at * ids.itemsize, min(at + BLOCK_BYTES, len(ids)) * ids.itemsize)
    return counts
