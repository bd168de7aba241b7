"""Text → token ids on disk, encoded once per text and tokenizer, and read through memory maps.

The files have checksums. A large text is encoded in slices, each into its own file, by one or
several processes. An interrupted encoding continues with the missing slices, and if one file of a
text changes, only its slices are encoded again.
"""

import hashlib
import json
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
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from charlm.config.corpus import Mode
from charlm.config.tokenizer import Tokenizer as TokenizerSection
from charlm.data.corpus import Text
from charlm.data.progress import current_listener
from charlm.data.shards import ShardedIds, id_blocks
from charlm.data.tokenizer import UNK, Ids, Tokenizer, id_dtype
from charlm.data.utf8 import (
    LineEnds,
    count_characters,
    ends_line,
    split_lines,
)
from charlm.data.vocabulary import decode_blocks, learn_tokenizer, load_tokenizer
from charlm.errors import CorpusError, TokenizerError
from charlm.storage.atomic import atomic_write
from charlm.storage.memory_maps import BLOCK_BYTES
from charlm.storage.results import Result
from charlm.storage.untrusted import parse_json

FORMAT = 2
SLICE_BYTES = 1 << 25  # Bytes of text per file of ids.
Report = Callable[[int], None]
_BATCH_PIECES = 1 << 16
# A sentence ends after its mark, closing quotes or brackets, and one space; or after a full-width
# mark, which no space follows.
_SENTENCE = re.compile(rb"""[.!?]["')\]]*\s|(?:\xe3\x80\x82|\xef\xbc\x81|\xef\xbc\x9f)""")


@dataclass(frozen=True)
class Counts(Result):
    """Counts of an encoded text.

    Attributes:
        tokens: Number of ids, including <EOS>.
        unknown: Number of ids that are <UNK>.
        characters: Number of characters of the original text, including line ends.
        bytes: Number of UTF-8 bytes of the original text.
    """

    tokens: int
    unknown: int
    characters: int
    bytes: int

    @property
    def unknown_share(self) -> float:
        """Fraction of the tokens that are <UNK>."""
        return self.unknown / max(self.tokens, 1)


@dataclass(frozen=True)
class Tokens:
    """An encoded text.

    Attributes:
        ids: Ids, (tokens,), a read-only memory map, or `ShardedIds` of a large text.
        counts: Counts of the text.
        targets: Targets of the records of a task at the position of each id, (tokens,), -100 where
            there is none; None if each id is predicted.
    """

    ids: Ids
    counts: Counts
    targets: Ids | None = None

    @property
    def num_predicted(self) -> int:
        """Number of predictions."""
        return len(self.ids) if self.targets is None else int((self.targets >= 0).sum())


class _Task(NamedTuple):
    """A text, or a slice of one, to encode into a file."""

    text: Text
    mode: Mode
    path: Path


def learn_or_load_tokenizer(text: Text, section: TokenizerSection, *, cache: Path) -> Tokenizer:
    """Return a tokenizer learned from a text; for a large text, it is kept in the cache.

    Args:
        text: Training text.
        section: Level and options.
        cache: Folder of the cache.

    Raises:
        TokenizerError: The vocabulary size is too small.
        CorpusError: The text cannot be read, or the cache cannot be written.
    """
    if text.size < SLICE_BYTES:
        return learn_tokenizer(decode_blocks(text.blocks()), section)
    key = _cache_key([FORMAT, text.fingerprint, section.model_dump()])
    path = cache / f"{key}.tokenizer.json"
    if (known := _load_cached_tokenizer(path, section)) is not None:
        return known
    learned = learn_tokenizer(decode_blocks(text.blocks()), section)
    data = learned.to_json().encode()
    with atomic_write(path) as file:
        file.write(data + hashlib.sha256(data).hexdigest().encode())
    return learned


