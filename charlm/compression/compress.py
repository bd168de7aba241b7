"""Lossless compression of any file with a model, and its size beside other compressors.

The tokens of a text are coded by their probabilities; bytes without a token are stored beside them
as literals. Decoding must compute the same bits as encoding, so both predict one token of each
stream at a time, in fp32 on one thread of the CPU. A checksum tells in advance whether another
machine computes the same bits.
"""

import bz2
import lzma
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from charlm.compression import container
from charlm.compression.coder import (
    InvalidWordsError,
    Report,
    TokenPredictor,
    decode,
    deterministic_arithmetic,
    encode,
    silent,
)
from charlm.compression.container import CodedFile, Original, StoredFile
from charlm.compression.fingerprint import check_fingerprint, fingerprint_of
from charlm.compression.literals import Alphabet, CodedText, to_bytes, to_tokens
from charlm.config.values import check_counts
from charlm.data.tokenizer import Ids
from charlm.data.utf8 import count_characters
from charlm.data.windows.directions import reverse
from charlm.data.windows.scoring import windows_to_score
from charlm.errors import CharlmError
from charlm.model.language_model import LanguageModel
from charlm.storage.results import Result
from charlm.trained_model import TrainedModel, require_language_model
from charlm.training.loss import score

# A stream that starts from the initial state costs about 13 bits more at the level of characters.
_TOKENS_PER_STREAM = 4096
_BASELINES: dict[str, Callable[[bytes], bytes]] = {
    "lzma_bytes": lambda data: lzma.compress(data, preset=9),  # As `xz -9`.
    "bz2_bytes": bz2.compress,  # As `bzip2 -9`.
}


@dataclass(frozen=True)
class Compression(Result):
    """The size of a compressed file beside other compressors.

    Attributes:
        bytes_in: Size of the original.
        bytes_out: Size of the compressed file: header, literals and tokens.
        bits_per_character: Bits of the compressed file / characters of the original.
        bits_per_byte: Bits of the compressed file / bytes of the original.
        cross_entropy_bits: The model's cross-entropy of the tokens, with the state carried from
            the first to the last; None for a stored file.
        overhead: Size of the compressed file without literals / cross-entropy - 1.
        literal_bytes: Bytes of the compressed file for what has no token.
        tokens: Number of coded tokens.
        unknown: Number of tokens that are <UNK>.
        characters: Number of characters of the original.
        lzma_bytes: Size that `xz -9` reaches.
        bz2_bytes: Size that `bzip2 -9` reaches.
        ratio_to_lzma: bytes_out / lzma_bytes.
        ratio_to_bz2: bytes_out / bz2_bytes.
        seconds: Time of compression, without the comparisons.
        settings: Run, method, streams, arithmetic, version and so on.
    """

    bytes_in: int
    bytes_out: int
    bits_per_character: float
    bits_per_byte: float
    cross_entropy_bits: float | None
    overhead: float | None
    literal_bytes: int
    tokens: int
    unknown: int
    characters: int
    lzma_bytes: int
    bz2_bytes: int
    ratio_to_lzma: float
    ratio_to_bz2: float
    seconds: float
    settings: dict[str, Any]


def alphabet_of(trained: TrainedModel) -> Alphabet:
    """Return the tokens of a trained model.

    Raises:
        CharlmError: The model predicts no whole text.
    """
    require_language_model(trained)
    corpus = trained.config.corpus
    return Alphabet(trained.tokenizer, corpus.mode, corpus.separator or "", corpus.record)


