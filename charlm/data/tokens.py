"""Text → token ids on disk: encoded once per text and tokenizer, kept with a checksum, read through memory maps.

A large text is encoded in slices, each into a file of its own, by one process or several: what was encoded before a
stop is not encoded again, nor are other files of a text of which one has changed.
"""

import hashlib
import json
import mmap
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import astuple, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from charlm.config.schema import Mode
from charlm.config.schema import Tokenizer as TokenizerSection
from charlm.data.corpus import Text
from charlm.data.shards import ShardedIds, split_by_file
from charlm.data.tokenizer import (
    UNK,
    Ids,
    Tokenizer,
    decode_blocks,
    id_dtype,
    learn_tokenizer,
    load_tokenizer,
)
from charlm.data.utf8 import count_characters, split_lines
from charlm.errors import CorpusError, TokenizerError
from charlm.storage.atomic import atomic_write
from charlm.storage.memory_maps import BLOCK_BYTES, release_pages
from charlm.storage.results import Result
from charlm.storage.untrusted import parse_json

FORMAT = 2
SLICE_BYTES = 1 << 25  # Of a text, encoded into one file.
Report = Callable[[int], None]
_PIECES_AT_ONCE = 1 << 16
# A sentence ends after its mark, the quotes and brackets that close it, and one space; or after a full-width mark.
_SENTENCE = re.compile(rb"""[.!?]["')\]]*\s|(?:\xe3\x80\x82|\xef\xbc\x81|\xef\xbc\x9f)""")


@dataclass(frozen=True)
class Counts(Result):
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
    """A text as ids, (tokens,), in memory maps that are only read; those of a large text are `ShardedIds`."""

    ids: Ids
    counts: Counts


def learn_or_load_tokenizer(text: Text, section: TokenizerSection, *, cache: Path) -> Tokenizer:
    """Return a tokenizer learnt from a text; that of a large text from the cache if it is there and whole.

    Raises:
        TokenizerError: The vocabulary cannot be as small as asked for.
        CorpusError: The text cannot be read, or the cache not be written.
    """
    if text.size < SLICE_BYTES:
        return learn_tokenizer(decode_blocks(text.blocks()), section)
    path = cache / f"{_name([FORMAT, text.fingerprint, section.model_dump()])}.tokenizer.json"
    try:
        kept, digest = path.read_bytes()[:-64], path.read_bytes()[-64:]
        if hashlib.sha256(kept).hexdigest().encode() == digest:
            return load_tokenizer(kept.decode(), section)
    except (OSError, ValueError, TokenizerError):
        pass  # Learn it again.
    learnt = learn_tokenizer(decode_blocks(text.blocks()), section)
    with atomic_write(path) as file:
        data = learnt.to_json().encode()
        file.write(data + hashlib.sha256(data).hexdigest().encode())
    return learnt


def encode_text(
    text: Text,
    tokenizer: Tokenizer,
    *,
    mode: Mode,
    cache: Path,
    workers: int = 1,
    report: Report | None = None,
) -> Tokens:
    """Return a text's ids, from the cache if they are there and whole.

    Args:
        text: What to encode.
        tokenizer: Says, besides the ids, where <EOS> goes in `stream` mode; in `records` mode it ends each record.
        mode: How the text is read.
        cache: Folder in which ids are kept.
        workers: Processes that encode the slices of a large text. They are started anew: a script that asks for more
            than one must be one that can be imported.
        report: Called with the bytes of each slice that is there.

    Raises:
        CorpusError: The cache cannot be written, or a process was killed.
    """
    how = _name([FORMAT, tokenizer.to_json(), tokenizer.section.model_dump(), mode])
    slices = text.slices(SLICE_BYTES) or [text]
    paths = [cache / f"{_name([how, one.fingerprint, one.raw])}.ids" for one in slices]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(_kept, paths))
    missing = [number for number, counts in enumerate(found) if counts is None]
    report = report or (lambda _: None)
    report(sum(one.size for one, counts in zip(slices, found, strict=True) if counts))
    tasks = [(slices[number], mode, paths[number]) for number in missing]
    for number, counts in zip(
        missing, _encode_all(tasks, tokenizer, min(workers, len(tasks))), strict=True
    ):
        found[number] = counts
        report(slices[number].size)
    counted = [counts for counts in found if counts]
    kind = id_dtype(tokenizer.vocabulary_size)
    parts = [
        np.memmap(path, dtype=kind, mode="r")
        for path, counts in zip(paths, counted, strict=True)
        if counts.tokens
    ]
    total = Counts(*(sum(column) for column in zip(*map(astuple, counted), strict=True)))
    if len(parts) > 1:
        return Tokens(
            cast(Ids, ShardedIds(parts)), total
        )  # It answers to what the readers of ids ask.
    return Tokens(parts[0] if parts else np.zeros(0, dtype=kind), total)


