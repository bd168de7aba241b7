"""A file made smaller by a model, and back to the identical bytes: a score that can be weighed.

A range coder spends -log2 p bits on a token of probability p, so that a file's size is the model's cross-entropy
(Shannon 1948, section 9) but for rounding and a header. The coder is constriction's (Bamler 2022, arXiv:2201.01741),
at a precision of 24 bits. Any bytes come back: what has no token stands beside as a literal, see `literals`.

The file; numbers are in LEB128, texts come after their length:

    "charlm", format; CRC-32 of all that follows
    method; length of the original, first bytes of its SHA-256
    method 0, stored: the original, deflated
    method 1, model: versions of charlm and torch; the processor's vector instructions; checksums of weights, tokenizer
        and arithmetic; variant of line ends, streams, tokens, size of the literals; literals, deflated; coder's words

Decoding must compute the very bits that coding did, so both take the same step, a token of each stream at a time, in
fp32 on one thread of the processor. Whether another machine computes them too is asked before, by a checksum of it.
"""

import bz2
import hashlib
import json
import lzma
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from charlm.compression.coder import (
    _MOST_STREAMS,
    _PROBE_STEPS,
    _TOKENS_PER_STREAM,
    Probabilities,
    Report,
    _coder,
    _encode,
    _Network,
    _same_arithmetic,
    silent,
)
from charlm.compression.literals import Alphabet, Coded, to_bytes, to_tokens
from charlm.data.tokenizer import Ids
from charlm.data.utf8 import count_characters
from charlm.data.windows import read_in_direction, reverse, scoring_record_windows, scoring_windows
from charlm.errors import CharlmError, CheckpointError
from charlm.model.language_model import LanguageModel, named_weights
from charlm.storage.untrusted import one_line
from charlm.training.loss import score
from charlm.version import VERSION

MAGIC, FORMAT = b"charlm", 1
STORED, MODEL = 0, 1
_MOST_TOKENS_PER_BYTE = 1024  # Of the compressed file: about what deflate can reach.
_BASELINES: dict[str, Callable[[bytes], bytes]] = {
    "lzma_bytes": lambda data: lzma.compress(data, preset=9),  # What `xz -9` does.
    "bz2_bytes": bz2.compress,  # What `bzip2 -9` does.
}


@dataclass(frozen=True)
class Compression:
    """How small a file became, and what that is compared with.

    Attributes:
        bytes_in: Of the original.
        bytes_out: Of the compressed file: header, literals and tokens.
        bits_per_character: All bits of the compressed file / characters of the original.
        bits_per_byte: The same by its bytes.
        cross_entropy_bits: The model's, of the same tokens, with the state carried from the first to the last; none for
            a file that is stored.
        overhead: Share by which the compressed file without its literals is larger than that.
        literal_bytes: Of the compressed file, for what has no token.
        tokens: Coded.
        unknown: How many of them are <UNK>.
        characters: Of the original.
        lzma_bytes: What `xz -9` makes of the original.
        bz2_bytes: What `bzip2 -9` makes of it.
        ratio_to_lzma: bytes_out / lzma_bytes.
        ratio_to_bz2: bytes_out / bz2_bytes.
        seconds: That compressing took, without the comparisons.
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

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON's types."""
        return asdict(self)