def compress(
    data: bytes,
    model: LanguageModel,
    alphabet: Alphabet,
    *,
    streams: int | None = None,
    report: Report = silent,
) -> bytes:
    """Return a compressed file: at most a header larger than the original.

    A file that the model would enlarge is stored without the model.

    Args:
        data: Any bytes.
        model: Model on any device; it codes on the CPU. Of a model that reads in both directions,
            the forward network codes.
        alphabet: Tokens of the model.
        streams: Number of streams coded side by side. More are faster; each but the first starts
            from the initial state, which costs bits. None chooses a number that costs less than
            0.2 %.
        report: Function that is called with the number of tokens done and of all tokens.

    Raises:
        OptionError: The number of streams is below 1.
        CharlmError: constriction is not installed, or the probabilities are not finite.
    """
    check_counts(streams=streams)
    stored = _stored(data)
    coded = to_tokens(data, alphabet)
    if coded is None or _is_better_stored(coded, stored):
        return container.pack(stored)
    file = _code(data, coded, model, alphabet, streams, report)
    enlarges = len(file.literals) + len(file.words) > len(container.pack(_raw(data)))
    return container.pack(stored if enlarges else file)


def decompress(
    data: bytes,
    model: LanguageModel,
    alphabet: Alphabet,
    *,
    name: str = "the file",
    report: Report = silent,
) -> bytes:
    """Return the original of a compressed file.

    Args:
        data: Compressed file.
        model: Model that compressed it, on any device.
        alphabet: Tokens of the model.
        name: Name of the file in error messages.
        report: Function that is called with the number of tokens done and of all tokens.

    Raises:
        CheckpointError: The file was compressed with another model, or this machine computes other
            numbers.
        CharlmError: The file is damaged or is not a compressed file, or constriction is not
            installed.
    """
    file = container.unpack(data, name)
    length = file.original.length
    if isinstance(file, StoredFile):
        result: bytes | None = container.original_of(file, name)
    else:
        result = to_bytes(_decode(file, model, alphabet, name, report), alphabet, length)
    if result is None or Original.of(result) != file.original:
        raise CharlmError(
            f"{name}: the checksum of the decompressed data differs from that of the original; "
            "decompress it on the machine that compressed it"
        )
    return result


def measure_compression(
    data: bytes,
    model: LanguageModel,
    alphabet: Alphabet,
    *,
    provenance: Mapping[str, Any] | None = None,
    streams: int | None = None,
    report: Report = silent,
) -> tuple[Compression, bytes]:
    """Compress a file, and compare its size with the cross-entropy and with other compressors.

    Args:
        data: Any bytes.
        model: As for `compress`.
        alphabet: Tokens of the model.
        provenance: Facts about the model that become part of the settings.
        streams: As for `compress`.
        report: As for `compress`.

    Returns:
        The comparison, and the compressed file.
    """
    started = time.perf_counter()
    compressed = compress(data, model, alphabet, streams=streams, report=report)
    seconds = round(time.perf_counter() - started, 3)
    file = container.unpack(compressed, "the file")
    coded = to_tokens(data, alphabet) if isinstance(file, CodedFile) else None
    bits = None if coded is None else cross_entropy_bits(coded.ids, model, alphabet)
    literal_bytes = len(file.literals) if isinstance(file, CodedFile) else 0
    characters = count_characters(data)
    size = len(compressed)
    other_sizes = {name: len(baseline(data)) for name, baseline in _BASELINES.items()}
    compression = Compression(
        bytes_in=len(data),
        bytes_out=size,
        bits_per_character=8 * size / max(characters, 1),
        bits_per_byte=8 * size / max(len(data), 1),
        cross_entropy_bits=bits,
        overhead=8 * (size - literal_bytes) / bits - 1 if bits else None,
        literal_bytes=literal_bytes,
        tokens=0 if coded is None else len(coded.ids),
        unknown=0 if coded is None else len(coded.literals),
        characters=characters,
        **other_sizes,
        ratio_to_lzma=size / other_sizes["lzma_bytes"],
        ratio_to_bz2=size / other_sizes["bz2_bytes"],
        seconds=seconds,
        settings=dict(provenance or {}) | settings_of(file),
    )
    return compression, compressed