def encode_text(
    text: Text,
    tokenizer: Tokenizer,
    *,
    mode: Mode,
    cache: Path,
    workers: int = 1,
    report: Report | None = None,
) -> Tokens:
    """Encode a text, or return its ids from the cache.

    Args:
        text: Text to encode.
        tokenizer: Tokenizer, which also decides where <EOS> is in `stream` mode.
        mode: How the text is read; in `records` mode <EOS> ends every record.
        cache: Folder of the cache.
        workers: Number of processes that encode the slices of a large text. They are spawned, so a
            script with more than one must be importable.
        report: Called with the bytes of the cached slices, then with those of each encoded slice.

    Raises:
        CorpusError: The cache cannot be written, or a process was killed.
    """
    report = report or (lambda _: None)
    key = _cache_key([FORMAT, tokenizer.to_json(), tokenizer.section.model_dump(), mode])
    slices = text.slices(SLICE_BYTES) or [text]
    keys = [
        _cache_key([key, part.fingerprint, part.raw, part.line_ends, part.separator])
        for part in slices
    ]
    tasks = [
        _Task(part, mode, cache / f"{name}.ids") for part, name in zip(slices, keys, strict=True)
    ]
    with ThreadPoolExecutor() as pool:
        counts = dict(enumerate(pool.map(_load_counts, [task.path for task in tasks])))
    missing = [number for number in counts if counts[number] is None]
    report(text.size - sum(slices[number].size for number in missing))
    current_listener().begin("encoding the text")
    encoded = _encode_all([tasks[number] for number in missing], tokenizer, workers)
    for number, slice_counts in zip(missing, encoded, strict=True):
        counts[number] = slice_counts
        report(slices[number].size)
    return _open_ids(
        [task.path for task in tasks],
        [slice_counts for slice_counts in counts.values() if slice_counts],
        id_dtype(tokenizer.vocabulary_size),
    )


def encode_in_memory(text: Text, tokenizer: Tokenizer, *, mode: Mode) -> Tokens:
    """Encode a text in memory; arguments as for `encode_text`."""
    dtype = id_dtype(tokenizer.vocabulary_size)
    ids = np.concatenate(
        [
            np.zeros(0, dtype=dtype),
            *(
                tokenizer.encode_pieces(*batch).astype(dtype)
                for batch in batches(text, tokenizer, mode)
            ),
        ]
    )
    return Tokens(ids, _count(text, len(ids), int(np.count_nonzero(ids == UNK))))


def _open_ids(paths: Sequence[Path], counts: Sequence[Counts], dtype: np.dtype[Any]) -> Tokens:
    """Return the ids of encoded slices as one array, and the sum of their counts."""
    shards = [
        np.memmap(path, dtype=dtype, mode="r")
        for path, slice_counts in zip(paths, counts, strict=True)
        if slice_counts.tokens
    ]
    total = Counts(*(sum(column) for column in zip(*map(astuple, counts), strict=True)))
    if len(shards) > 1:
        return Tokens(cast(Ids, ShardedIds(shards)), total)  # It has all methods that readers use.
    return Tokens(shards[0] if shards else np.zeros(0, dtype=dtype), total)