def compress(
    data: bytes,
    model: LanguageModel,
    alphabet: Alphabet,
    *,
    streams: int | None = None,
    report: Report = silent,
) -> bytes:
    """Return a smaller file that holds `data`.

    Args:
        data: Any bytes.
        model: On whatever device: it is coded on the processor. Of one that reads both ways, the forward network.
        alphabet: What belongs to it.
        streams: Pieces coded side by side, which is faster; each but the first begins at the zero state, which costs
            bits. By default so many that they cost less than 0.2 %.
        report: Told how far it is.

    Raises:
        CharlmError: constriction is missing, or the model's probabilities are no numbers.
    """
    coder, coded, stored = _coder(), to_tokens(data, alphabet), _deflate(data)
    literals = b"" if coded is None else _deflate(b"".join(map(_sized, coded.literals)))
    original = _number(len(data)) + _checksum(data, size=8)
    # The model knows nothing of it, or it is so uniform that a reader would take its length for a lie.
    if (
        coded is None
        or len(literals) >= len(stored)
        or len(coded.ids) > _MOST_TOKENS_PER_BYTE * len(stored)
    ):
        return _sealed([bytes([STORED]), original, stored])
    ids = _in_order(coded.ids, model, alphabet)
    streams = max(1, min(streams or len(ids) // _TOKENS_PER_STREAM, len(ids), _MOST_STREAMS))
    with _same_arithmetic():
        network = _Network(model, alphabet)
        words = _encode(coder, network, ids, streams, report)
        facts = [_sized(part) for part in _facts(coder, network, streams)]
    numbers = [_number(number) for number in (coded.variant, streams, len(ids), len(literals))]
    return _sealed([bytes([MODEL]), original, *facts, *numbers, literals, words])


def decompress(
    data: bytes,
    model: LanguageModel,
    alphabet: Alphabet,
    *,
    name: str = "the file",
    report: Report = silent,
) -> bytes:
    """Return what was compressed.

    Args:
        data: What `compress` returned.
        model: As for `compress`.
        alphabet: As for `compress`.
        name: Of the file, for messages.
        report: Told how far it is.

    Raises:
        CheckpointError: It was compressed with another model, or where other numbers are computed.
        CharlmError: It is damaged, or no compressed file; or constriction is missing.
    """
    reader = _opened(data, name)
    method, length, checksum = reader.take(1)[0], reader.number(), reader.take(8)
    if method == STORED:
        found: bytes | None = _inflate(reader.rest(), name, most=length)
    else:
        coded = _decode(reader, model, alphabet, length, report)
        found = to_bytes(coded, alphabet, length)
    if found is None or len(found) != length or _checksum(found, size=8) != checksum:
        raise CharlmError(
            f"{name}: what came out is not what went in: its checksum differs; decompress it on the machine that "
            "compressed it"
        )
    return found


def measure_compression(
    data: bytes,
    model: LanguageModel,
    alphabet: Alphabet,
    *,
    streams: int | None = None,
    report: Report = silent,
) -> tuple[Compression, bytes]:
    """Compress a file and compare its size with the model's cross-entropy and with other compressors.

    Arguments as for `compress`.

    Returns:
        The comparison, and the compressed file.
    """
    began = time.perf_counter()
    compressed = compress(data, model, alphabet, streams=streams, report=report)
    seconds = round(time.perf_counter() - began, 3)
    settings = settings_of(compressed)
    coded = to_tokens(data, alphabet) if settings["method"] == "model" else None
    bits = None if coded is None else cross_entropy_bits(coded.ids, model, alphabet)
    characters = count_characters(data)
    size, literal_bytes = len(compressed), settings.pop("literal_bytes")
    others = {name: len(baseline(data)) for name, baseline in _BASELINES.items()}
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
        **others,
        ratio_to_lzma=size / others["lzma_bytes"],
        ratio_to_bz2=size / others["bz2_bytes"],
        seconds=seconds,
        settings=settings,
    )
    return compression, compressed


def cross_entropy_bits(ids: Ids, model: LanguageModel, alphabet: Alphabet) -> float:
    """Return the model's cross-entropy of a text, the state carried from its first token to its last."""
    network = model.split_directions()[0]
    read = scoring_record_windows if alphabet.mode == "records" else scoring_windows
    direction = "backward" if model.direction == "backward" else "forward"
    windows = read_in_direction(direction, ids, mode=alphabet.mode, read=read)
    device = next(model.parameters()).device
    return score(network, windows, device=device, precision=torch.float32).bits_per(1)


def settings_of(compressed: bytes) -> dict[str, Any]:
    """Return what a compressed file says of how it was made."""
    reader = _opened(compressed, "the file")
    method, *_ = reader.take(1)[0], reader.number(), reader.take(8)
    if method == STORED:
        return {"method": "stored", "literal_bytes": 0}
    version, torch_version, processor, weights, *_ = (reader.sized() for _ in _FACTS)
    _, streams, _, literal_bytes = (reader.number() for _ in range(4))
    return {
        "method": "model",
        "literal_bytes": literal_bytes,
        "streams": streams,
        "weights": weights.hex(),
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "processor": processor.decode(),
        "torch": torch_version.decode(),
        "version": version.decode(),
    }


def _in_order(ids: Ids, model: LanguageModel, alphabet: Alphabet) -> Ids:
    """Return a text's tokens in the order of reading; given those, in the order of the text."""
    return reverse(ids, mode=alphabet.mode) if model.direction == "backward" else ids


# What must be the same when a file is decompressed, and what is said where it is not; {0} there, {1} here.
_FACTS = {
    "charlm": None,  # Said alone: another version may well compute the same.
    "torch": "was compressed with torch {0}, and this is {1}, whose numbers may differ: pip install torch=={0}",
    "processor": None,
    "weights": "was compressed with another model (weights {0}; here {1}); name the one: charlm decompress --run RUN",
    "tokenizer": "was compressed with another tokenizer ({0}; here {1}); name the run: charlm decompress --run RUN",
    "arithmetic": "this machine computes other numbers than the one that compressed it did (arithmetic {0}; here {1}); "
    "decompress it there",
}


def _facts(coder: Any, network: _Network, streams: int) -> list[bytes]:
    """Return the values of `_FACTS` here and now."""
    alphabet = network.alphabet
    weights = hashlib.sha256(network.direction.encode())
    for name, tensor in named_weights(network.model):
        weights.update(name.encode())
        weights.update(tensor.detach().numpy().tobytes())
    rules = [
        alphabet.tokenizer.to_json(),
        alphabet.tokenizer.section.model_dump(),
        alphabet.mode,
        alphabet.separator,
    ]
    return [
        VERSION.encode(),
        torch.__version__.encode(),
        torch.backends.cpu.get_cpu_capability().encode(),
        weights.digest()[:4],
        _checksum(json.dumps(rules).encode(), size=4),
        _arithmetic(coder, network, streams),
    ]


def _arithmetic(coder: Any, network: _Network, streams: int) -> bytes:
    """Return a checksum of what this machine computes and codes for a few tokens, in the shape of the text's."""
    vocabulary_size = network.alphabet.tokenizer.vocabulary_size
    ids = np.arange(_PROBE_STEPS * streams) * 31 % vocabulary_size
    digest, family, encoder = (
        hashlib.sha256(),
        coder.model.Categorical(perfect=False),
        coder.queue.RangeEncoder(),
    )

    def turn(step: int, probabilities: Probabilities) -> Ids:
        digest.update(probabilities.tobytes())
        tokens = ids[step * streams : (step + 1) * streams]
        encoder.encode(tokens.astype(np.int32), family, probabilities)
        return tokens

    network.run(len(ids), streams, turn)
    digest.update(encoder.get_compressed().tobytes())
    return digest.digest()[:4]


def _check(there: Sequence[bytes], here: Sequence[bytes], name: str) -> None:
    for message, old, new in zip(_FACTS.values(), there, here, strict=True):
        if message is not None and old != new:
            shown = [
                value.hex() if len(value) == 4 else value.decode(errors="replace")
                for value in (old, new)
            ]
            raise CheckpointError(one_line(f"{name}: {message.format(*shown)}"))


def _deflate(data: bytes) -> bytes:
    if not data:
        return b""
    deflater = zlib.compressobj(9, wbits=-15)
    return deflater.compress(data) + deflater.flush()


def _inflate(data: bytes, name: str, *, most: int) -> bytes:
    """Return what was deflated: at most 1032 times as much, and no more than so many bytes."""
    if not data:
        return b""
    inflater = zlib.decompressobj(wbits=-15)
    try:
        found = inflater.decompress(data, most + 1)
    except (zlib.error, OverflowError):
        raise _damaged(name) from None
    if not inflater.eof or inflater.unused_data:
        raise _damaged(name)
    return found


def _checksum(data: bytes, *, size: int) -> bytes:
    return hashlib.sha256(data).digest()[:size]


def _number(value: int) -> bytes:
    """Return a number in LEB128: seven bits a byte, the lowest first, the high bit set on all but the last."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _number(rest) if rest else bytes([low])


def _sized(data: bytes) -> bytes:
    return _number(len(data)) + data


def _sealed(parts: Sequence[bytes]) -> bytes:
    body = b"".join(parts)
    return MAGIC + bytes([FORMAT]) + zlib.crc32(body).to_bytes(4, "little") + body


def _opened(data: bytes, name: str) -> "_Reader":
    """Return a reader of what a file holds, its checksum verified."""
    if not data.startswith(MAGIC):
        raise CharlmError(f"{name}: is no file that charlm compress made")
    reader = _Reader(data[len(MAGIC) :], name)
    form = reader.take(1)[0]
    if form != FORMAT:
        raise CharlmError(
            f"{name}: is of format {form}, and this charlm reads {FORMAT}; update charlm"
        )
    crc = int.from_bytes(reader.take(4), "little")
    body = reader.rest()
    if zlib.crc32(body) != crc:
        raise _damaged(name)
    return _Reader(body, name)


class _Reader:
    """Reads a file from its beginning to its end; what is not there is damage."""

    def __init__(self, data: bytes, name: str) -> None:
        """Begin to read."""
        self.name = name
        self._data, self._at = data, 0

    @property
    def size(self) -> int:
        """Bytes in all, read or not."""
        return len(self._data)

    @property
    def is_empty(self) -> bool:
        """Whether all was read."""
        return self._at >= len(self._data)

    def take(self, size: int) -> bytes:
        """Return the next so many bytes."""
        found = self._data[self._at : self._at + size]
        if len(found) != size:
            raise _damaged(self.name)
        self._at += size
        return found

    def rest(self) -> bytes:
        """Return all that was not read."""
        return self.take(len(self._data) - self._at)

    def number(self) -> int:
        """Return a number in LEB128 of at most 63 bits."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise _damaged(self.name)

    def sized(self) -> bytes:
        """Return bytes that come after their length."""
        return self.take(self.number())


def _damaged(name: str) -> CharlmError:
    return CharlmError(
        f"{name}: is damaged or cut short; take it from a backup, or compress the original again"
    )


def _decode(
    reader: "_Reader", model: LanguageModel, alphabet: Alphabet, length: int, report: Report
) -> Coded:
    """Return tokens and literals of the rest of a file."""
    coder = _coder()
    facts = [reader.sized() for _ in _FACTS]
    variant, streams, tokens, size = (reader.number() for _ in range(4))
    # A literal comes after its length, which takes no more bytes than itself.
    literals = _Reader(_inflate(reader.take(size), reader.name, most=2 * length), reader.name)
    words = reader.rest()
    if not 1 <= streams <= min(_MOST_STREAMS, tokens) or tokens > 2 * length + 1 or len(words) % 4:
        raise _damaged(reader.name)
    if tokens > _MOST_TOKENS_PER_BYTE * reader.size:
        raise _damaged(reader.name)
    with _same_arithmetic():
        network = _Network(model, alphabet)
        _check(facts, _facts(coder, network, streams), reader.name)
        decoder = coder.queue.RangeDecoder(np.frombuffer(words, dtype="<u4").astype(np.uint32))
        family = coder.model.Categorical(perfect=False)

        def turn(_: int, probabilities: Probabilities) -> Ids:
            try:
                decoded: Ids = decoder.decode(family, probabilities)
            except (
                AssertionError
            ):  # No encoder that was given these probabilities writes such words.
                raise _damaged(reader.name) from None
            return decoded

        ids = network.run(tokens, streams, turn, report)
    found = []
    while not literals.is_empty:
        found.append(literals.sized())
    return Coded(_in_order(ids, model, alphabet), found, bool(variant))
