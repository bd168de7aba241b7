"""A corpus: a text by its documents, split into parts.

A text is a list of plain files and the byte offsets of its documents in them. It is read block by
block through memory maps and never held in memory as a whole. A record is a document, which may be
a line.
"""

import hashlib
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import numpy as np
import numpy.typing as npt

from charlm.config.corpus import Mode, ResolvedCorpus
from charlm.config.schema import ResolvedConfig
from charlm.data.cards import Part, temporary_conversions
from charlm.data.documents import find_documents, without_empty
from charlm.data.encodings import EncodingError, canonical_encoding, contains_ascii
from charlm.data.listing import shown_names, title_of
from charlm.data.resolve import card_of, texts_like
from charlm.data.sources import PlainFile, check_effects, open_plain_files
from charlm.data.utf8 import LineEnds
from charlm.errors import CorpusError, counted
from charlm.storage.memory_maps import BLOCK_BYTES, PageRelease, map_file

Spans = npt.NDArray[np.int64]
# With ten million documents, two different ones have the same digest with a probability of 10^-5.
# They are then treated as copies.
DIGEST_BYTES = 8


@dataclass(frozen=True)
class Text:
    """The documents of plain files, in order.

    Attributes:
        files: Files that contain the documents.
        spans: Number of the file, offset of the first byte, and offset after the last byte of each
            document, (documents, 3).
        raw: Whether the text is any bytes; else it is checked UTF-8.
        separator: Text after each document in the original, such as the line end of a record.
        is_cut: Whether the last document continues in the next part, so that it does not end here.
        encoding: Encoding in which the files were read.
        line_ends: Rule for line ends.
    """

    files: tuple[PlainFile, ...]
    spans: Spans
    raw: bool
    separator: str = ""
    is_cut: bool = False
    encoding: str = "utf-8"
    line_ends: LineEnds = "unicode"

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of the documents and of their positions."""
        digest = hashlib.sha256(np.ascontiguousarray(self.spans).tobytes() + bytes([self.is_cut]))
        for file in self.files:
            digest.update(file.sha256.encode())
        return digest.hexdigest()

    @cached_property
    def size(self) -> int:
        """Number of bytes of the documents."""
        return _num_bytes(self.spans)

    def digests(self) -> npt.NDArray[np.uint64]:
        """Return a checksum of each document, (documents,): equal documents have the same one."""
        digests = bytearray()
        for file_spans in _spans_by_file(self.spans):
            with map_file(self.files[file_spans[0, 0]].path) as file:
                pages = PageRelease(file)
                for _, start, stop in file_spans.tolist():
                    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
                    for block_start in range(start, stop, BLOCK_BYTES):
                        digest.update(file[block_start : min(block_start + BLOCK_BYTES, stop)])
                        pages.up_to(block_start)
                    digests += digest.digest()
        return np.frombuffer(digests, dtype=np.uint64)

    def blocks(self, size: int = BLOCK_BYTES) -> Iterator[tuple[bytes, bool]]:
        """Yield blocks of about `size` bytes, each with whether its document ends with it.

        A block ends after a line end if one is near, else between two characters. As no token
        crosses a line end, the tokenizer does not see where blocks were cut.
        """
        number = 0
        for file_spans in _spans_by_file(self.spans):
            with map_file(self.files[file_spans[0, 0]].path) as file:
                pages = PageRelease(file)
                for _, start, stop in file_spans.tolist():
                    number += 1
                    is_complete = not (self.is_cut and number == len(self.spans))
                    for block_start, block_stop in _block_bounds(file, start, stop, size, self.raw):
                        yield file[block_start:block_stop], is_complete and block_stop == stop
                        pages.up_to(block_stop)

    def documents(self) -> Iterator[bytes]:
        """Yield each document whole."""
        pieces: list[bytes] = []
        for block, ends in self.blocks():
            pieces.append(block)
            if ends:
                yield b"".join(pieces)
                pieces = []

    def slices(self, size: int) -> list["Text"]:
        """Return the text in consecutive slices of about `size` bytes.

        Small files are collected until they have `size` bytes; a larger file is cut into slices of
        its own, where `blocks` may cut it. So adding or removing a file changes only the slices
        near it.
        """
        slices: list[Text] = []
        collected: list[Spans] = []
        collected_bytes = 0
        for file_spans in _spans_by_file(self.spans):
            num_bytes = _num_bytes(file_spans)
            if collected and collected_bytes + num_bytes > size:
                slices.append(self._with_spans(collected))
                collected, collected_bytes = [], 0
            if num_bytes <= size:
                collected.append(file_spans)
                collected_bytes += num_bytes
            else:
                slices += self._cut_file(file_spans, size)
        if collected:
            slices.append(self._with_spans(collected))
        if slices and self.is_cut:
            slices[-1] = replace(slices[-1], is_cut=True)
        return slices

    def _with_spans(self, spans_by_file: list[Spans], *, is_cut: bool = False) -> "Text":
        """Return a text of these documents and of only the files that contain them."""
        numbers = [int(file_spans[0, 0]) for file_spans in spans_by_file]
        spans = np.concatenate(spans_by_file)
        spans[:, 0] = np.searchsorted(numbers, spans[:, 0])
        files = tuple(self.files[number] for number in numbers)
        return replace(self, files=files, spans=spans, is_cut=is_cut)

    def _cut_file(self, spans: Spans, size: int) -> Iterator["Text"]:
        """Yield the documents of one file in slices; a large document is cut."""
        with map_file(self.files[spans[0, 0]].path) as file:
            while _num_bytes(spans) > size:
                ends = np.cumsum(_lengths(spans))
                last = int(np.searchsorted(ends, size))  # The document in which the slice ends.
                stop = int(spans[last, 2])
                cut = _find_cut(file, stop - int(ends[last]) + size, stop, self.raw)
                head = spans[: last + 1].copy()
                head[-1, 2] = cut
                yield self._with_spans([head], is_cut=cut < stop)
                spans = spans[last:].copy()
                spans[0, 1] = cut
                spans = without_empty(spans)
        if len(spans):
            yield self._with_spans([spans])


@dataclass(frozen=True)
class Corpus:
    """The text of a run, by parts.

    Attributes:
        title: Title of the corpus card, or the names of the files.
        mode: `stream`, one long text; `records`, one sequence per line or document.
        parts: The text of each part that is not empty.
        distinct: Parts that have no document of the training part, because the split kept all
            copies of a document together.
        warnings: One line for each setting that does not fit the text.
    """

    title: str
    mode: Mode
    parts: dict[Part, Text]
    distinct: frozenset[Part] = frozenset()
    warnings: tuple[str, ...] = ()

    def shares_in_training(self) -> dict[Part, float]:
        """Return, for each held-out part, the fraction of its records that are in training too.

        In stream mode there are no records, and the result is empty.
        """
        held_out = [part for part in self.parts if part != "train"]
        if self.mode == "stream" or not held_out:
            return {}
        if self.distinct.issuperset(held_out):
            return dict.fromkeys(held_out, 0.0)
        known = self.parts["train"].digests()
        return {part: float(np.isin(self.parts[part].digests(), known).mean()) for part in held_out}


def open_corpus(config: ResolvedConfig) -> Corpus:
    """Return the text that a configuration names, split into its parts.

    At tokenizer level `byte` the files may contain any bytes, otherwise text in `corpus.encoding`.

    Raises:
        CorpusError: A text is missing, empty, not text, or not downloaded yet.
    """
    check_effects(config.corpus, config.tokenizer.level == "byte")
    return _open_corpus(config)


def _open_corpus(config: ResolvedConfig) -> Corpus:
    section = config.corpus
    card = card_of(section)
    train = _open_text(section.text, config)
    parts: dict[Part, Text] = {}
    if section.valid_text:
        parts["valid"] = _open_text(section.valid_text, config)
    if section.test_text:
        parts["test"] = _open_text(section.test_text, config)
    warnings = list(_warnings(train, parts, section))
    parts |= _split(train, section)
    warnings += _empty_parts(parts, section)
    in_order = (part for part in get_args(Part) if part in parts)
    parts = {part: parts[part] for part in in_order if len(parts[part].spans)}
    if "train" not in parts:
        raise CorpusError(
            f"{shown_names(section.text)}: too short: its split leaves nothing to train on; give a "
            "longer text, or lower corpus.valid_share and corpus.test_share"
        )
    drawn: frozenset[Part] = frozenset()
    if section.split == "shuffled" and section.copies == "together":
        own = {"valid": section.valid_text, "test": section.test_text}
        drawn = frozenset(part for part in parts if part != "train" and not own[part])
    title = card.title if card else title_of(section.text)
    return Corpus(
        title=title,
        mode=section.mode,
        parts=parts,
        distinct=drawn,
        warnings=tuple(warnings),
    )


def read_text(names: Sequence[str], config: ResolvedConfig) -> Text:
    """Return other texts, such as texts to score, read whole and as a run reads its own corpus.

    Raises:
        CorpusError: A text is missing, empty or not text.
    """
    with temporary_conversions():
        return _read_text(texts_like(config, tuple(names)))


def _read_text(like: ResolvedConfig) -> Text:
    own = canonical_encoding(like.corpus.encoding)
    # Text that is UTF-8 is read as UTF-8, also by a run whose own corpus has another encoding.
    encodings = ["utf-8", own] if contains_ascii(own) else [own, "utf-8"]
    problems = {}
    for encoding in dict.fromkeys(encodings):
        corpus = like.corpus.model_copy(update={"encoding": encoding})
        try:
            return _open_corpus(like.model_copy(update={"corpus": corpus})).parts["train"]
        except EncodingError as error:
            problems[encoding] = error
    raise problems[own].for_scoring()


def _open_text(names: Sequence[str], config: ResolvedConfig) -> Text:
    """Return the documents or records of the named texts, without a split."""
    section = config.corpus
    is_raw = config.tokenizer.level == "byte"
    has_records = section.mode == "records"
    has_lines = has_records and section.record == "line"
    separator = section.separator or ""
    line_ends: LineEnds = "line_feed" if section.rules == 1 else "unicode"
    files = open_plain_files(names, section, is_raw)
    spans = (find_documents(file, section, line_ends) for file in files)
    numbered = [np.insert(bounds, 0, number, axis=1) for number, bounds in enumerate(spans)]
    text = Text(
        files=tuple(files),
        spans=np.concatenate(numbered),
        raw=is_raw,
        separator="\n" if has_lines else separator,
        encoding=section.encoding,
        line_ends=line_ends,
    )
    if len(text.spans) == 0:
        contents = "empty lines" if has_records else "separators"
        raise CorpusError(
            f"{shown_names(names)}: contains nothing but {contents}; give another text"
        )
    return text


def _warnings(text: Text, own: dict[Part, Text], section: ResolvedCorpus) -> Iterator[str]:
    """Yield a warning for each setting that does not fit the text.

    Args:
        text: The text, which is not split yet.
        own: Parts that have a text of their own.
        section: The settings.
    """
    yield from _repeated_files(text, own)
    if section.mode == "records":
        reads_documents = section.record == "document"
        has_no_separator = len(text.spans) <= sum(len(file.ends) for file in text.files)
    else:
        reads_documents = True
        has_no_separator = text.size == sum(file.size for file in text.files)
    if section.separator and reads_documents and has_no_separator:
        remedy = "correct it, or set it to null"
        windows = section.separator.replace("\n", "\r\n")
        with map_file(text.files[0].path) as file:
            if windows != section.separator and file.find(windows.encode()) >= 0:
                remedy = f"the lines end with CR LF: use {windows!r}"
        yield (
            f"corpus.separator: {section.separator!r:.60} does not occur in the text, so nothing "
            f"is separated; {remedy}"
        )
    for part, names in (("valid", section.valid_text), ("test", section.test_text)):
        fraction: float = getattr(section, f"{part}_share")
        if names and fraction:
            yield (
                f"corpus.{part}_share: {fraction:g} has no effect beside a separate text, "
                f"{shown_names(names)} (corpus.{part}_text); remove one of the two"
            )


def _repeated_files(text: Text, own: dict[Part, Text]) -> Iterator[str]:
    """Yield a warning for each part with files that it, or the training part, has already."""
    paths = [file.path for file in text.files]
    if count := len(paths) - len(set(paths)):
        yield (
            f"corpus.text: names {counted(count, 'file')} more than once, so this text counts "
            "more, and can be in the training and a held-out part; name each file once"
        )
    for part, held_out in own.items():
        if count := len({file.path for file in held_out.files}.intersection(paths)):
            yield (
                f"corpus.{part}_text: has {counted(count, 'file')} that corpus.text has too, so "
                "the model is scored on its training text; give another text"
            )


def _empty_parts(parts: dict[Part, Text], section: ResolvedCorpus) -> Iterator[str]:
    """Yield a warning for each held-out part that its fraction leaves empty."""
    for part, text in parts.items():
        if part != "train" and len(text.spans) == 0:
            fraction: float = getattr(section, f"{part}_share")
            yield (
                f"corpus.{part}_share: {fraction:g} of this text leaves the {part} part empty, so "
                "nothing is scored on it; raise it, or give a longer text"
            )


def _split(text: Text, section: ResolvedCorpus) -> dict[Part, Text]:
    """Return the parts that are fractions of `text`: those without a text of their own."""
    fractions: dict[Part, float] = {
        "train": 1.0,
        "valid": 0.0 if section.valid_text else section.valid_share,
        "test": 0.0 if section.test_text else section.test_share,
    }
    fractions["train"] -= fractions["valid"] + fractions["test"]
    cuts_documents = section.mode == "stream" and section.split == "contiguous"
    # The number of each document's distinct text, from which its place in the order follows.
    texts = np.arange(len(text.spans))
    if section.split == "shuffled":
        if section.copies == "together" and fractions["train"] < 1:
            texts = _number_distinct(text)
        random = np.random.default_rng(section.split_seed)
        texts = np.argsort(random.permutation(int(texts.max()) + 1))[texts]
    parts: dict[Part, Text] = {}
    start = 0.0
    for part, fraction in fractions.items():
        stop = start + fraction
        if fraction and cuts_documents:
            parts[part] = _cut_bytes(text, start, stop)
        elif fraction:
            parts[part] = _select_documents(text, texts, start, stop)
        start = stop
    return parts


def _number_distinct(text: Text) -> npt.NDArray[np.int64]:
    """Return the number of the distinct text of each document, in the order of first occurrence."""
    _, first, number = np.unique(text.digests(), return_index=True, return_inverse=True)
    numbers: npt.NDArray[np.int64] = np.argsort(np.argsort(first))[number]
    return numbers


def _select_documents(text: Text, places: npt.NDArray[np.int64], start: float, stop: float) -> Text:
    """Return the documents between two fractions of an order, in reading order.

    Args:
        text: All documents.
        places: Place of each document in the order, (documents,). Documents with the same place
            stay together, so that the fractions are approximate.
        start: Fraction of the documents before the first one.
        stop: Fraction of the documents up to the last one.
    """
    order = np.argsort(places, kind="stable")
    low, high = (_nearest_change(places[order], round(at * len(order))) for at in (start, stop))
    return replace(text, spans=text.spans[np.sort(order[low:high])])


def _nearest_change(places: npt.NDArray[np.int64], at: int) -> int:
    """Return the index nearest to `at` at which sorted places change, or the end."""
    if at >= len(places):
        return len(places)
    left, right = (int(np.searchsorted(places, places[at], side)) for side in ("left", "right"))
    return left if at - left <= right - at else right


def _cut_bytes(text: Text, start: float, stop: float) -> Text:
    """Return what lies between two fractions of the bytes, cut between characters."""
    lengths = _lengths(text.spans)
    ends = np.cumsum(lengths)
    # Rounded first: the sum of fractions is not exact, and must not lose a byte.
    low, high = (int(round(fraction * int(ends[-1]), 6)) for fraction in (start, stop))
    spans = text.spans.copy()
    spans[:, 1] += np.clip(low - (ends - lengths), 0, lengths)
    spans[:, 2] += np.clip(high - ends, -lengths, 0)
    is_filled = spans[:, 1] < spans[:, 2]
    whole, spans = text.spans[is_filled], spans[is_filled]
    if len(spans) == 0:
        return replace(text, spans=spans, is_cut=False)
    for row, column in ((0, 1), (-1, 2)):
        with map_file(text.files[spans[row, 0]].path) as file:
            offset, limit = int(spans[row, column]), int(whole[row, 2])
            spans[row, column] = _next_character(file, offset, limit, text.raw)
    is_cut = bool(spans[-1, 2] < whole[-1, 2])
    # A cut inside the last character of a document leaves an empty rest.
    return replace(text, spans=without_empty(spans), is_cut=is_cut)


def _spans_by_file(spans: Spans) -> list[Spans]:
    """Return the spans of each file, in order."""
    return np.split(spans, np.flatnonzero(np.diff(spans[:, 0])) + 1) if len(spans) else []


def _lengths(spans: Spans) -> npt.NDArray[np.int64]:
    """Return the number of bytes of each document, (documents,)."""
    lengths: npt.NDArray[np.int64] = spans[:, 2] - spans[:, 1]
    return lengths


def _num_bytes(spans: Spans) -> int:
    return int(_lengths(spans).sum())


def _block_bounds(
    file: mmap.mmap, start: int, stop: int, size: int, raw: bool
) -> Iterator[tuple[int, int]]:
    """Yield start and stop of the blocks of a document."""
    while start < stop:
        cut = _find_cut(file, start + size, stop, raw) if stop - start > size else stop
        yield start, cut
        start = cut


def _find_cut(file: mmap.mmap, near: int, stop: int, raw: bool) -> int:
    """Return an offset from `near` on at which a document can be cut.

    It is after the next line end or at the end of the document, if one is near, else at the start
    of a character.
    """
    limit = min(stop, near + BLOCK_BYTES)
    line_feed = file.find(b"\n", near - 1, limit)
    if line_feed >= 0:
        return line_feed + 1
    return stop if limit == stop else _next_character(file, near, stop, raw)


def _next_character(file: mmap.mmap, offset: int, stop: int, raw: bool) -> int:
    """Return the first offset from `offset` on at which a UTF-8 character starts."""
    while not raw and offset < stop and file[offset] & 0xC0 == 0x80:
        offset += 1
    return offset
