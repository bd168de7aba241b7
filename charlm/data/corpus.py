"""A text by its documents, split into parts.

Every source is plain files and the byte offsets of the documents in them, so that a text is read in blocks from memory
maps and never stands in memory whole. A record (one line) is a small document.
"""

import hashlib
import mmap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from charlm.config.schema import Mode, ResolvedConfig, ResolvedCorpus
from charlm.data.cards import Part
from charlm.data.resolve import card_of, texts_like
from charlm.data.sources import PlainFile, open_plain_files
from charlm.errors import CorpusError
from charlm.storage.memory_maps import BLOCK_BYTES, map_file, release_pages


@dataclass(frozen=True)
class Text:
    """Documents, in order, of plain files.

    Attributes:
        files: Those that hold them.
        spans: Number of the file, first byte and byte after the last of each document, (documents, 3).
        raw: Whether any bytes will do; else they are UTF-8, already checked.
        separator: What stands after each document in the original: the end of a record's line, say.
        is_cut: Whether the last document goes on in the next part, so that it does not end here.
    """

    files: tuple[PlainFile, ...]
    spans: npt.NDArray[np.int64]
    raw: bool
    separator: str = ""
    is_cut: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of the documents and where they begin."""
        digest = hashlib.sha256(np.ascontiguousarray(self.spans).tobytes() + bytes([self.is_cut]))
        for file in self.files:
            digest.update(file.sha256.encode())
        return digest.hexdigest()

    @cached_property
    def size(self) -> int:
        """Bytes of the documents."""
        return int((self.spans[:, 2] - self.spans[:, 1]).sum())

    def blocks(self, size: int = BLOCK_BYTES) -> Iterator[tuple[bytes, bool]]:
        """Yield the documents in blocks, each with whether it ends its document.

        A block ends after a line's end where there is one within reach, else between two characters, so that no
        tokenizer sees the seam: no token of ours reaches over a line's end.
        """
        number = 0
        for of_file in _by_file(self.spans):
            with map_file(self.files[of_file[0, 0]].path) as file:
                for _, start, stop in of_file.tolist():
                    number += 1
                    ends = not (self.is_cut and number == len(self.spans))
                    while start < stop:
                        cut = (
                            _seam(file, start + size, stop, self.raw)
                            if stop - start > size
                            else stop
                        )
                        yield file[start:cut], ends and cut == stop
                        release_pages(file, start, cut)
                        start = cut

    def slices(self, size: int) -> list["Text"]:
        """Return the text in slices of about `size` bytes, which put together are the text.

        Whole files are gathered until they are so many bytes; a larger file is cut, where `blocks` might be cut, in its
        own slices. So a file that joins or leaves the others changes no more slices than those near it.
        """
        found: list[Text] = []
        gathered: list[npt.NDArray[np.int64]] = []
        for of_file in _by_file(self.spans):
            if gathered and sum(map(_bytes, gathered)) + _bytes(of_file) > size:
                found.append(self._slice(gathered))
                gathered = []
            if _bytes(of_file) <= size:
                gathered.append(of_file)
            else:
                found += self._cut(of_file, size)
        found += [self._slice(gathered)] if gathered else []
        if found and self.is_cut:
            found[-1] = replace(found[-1], is_cut=True)
        return found

    def _slice(self, spans: list[npt.NDArray[np.int64]], *, is_cut: bool = False) -> "Text":
        """Return documents as a text of its own, which knows of no file but theirs."""
        numbers = [int(of_file[0, 0]) for of_file in spans]
        own = np.concatenate(spans)
        own[:, 0] = np.searchsorted(numbers, own[:, 0])
        return replace(
            self, files=tuple(self.files[number] for number in numbers), spans=own, is_cut=is_cut
        )

    def _cut(self, spans: npt.NDArray[np.int64], size: int) -> Iterator["Text"]:
        """Yield the documents of one file in slices, cut inside a document where it is large."""
        with map_file(self.files[spans[0, 0]].path) as file:
            while _bytes(spans) > size:
                ends = np.cumsum(spans[:, 2] - spans[:, 1])
                last = int(
                    np.searchsorted(ends, size)
                )  # The document in which so many bytes are full.
                stop = int(spans[last, 2])
                cut = _seam(file, stop - int(ends[last]) + size, stop, self.raw)
                here = spans[: last + 1].copy()
                here[-1, 2] = cut
                yield self._slice([here], is_cut=cut < stop)
                spans = spans[last:].copy()
                spans[0, 1] = cut
                spans = spans[spans[:, 1] < spans[:, 2]]
        if len(spans):
            yield self._slice([spans])


@dataclass(frozen=True)
class Corpus:
    """The text of a run, by parts.

    Attributes:
        title: Title of the corpus card, or the names of the files.
        mode: `stream`, one long text; `records`, one sequence per line.
        parts: The text of each part that is not empty.
    """

    title: str
    mode: Mode
    parts: dict[Part, Text]


def open_corpus(config: ResolvedConfig) -> Corpus:
    """Return the text that a configuration names, split into its parts.

    At tokenizer level `byte` the files may hold any bytes, otherwise text in `corpus.encoding`.

    Raises:
        CorpusError: A text is missing, empty, not text, or not downloaded yet.
    """
    section, raw = config.corpus, config.tokenizer.level == "byte"
    card = card_of(section)
    separator = section.separator.encode() if section.separator else None

    def read(names: Sequence[str]) -> Text:
        files = open_plain_files(names, section, raw)
        of_each = [
            _record_spans(file) if section.mode == "records" else _document_spans(file, separator)
            for file in files
        ]
        spans = np.concatenate(
            [np.insert(spans, 0, number, axis=1) for number, spans in enumerate(of_each)]
        )
        if len(spans) == 0:
            what = "empty lines" if section.mode == "records" else "separators"
            raise CorpusError(
                f"{', '.join(names)}: holds nothing but {what}; give a text to learn from"
            )
        return Text(
            tuple(files), spans, raw, "\n" if section.mode == "records" else section.separator or ""
        )

    train = read(section.text)
    parts: dict[Part, Text] = {}
    if section.valid_text:
        parts["valid"] = read(section.valid_text)
    if section.test_text:
        parts["test"] = read(section.test_text)
    parts |= _split(train, section, has=parts)
    parts = {part: text for part, text in parts.items() if len(text.spans)}
    if "train" not in parts:
        raise CorpusError(
            f"{', '.join(section.text)}: is so short that its split leaves nothing to train on; give a longer text, or "
            "lower corpus.valid_share and corpus.test_share"
        )
    return Corpus(card.title if card else ", ".join(section.text), section.mode, parts)


def read_text(names: Sequence[str], config: ResolvedConfig) -> Text:
    """Return other texts, such as texts to score, read whole and as a run reads its own corpus.

    Raises:
        CorpusError: A text is missing, empty or not text.
    """
    return open_corpus(texts_like(config, tuple(names))).parts["train"]


def _by_file(spans: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Return the spans of each file, in order."""
    return np.split(spans, np.flatnonzero(np.diff(spans[:, 0])) + 1) if len(spans) else []