def _encode_all(tasks: Sequence[_Task], tokenizer: Tokenizer, max_workers: int) -> Iterator[Counts]:
    """Encode slices in order, with several processes if there are several slices."""
    workers = min(max_workers, len(tasks))
    if workers < 2:
        yield from (encode_to_file(*task, tokenizer) for task in tasks)
        return
    threads = max(1, available_cores() // workers)
    pool = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        _initialize_worker,
        (tokenizer.to_json(), tokenizer.section, threads),
    )
    try:
        for task, counts in zip(tasks, pool.map(_run_task, tasks), strict=True):
            current_listener().advance(task.text.size)
            yield counts
    except BrokenProcessPool:
        raise CorpusError(
            "an encoding process was killed, perhaps because memory ran out; try fewer workers: "
            "the finished slices are kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _initialize_worker(tokenizer: str, section: TokenizerSection, threads: int) -> None:
    """Load the tokenizer in a worker process, which ends with the process that started it."""
    global _tokenizer  # A worker process has no other place for what all its tasks share.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent process handles Ctrl-C.
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    _tokenizer = load_tokenizer(tokenizer, section)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


_tokenizer: Tokenizer


def _run_task(task: _Task) -> Counts:
    return encode_to_file(*task, _tokenizer)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encode_to_file(text: Text, mode: Mode, path: Path, tokenizer: Tokenizer) -> Counts:
    """Write the ids of a text, or of a slice of one, and beside them their counts and checksum."""
    digest = hashlib.sha256()
    dtype = id_dtype(tokenizer.vocabulary_size)
    tokens = unknown = 0
    with atomic_write(path) as file:
        for pieces, ends in batches(text, tokenizer, mode):
            ids = tokenizer.encode_pieces(pieces, ends).astype(dtype)
            current_listener().advance(sum(map(len, pieces)))
            tokens += len(ids)
            unknown += int(np.count_nonzero(ids == UNK))
            digest.update(ids.tobytes())
            file.write(ids.tobytes())
    counts = _count(text, tokens, unknown)
    digest.update(json.dumps(counts.to_json()).encode())
    with atomic_write(path.with_suffix(".json")) as file:
        file.write(json.dumps(counts.to_json() | {"sha256": digest.hexdigest()}).encode())
    return counts


def split_sentences(block: bytes, ends_document: bool) -> Iterator[tuple[bytes, bool]]:
    """Yield the sentences of a block, each with whether it is complete.

    Args:
        block: UTF-8 text.
        ends_document: Whether the document, and so its last sentence, ends with the block.
    """
    start = 0
    for match in _SENTENCE.finditer(block):
        yield block[start : match.end()], True
        start = match.end()
    if start < len(block):
        yield block[start:], ends_document


def _cache_key(parts: Iterable[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _load_cached_tokenizer(path: Path, section: TokenizerSection) -> Tokenizer | None:
    """Return a tokenizer of the cache; None if it is missing or its checksum does not match."""
    try:
        contents = path.read_bytes()
        data, digest = contents[:-64], contents[-64:]
        if hashlib.sha256(data).hexdigest().encode() == digest:
            return load_tokenizer(data.decode(), section)
    except (OSError, ValueError, TokenizerError):
        pass  # A damaged cache is ignored: the tokenizer is learned again.
    return None


def _load_counts(path: Path) -> Counts | None:
    """Return the counts of cached ids; None if they are missing or a checksum does not match."""
    try:
        saved: dict[str, Any] = parse_json(path.with_suffix(".json").read_bytes())
        expected = saved.pop("sha256")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        digest.update(json.dumps(saved).encode())
        if digest.hexdigest() == expected:
            return Counts(**saved)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # A damaged cache is ignored: the text is encoded again.
    return None


def _count(text: Text, tokens: int, unknown: int) -> Counts:
    """Return the counts of a text; characters and bytes include separators."""
    separators = (len(text.spans) - text.is_cut) * text.separator
    characters = len(separators)
    num_bytes = len(separators.encode())
    for block, _ in text.blocks():
        characters += count_characters(block)
        num_bytes += len(block)
    return Counts(tokens=tokens, unknown=unknown, characters=characters, bytes=num_bytes)


def batches(
    text: Text, tokenizer: Tokenizer, mode: Mode
) -> Iterator[tuple[list[bytes], list[bool]]]:
    """Yield the pieces of a text in batches that are large enough to encode at once."""
    pieces: list[bytes] = []
    ends: list[bool] = []
    size = 0
    for piece, end in _pieces(text, tokenizer, mode):
        pieces.append(piece)
        ends.append(end)
        size += len(piece)
        if size >= BLOCK_BYTES or len(pieces) >= _BATCH_PIECES:
            yield pieces, ends
            pieces, ends, size = [], [], 0
    if pieces:
        yield pieces, ends


def _pieces(text: Text, tokenizer: Tokenizer, mode: Mode) -> Iterator[tuple[bytes, bool]]:
    """Yield the text in pieces, each with whether <EOS> follows it."""
    eos = "document" if mode == "records" else tokenizer.section.eos
    for block, ends_document in text.blocks():
        if tokenizer.separates_by_space:
            for line, ends in _lines(block, ends_document, text.line_ends):
                # Another line end stays, because the tokenizer leaves it out at a cost (spelling).
                yield line.removesuffix(b"\n"), ends
        elif eos == "line":
            yield from _lines(block, ends_document, text.line_ends)
        elif eos == "sentence":
            yield from split_sentences(block, ends_document)
        else:
            yield block, ends_document and eos == "document"


def _lines(block: bytes, ends_document: bool, line_ends: LineEnds) -> Iterator[tuple[bytes, bool]]:
    """Yield the lines of a block, each with whether it is complete."""
    # Only the last line can be incomplete: it continues in the next block of the document.
    *complete, last = split_lines(block, line_ends)
    yield from ((line, True) for line in complete)
    yield last, ends_document or ends_line(last, line_ends)


def count_ids(ids: npt.NDArray[Any], vocabulary_size: int) -> npt.NDArray[np.int64]:
    """Return the number of occurrences of each id, (vocabulary,)."""
    counts: npt.NDArray[np.int64] = np.zeros(vocabulary_size, dtype=np.int64)
    for block in id_blocks(ids):
        counts += np.bincount(block, minlength=vocabulary_size)
    return counts