def cross_entropy_bits(ids: Ids, model: LanguageModel, alphabet: Alphabet) -> float:
    """Return the model's cross-entropy of a text, with the state carried through the whole text."""
    network = model.split_directions()[0]
    direction = "backward" if model.direction == "backward" else "forward"
    windows = windows_to_score(ids, mode=alphabet.mode, direction=direction)
    device = next(model.parameters()).device
    return score(network, windows, device=device, precision=torch.float32).bits_per(1)


def settings_of(file: StoredFile | CodedFile) -> dict[str, Any]:
    """Return the facts that a compressed file states about its compression."""
    if isinstance(file, StoredFile):
        return {"method": "stored"}
    return {
        "method": "model",
        "streams": file.num_streams,
        "weights": file.fingerprint.weights.hex(),
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "processor": file.fingerprint.processor.decode(),
        "torch": file.fingerprint.torch.decode(),
        "version": file.fingerprint.charlm.decode(),
    }


def _stored(data: bytes) -> StoredFile:
    """Return a file without a model: deflated, or as it is if that is smaller."""
    deflated = StoredFile(Original.of(data), container.deflate(data))
    return min(deflated, _raw(data), key=lambda file: len(file.data))


def _raw(data: bytes) -> StoredFile:
    return StoredFile(Original.of(data), data, is_raw=True)


def _code(
    data: bytes,
    coded: CodedText,
    model: LanguageModel,
    alphabet: Alphabet,
    streams: int | None,
    report: Report,
) -> CodedFile:
    ids = _in_reading_order(coded.ids, model, alphabet)
    num_streams = streams or len(ids) // _TOKENS_PER_STREAM
    num_streams = max(1, min(num_streams, len(ids), container.MAX_STREAMS))
    with deterministic_arithmetic():
        predictor = TokenPredictor(model, alphabet)
        words = encode(predictor, ids, num_streams, report)
        fingerprint = fingerprint_of(predictor, num_streams)
    return CodedFile(
        original=Original.of(data),
        fingerprint=fingerprint,
        has_variant_ends=coded.has_variant_ends,
        num_streams=num_streams,
        num_tokens=len(ids),
        literals=_pack_literals(coded),
        words=words,
    )


def _is_better_stored(coded: CodedText, stored: StoredFile) -> bool:
    """Return whether a file is better stored, before a model codes it.

    Either the model knows nothing of the text, or the text is so uniform that a reader would take
    its number of tokens for damage.
    """
    is_unknown = len(_pack_literals(coded)) >= len(stored.data)
    return is_unknown or len(coded.ids) > container.MAX_TOKENS_PER_BYTE * len(stored.data)


def _pack_literals(coded: CodedText) -> bytes:
    return container.deflate(b"".join(map(container.sized, coded.literals)))


def _unpack_literals(file: CodedFile, name: str) -> list[bytes]:
    # A literal comes after its length, which takes no more bytes than the literal itself.
    inflated = container.inflate(file.literals, max_bytes=2 * file.original.length, name=name)
    reader = container.Reader(inflated, name)
    literals = []
    while not reader.is_at_end:
        literals.append(reader.take_sized())
    return literals


def _decode(
    file: CodedFile, model: LanguageModel, alphabet: Alphabet, name: str, report: Report
) -> CodedText:
    """Return the tokens and literals of a file."""
    literals = _unpack_literals(file, name)
    with deterministic_arithmetic():
        predictor = TokenPredictor(model, alphabet)
        check_fingerprint(file.fingerprint, fingerprint_of(predictor, file.num_streams), name)
        try:
            ids = decode(predictor, file.words, file.num_tokens, file.num_streams, report)
        except InvalidWordsError:
            raise container.damaged(name) from None
    ids = _in_reading_order(ids, model, alphabet)
    return CodedText(ids, literals, has_variant_ends=file.has_variant_ends)


def _in_reading_order(ids: Ids, model: LanguageModel, alphabet: Alphabet) -> Ids:
    """Return tokens in reading order; tokens in reading order return in the order of the text."""
    return reverse(ids, mode=alphabet.mode) if model.direction == "backward" else ids