def _bytes(spans: npt.NDArray[np.int64]) -> int:
    return int((spans[:, 2] - spans[:, 1]).sum())


def _document_spans(plain: PlainFile, separator: bytes | None) -> npt.NDArray[np.int64]:
    """Return where each document begins and ends; without a separator a file, or a row of a table, is one document."""
    if separator is None:
        return _filled(
            np.stack(
                [np.concatenate([np.zeros(1, dtype=np.int64), plain.ends[:-1]]), plain.ends], axis=1
            )
        )
    spans, start = [], 0
    with map_file(plain.path) as file:
        for stop in plain.ends.tolist():
            while (found := file.find(separator, start, stop)) >= 0:
                spans.append((start, found))
                release_pages(file, start, found)
                start = found + len(separator)
            spans.append((start, stop))
            start = stop
    return _filled(np.array(spans, dtype=np.int64))


def _filled(spans: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the spans that hold something."""
    filled: npt.NDArray[np.int64] = spans[spans[:, 0] < spans[:, 1]]
    return filled


def _record_spans(plain: PlainFile) -> npt.NDArray[np.int64]:
    """Return where each line that is not empty begins and ends, its line end left out; a document's end ends a line."""
    data = np.memmap(plain.path, dtype=np.uint8, mode="r")
    found = np.concatenate(
        [
            np.flatnonzero(data[at : at + BLOCK_BYTES] == ord("\n")) + at
            for at in range(0, len(data), BLOCK_BYTES)
        ]
    )
    ends = np.concatenate([plain.ends, found]).astype(np.int64)
    order = np.argsort(
        ends, kind="stable"
    )  # A line that is empty may end where the document before it does.
    after = np.concatenate([plain.ends, found + 1]).astype(np.int64)[order]
    ends, starts = ends[order], np.concatenate([np.zeros(1, dtype=np.int64), after[:-1]])
    ends = ends - ((ends > starts) & (data[np.maximum(ends, 1) - 1] == ord("\r")))
    return _filled(np.stack([starts, ends], axis=1))


def _split(text: Text, section: ResolvedCorpus, *, has: Collection[Part]) -> dict[Part, Text]:
    """Return the parts that are shares of `text`; `has` names those that are texts of their own."""
    shares: dict[Part, float] = {
        "train": 1.0,
        "valid": 0.0 if "valid" in has else section.valid_share,
        "test": 0.0 if "test" in has else section.test_share,
    }
    shares["train"] -= shares["valid"] + shares["test"]
    order = np.arange(len(text.spans))
    if section.split == "shuffled":
        order = np.random.default_rng(section.split_seed).permutation(order)
    parts: dict[Part, Text] = {}
    taken = 0.0
    for part, share in shares.items():
        if share:
            if section.mode == "stream" and section.split == "contiguous":
                parts[part] = _cut_bytes(text, taken, taken + share)
            else:
                parts[part] = _cut_documents(text, order, taken, taken + share)
        taken += share
    return parts


def _cut_documents(text: Text, order: npt.NDArray[np.int64], first: float, last: float) -> Text:
    """Return the documents between two shares of `order`, in reading order."""
    chosen = order[round(first * len(order)) : round(last * len(order))]
    return replace(text, spans=text.spans[np.sort(chosen)])


def _cut_bytes(text: Text, first: float, last: float) -> Text:
    """Return what lies between two shares of the bytes, cut between characters, inside documents where it falls so."""
    lengths = text.spans[:, 2] - text.spans[:, 1]
    ends = np.cumsum(lengths)
    # Rounded first: the sum of shares is not exact, and must not lose a byte.
    low, high = (int(round(share * int(ends[-1]), 6)) for share in (first, last))
    starts = ends - lengths
    spans = text.spans.copy()
    spans[:, 1] += np.clip(low - starts, 0, lengths)
    spans[:, 2] += np.clip(high - ends, -lengths, 0)
    kept = spans[:, 1] < spans[:, 2]
    whole, spans = text.spans[kept], spans[kept]
    for row, column in ((0, 1), (-1, 2)) if len(spans) else ():
        with map_file(text.files[spans[row, 0]].path) as file:
            spans[row, column] = _character_start(
                file, int(spans[row, column]), int(whole[row, 2]), text.raw
            )
    is_cut = bool(len(spans)) and bool(spans[-1, 2] < whole[-1, 2])
    # A cut inside a document's last character leaves nothing of it behind.
    return replace(text, spans=spans[spans[:, 1] < spans[:, 2]], is_cut=is_cut)


def _seam(file: mmap.mmap, near: int, stop: int, raw: bool) -> int:
    """Return a place at or after `near` to cut a block: after a line's end, or the document's, if it comes soon."""
    reach = min(stop, near + BLOCK_BYTES)
    found = file.find(b"\n", near - 1, reach)
    if found >= 0:
        return found + 1
    return stop if reach == stop else _character_start(file, near, stop, raw)


def _character_start(file: mmap.mmap, at: int, stop: int, raw: bool) -> int:
    """Return the first place from `at` where a UTF-8 character begins."""
    while not raw and at < stop and file[at] & 0xC0 == 0x80:
        at += 1
    return at