_Task = tuple[Text, Mode, Path]


def _encode_all(tasks: Sequence[_Task], tokenizer: Tokenizer, workers: int) -> Iterator[Counts]:
    if workers < 2:
        yield from (_encode(text, tokenizer, mode, path) for text, mode, path in tasks)
        return
    threads = max(1, available_cores() // workers)
    pool = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        _begin_worker,
        (tokenizer.to_json(), tokenizer.section, threads),
    )
    try:
        yield from pool.map(_encode_task, tasks)
    except BrokenProcessPool:
        raise CorpusError(
            "a process that encoded was killed, for want of memory perhaps; try fewer workers: what is "
            "encoded so far is kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker(tokenizer: str, section: TokenizerSection, threads: int) -> None:
    """Make a process one that encodes: it has the tokenizer, and ends with the process that started it."""
    global _tokenizer  # What a process of the pool has for all its tasks has no other place.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started it.
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    _tokenizer = load_tokenizer(tokenizer, section)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


_tokenizer: Tokenizer


def _encode_task(task: _Task) -> Counts:
    text, mode, path = task
    return _encode(text, _tokenizer, mode, path)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _name(recipe: Iterable[Any]) -> str:
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:24]


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


def _encode(text: Text, tokenizer: Tokenizer, mode: Mode, path: Path) -> Counts:
    """Write the ids of a text, or of a slice of one, and beside them what was counted."""
    digest, kind = hashlib.sha256(), id_dtype(tokenizer.vocabulary_size)
    tokens = unknown = 0
    separators = (len(text.spans) - text.is_cut) * text.separator
    characters, bytes_ = len(separators), len(separators.encode())
    with atomic_write(path) as file:
        for pieces, ends in _batches(text, tokenizer, mode):
            ids = tokenizer.encode_pieces(pieces, ends).astype(kind)
            tokens, unknown = tokens + len(ids), unknown + int(np.count_nonzero(ids == UNK))
            digest.update(ids.tobytes())
            file.write(ids.tobytes())
    for block, _ in text.blocks():
        bytes_ += len(block)
        characters += count_characters(block)
    counts = Counts(tokens, unknown, characters, bytes_)
    digest.update(json.dumps(counts.to_json()).encode())
    with atomic_write(path.with_suffix(".json")) as file:
        file.write(json.dumps(counts.to_json() | {"sha256": digest.hexdigest()}).encode())
    return counts


def _batches(
    text: Text, tokenizer: Tokenizer, mode: Mode
) -> Iterator[tuple[list[bytes], list[bool]]]:
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
            yield from (
                (line.removesuffix(b"\n"), ends) for line, ends in _lines(block, ends_document)
            )
        elif eos == "line":
            yield from _lines(block, ends_document)
        elif eos == "sentence":
            yield from split_sentences(block, ends_document)
        else:
            yield block, ends_document and eos == "document"


def _lines(block: bytes, ends_document: bool) -> Iterator[tuple[bytes, bool]]:
    """Return the lines of a block with their ends, and whether each is over; only a line feed ends a line."""
    # Only the last can lack its end: it goes on in the next block, unless the document ends with it.
    return ((line, line.endswith(b"\n") or ends_document) for line in split_lines(block))


def split_sentences(block: bytes, ends_document: bool) -> Iterator[tuple[bytes, bool]]:
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
    for part in split_by_file(ids):
        for at in range(0, len(part), BLOCK_BYTES):
            counts += np.bincount(part[at : at + BLOCK_BYTES], minlength=vocabulary_size)
            if isinstance(part.base, mmap.mmap):
                release_pages(
                    part.base, at * part.itemsize, min(at + BLOCK_BYTES, len(part)) * part.itemsize
                )
    return counts
