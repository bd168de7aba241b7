r"""Text ↔ token ids, at the level of characters, bytes, words or subwords.

A tokenizer is saved as Hugging Face's `tokenizer.json`; loaded with that library alone, the file
gives the same ids. Characters and bytes are encoded with a lookup table instead of the library: the
ids are the same, and the speed is that of memory.

    >>> from charlm.config.schema import Tokenizer as Section
    >>> tokenizer = learn_tokenizer(["to be or not to be"], Section(level="char"))
    >>> tokenizer.encode("bet").tolist()
    [3, 4, 8]
    >>> tokenizer.decode([3, 4, 8])
    'bet'
"""

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from charlm.config.tokenizer import VOCABULARY_SIZES
from charlm.config.tokenizer import Tokenizer as TokenizerSection
from charlm.data.utf8 import starts_character
from charlm.errors import TokenizerError
from charlm.storage.untrusted import one_line, parse_json

Ids = npt.NDArray[np.integer[Any]]
EOS, UNK = 0, 1
EOS_TEXT, UNK_TEXT = "<EOS>", "<UNK>"

_LETTER = r"[\p{L}\p{M}\p{N}_]"
# No token crosses a line end, so a text can be cut there.
_WORDS = "|".join(
    [
        rf" ?{_LETTER}+(?:['\u2019]{_LETTER}+)*",  # A word with one space before it.
        r" ?[^\s\p{L}\p{M}\p{N}_]",  # A punctuation mark with one space before it.
        r"\n",
        r"[^\S\n]+(?!\S)",  # Other spaces; the last one belongs to the word after it.
        r"[^\S\n]",
    ]
)
_NUM_CODE_POINTS = 0x110000
_CHUNK_CHARACTERS = 1 << 14
_PART_BYTES = 1 << 12


class Tokenizer:
    """A tokenizer of one level, learned from a text or loaded from `tokenizer.json`.

    Attributes:
        library: Hugging Face tokenizer that `tokenizer.json` contains.
        section: Tokenizer section of the configuration.
        vocabulary_size: Number of ids, including <EOS> and <UNK>.
    """

    def __init__(self, library: HuggingFaceTokenizer, section: TokenizerSection) -> None:
        """Wrap a Hugging Face tokenizer."""
        self.library = library
        self.section = section
        self.vocabulary_size: int = library.get_vocab_size()

    def encode(self, text: str) -> Ids:
        """Return the ids of `text`, (tokens,).

        Raises:
            TokenizerError: The text has lone surrogates, so it is not Unicode.
        """
        return self.encode_pieces([_to_utf8(text)], [False])

    def encode_pieces(self, pieces: Sequence[bytes], ends: Sequence[bool]) -> Ids:
        """Return the ids of several pieces of text, concatenated, (tokens,).

        Args:
            pieces: UTF-8 text; at level `byte`, any bytes.
            ends: For each piece, whether <EOS> follows it.
        """
        if self._table is not None:
            return self._encode_by_table(self._table, pieces, np.asarray(ends))
        return self._encode_by_library(pieces, ends)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; bytes that are not valid UTF-8 become U+FFFD."""
        decoder = Decoder(self)
        return "".join(map(decoder.feed, ids)) + decoder.flush()

    def find_unknown(self, text: str) -> list[str]:
        """Return the distinct characters or words of `text` without an id, in order.

        Raises:
            TokenizerError: The text has lone surrogates, so it is not Unicode.
        """
        return list(self.count_unknown(text))

    def count_unknown(self, text: str) -> Counter[str]:
        """Return the number of each character or word of `text` without an id, by first occurrence.

        Raises:
            TokenizerError: As for `find_unknown`.
        """
        normalized = self.normalize(_to_utf8(text).decode())
        unknown: Iterable[str] = []  # Bytes and subwords represent every text.
        if self.section.level == "word":
            unknown = (
                word.strip(" ") or word
                for word in self.pre_tokenize(normalized)
                if self.library.token_to_id(word) in (None, UNK)
            )
        elif self.section.level == "char" and self._table is not None:
            table = self._table
            unknown = (character for character in normalized if table[ord(character)] == UNK)
        return Counter(unknown)

    def normalize(self, text: str) -> str:
        """Return the text after the tokenizer's normalization: Unicode form, case, markers."""
        normalizer = self.library.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def pre_tokenize(self, text: str) -> list[str]:
        """Return the words of a normalized text."""
        splitter = self.library.pre_tokenizer
        if splitter is None:
            return [text]
        return [word for word, _ in splitter.pre_tokenize_str(text)]

    def to_json(self) -> str:
        """Return the contents of `tokenizer.json`."""
        return self.library.to_str(pretty=True)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """UTF-8 bytes of each id; empty for <EOS>, and the marker "<UNK>" for <UNK>."""
        texts = [self.library.id_to_token(index) or "" for index in range(2, self.vocabulary_size)]
        if self.section.level in ("byte", "bpe"):
            byte_of = _byte_alphabet()
            tokens = [bytes(byte_of[letter] for letter in text) for text in texts]
        else:
            tokens = [text.encode() for text in texts]
        return [b"", UNK_TEXT.encode(), *tokens]

    def token_texts(self, *, eos: bytes | None = None, unknown: bytes = b"") -> list[bytes]:
        """Return the UTF-8 bytes that each id adds to a text when it follows another on a line.

        Unlike `token_bytes`, they include the space before a word where the tokenizer splits at
        spaces; the first word of a line has none.

        Args:
            eos: Bytes that <EOS> adds; by default those that `decode` writes for it.
            unknown: Bytes that <UNK> adds.
        """
        space = b" " if self.separates_by_space else b""
        texts = [space + token for token in self.token_bytes]
        texts[EOS] = self.decode([EOS]).encode() if eos is None else eos
        texts[UNK] = space + unknown if unknown else b""
        return texts

    @property
    def separates_by_space(self) -> bool:
        """Whether spaces separate tokens, and <EOS> is the end of a line."""
        return self.section.level == "word" and self.section.words == "whitespace"

    @cached_property
    def _table(self) -> npt.NDArray[Any] | None:
        """Id of each code point (char) or byte (byte), in the smallest type; else None."""
        dtype = id_dtype(self.vocabulary_size)
        if self.section.level == "byte":
            return np.arange(2, 258).astype(dtype)
        if self.section.level == "char":
            table = np.full(_NUM_CODE_POINTS, UNK, dtype=dtype)
            for token, index in self.library.get_vocab().items():
                if index not in (EOS, UNK):
                    table[ord(token)] = index
            return table
        return None

    def _encode_by_table(
        self, table: npt.NDArray[Any], pieces: Sequence[bytes], ends: npt.NDArray[np.bool_]
    ) -> Ids:
        if self.library.normalizer is not None:
            pieces = [self.normalize(piece.decode()).encode() for piece in pieces]
        joined = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        ids: Ids
        if self.section.level == "byte":
            # The table is 2, 3, 4, ...; convert before the sum, or the last two bytes would wrap.
            ids = np.frombuffer(joined, dtype=np.uint8).astype(table.dtype) + table[0]
        elif table.itemsize == 1 and joined.isascii():
            ids = np.frombuffer(joined.translate(table[:256].tobytes()), dtype=table.dtype)
        else:
            ids = _look_up(table, joined.decode())
        if not ends.any():
            return ids
        lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        if len(ids) != len(joined):
            lengths = _lengths_in_characters(joined, lengths)
        return np.insert(ids, np.cumsum(lengths)[ends], EOS)

    def _encode_by_library(self, pieces: Sequence[bytes], ends: Sequence[bool]) -> Ids:
        parts: list[str] = []
        eos_after: list[bool] = []
        for piece, end in zip(pieces, ends, strict=True):
            cut = [part.decode() for part in _cut_at_lines(piece)]
            parts += cut
            eos_after += [False] * (len(cut) - 1) + [end]
        encodings = self.library.encode_batch_fast(parts, add_special_tokens=False)
        arrays = [np.zeros(0, dtype=np.int64)]
        for encoding, end in zip(encodings, eos_after, strict=True):
            arrays.append(np.array(encoding.ids, dtype=np.int64))
            if end:
                arrays.append(np.array([EOS]))
        return np.concatenate(arrays)


class Decoder:
    """Ids → text, one id at a time, to print a text while it is generated."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Begin at the start of a text."""
        self._token_bytes = tokenizer.token_bytes
        self._adds_spaces = tokenizer.separates_by_space
        # After a line <EOS> adds nothing, because the text has its own line end.
        self._eos = "\n" if self._adds_spaces or tokenizer.section.eos == "document" else ""
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._starts_line = True

    def feed(self, token: int) -> str:
        """Return the text that `token` adds, without an incomplete character at its end."""
        if token == EOS:
            self._starts_line = True
            return self.flush() + self._eos
        space = " " if self._adds_spaces and not self._starts_line else ""
        self._starts_line = False
        return space + self._utf8.decode(self._token_bytes[token])

    def flush(self) -> str:
        """Return the incomplete character at the end of the text, as U+FFFD."""
        return self._utf8.decode(b"", final=True)


def learn_tokenizer(blocks: Iterable[str], section: TokenizerSection) -> Tokenizer:
    """Learn a vocabulary from a text.

    Args:
        blocks: Training part, in blocks that end at line ends.
        section: Level and options.

    Raises:
        TokenizerError: The vocabulary size is too small.
    """
    library = _NEW_LIBRARY[section.level](section)
    if section.level == "char":
        library.model = _word_level(_character_vocabulary(library, blocks, section))
    elif section.level == "word":
        library = _learn_words(library, blocks, section)
    elif section.level == "bpe":
        library = _learn_subwords(library, blocks, section)
    return Tokenizer(library, section)


def load_tokenizer(text: str, section: TokenizerSection) -> Tokenizer:
    """Load a tokenizer from the contents of an untrusted `tokenizer.json`.

    Only the vocabulary and the merges are taken from the file. Everything else must be what charlm
    writes for `section`, because a regular expression of an attacker could run without end.

    Args:
        text: Contents of the file.
        section: Level and options.

    Raises:
        TokenizerError: The file is damaged, or was not written by charlm.
    """
    try:
        saved = parse_json(text)
        vocabulary = saved["model"]["vocab"]
        merges = [_merge_pair(merge) for merge in saved["model"].get("merges", [])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(one_line(f"tokenizer.json: cannot be read: {error!r}")) from None
    if problem := _vocabulary_problem(vocabulary, section):
        raise TokenizerError(f"tokenizer.json: {problem}; it was not written by charlm")
    try:
        library = _library_of(section, vocabulary, merges)
        is_ours = _has_same_parts(saved, library)
    except Exception as error:  # The library raises nothing narrower.
        raise TokenizerError(one_line(f"tokenizer.json: cannot be read: {error}")) from None
    if not is_ours:
        raise TokenizerError(
            f"tokenizer.json: does not match level {section.level} of the configuration, or was "
            "not written by charlm; take both files from one run"
        )
    return Tokenizer(library, section)


def with_tokens(
    tokenizer: Tokenizer, tokens: Sequence[str], merges: Sequence[tuple[str, str]] = ()
) -> Tokenizer:
    """Return a tokenizer with more tokens behind those that it has, whose ids stay the same.

    Args:
        tokenizer: Tokenizer to extend.
        tokens: New tokens, as `tokenizer.json` writes them.
        merges: Level `bpe`: merges that make the new tokens. They apply after all others.
    """
    vocabulary = tokenizer.library.get_vocab()
    vocabulary |= {token: len(vocabulary) + rank for rank, token in enumerate(tokens)}
    all_merges = [*_merges_of(tokenizer.library), *merges]
    library = _library_of(tokenizer.section, vocabulary, all_merges)
    return Tokenizer(library, tokenizer.section)


def id_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """Return the smallest unsigned integer type that can represent every id."""
    return np.min_scalar_type(vocabulary_size - 1)


def decode_blocks(blocks: Iterable[tuple[bytes, bool]]) -> Iterator[str]:
    """Yield the text of blocks of UTF-8, as `Text.blocks` yields them."""
    return (block.decode() for block, _ in blocks)


def _merges_of(library: HuggingFaceTokenizer) -> list[tuple[str, str]]:
    """Return the merges of a tokenizer, in their order; empty except for subwords."""
    return [_merge_pair(merge) for merge in json.loads(library.to_str())["model"].get("merges", [])]


def _merge_pair(merge: Any) -> tuple[str, str]:
    """Return the two parts of a merge, which older files write as one string."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _vocabulary_problem(vocabulary: Any, section: TokenizerSection) -> str:
    """Return why a vocabulary is invalid; an empty text if it is valid."""
    if not isinstance(vocabulary, dict) or {type(index) for index in vocabulary.values()} != {int}:
        return "the vocabulary must give every token an integer id"
    if (vocabulary.get(EOS_TEXT), vocabulary.get(UNK_TEXT)) != (EOS, UNK):
        return "<EOS> must be 0 and <UNK> must be 1"
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        return "the ids must be 0, 1, 2, ... without a gap"
    tokens = vocabulary.keys() - {EOS_TEXT, UNK_TEXT}
    if section.level == "char" and any(len(token) != 1 for token in tokens):
        return "at level char every token must be one character"
    letters = set(_byte_alphabet())
    if section.level == "byte" and (tokens != letters or vocabulary != _byte_vocabulary()):
        return "at level byte the tokens must be the bytes, in order"
    if section.level == "bpe" and not (
        letters <= tokens and all(letters.issuperset(token) for token in tokens)
    ):
        return "at level bpe the tokens must be all bytes, and merges of them"
    return ""


def _library_of(
    section: TokenizerSection, vocabulary: dict[str, int], merges: list[tuple[str, str]]
) -> HuggingFaceTokenizer:
    """Return a Hugging Face tokenizer for a vocabulary and merges."""
    if section.level in ("byte", "bpe"):
        return _with_model(section, models.BPE(vocabulary, merges))
    return _with_model(section, _word_level(vocabulary))


def _has_same_parts(saved: dict[str, Any], library: HuggingFaceTokenizer) -> bool:
    """Return whether a saved tokenizer equals `library`, apart from vocabulary and merges.

    Another version of the library may write a part differently, so a difference is checked again
    after the library has read and rewritten the file.
    """
    expected = _without_vocabulary(json.loads(library.to_str()))
    actual = _without_vocabulary(saved)
    if actual == expected:
        return True
    rewritten = HuggingFaceTokenizer.from_str(json.dumps(actual)).to_str()
    return bool(json.loads(rewritten) == expected)


def _without_vocabulary(data: dict[str, Any]) -> dict[str, Any]:
    empty: dict[str, Any] = {"vocab": {EOS_TEXT: EOS, UNK_TEXT: UNK}}
    if "merges" in data["model"]:
        empty["merges"] = []
    return data | {"model": data["model"] | empty}


def _word_level(vocabulary: dict[str, int]) -> Any:
    return models.WordLevel(vocabulary, unk_token=UNK_TEXT)


def _learn_words(
    library: HuggingFaceTokenizer, blocks: Iterable[str], section: TokenizerSection
) -> HuggingFaceTokenizer:
    size = _vocabulary_size(section)
    trainer = trainers.WordLevelTrainer(
        vocab_size=size, min_frequency=section.min_count, show_progress=False
    )
    library.train_from_iterator(blocks, trainer)
    return _with_model(section, _word_level(_learned_vocabulary(library, size)))


def _learn_subwords(
    library: HuggingFaceTokenizer, blocks: Iterable[str], section: TokenizerSection
) -> HuggingFaceTokenizer:
    size = _vocabulary_size(section)
    if size < 258:
        raise TokenizerError(
            f"tokenizer.vocabulary_size must be at least 258 for bpe (all bytes), got {size}"
        )
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2,
        min_frequency=max(2, section.min_count),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    library.train_from_iterator(blocks, trainer)
    return _with_model(section, models.BPE(_learned_vocabulary(library, size), _merges_of(library)))


def _with_model(section: TokenizerSection, model: Any) -> HuggingFaceTokenizer:
    """Return a new tokenizer with this model, without the settings that a trainer leaves."""
    library = _NEW_LIBRARY[section.level](section)
    library.model = model
    return library


def _learned_vocabulary(library: HuggingFaceTokenizer, size: int) -> dict[str, int]:
    """Return the learned tokens in order, with ids after those of <EOS> and <UNK>.

    <EOS> and <UNK> are not special tokens of the library, which would search the text for them.
    """
    learned = sorted(library.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in learned if token not in (EOS_TEXT, UNK_TEXT)][: size - 2]
    return {token: index for index, token in enumerate([EOS_TEXT, UNK_TEXT, *tokens])}


def _vocabulary_size(section: TokenizerSection) -> int:
    return section.vocabulary_size or VOCABULARY_SIZES[section.level] or 0


def _character_vocabulary(
    library: HuggingFaceTokenizer, blocks: Iterable[str], section: TokenizerSection
) -> dict[str, int]:
    """Return the most frequent characters, in the order of their code points."""
    counts = np.zeros(_NUM_CODE_POINTS, dtype=np.int64)
    for block in blocks:
        text = block if library.normalizer is None else library.normalizer.normalize_str(block)
        block_counts = np.bincount(np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32))
        counts[: len(block_counts)] += block_counts
    known = np.flatnonzero(counts >= section.min_count)
    if section.vocabulary_size is not None:
        frequent_first = np.argsort(-counts[known], kind="stable")
        known = np.sort(known[frequent_first[: section.vocabulary_size - 2]])
    characters = {chr(point): 2 + rank for rank, point in enumerate(known)}
    return {EOS_TEXT: EOS, UNK_TEXT: UNK} | characters


def _new_character_library(section: TokenizerSection) -> HuggingFaceTokenizer:
    library = HuggingFaceTokenizer(_word_level({EOS_TEXT: EOS, UNK_TEXT: UNK}))
    library.normalizer = make_normalizer(section)
    library.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    library.decoder = decoders.Fuse()
    return library


def _new_word_library(section: TokenizerSection) -> HuggingFaceTokenizer:
    library = HuggingFaceTokenizer(_word_level({EOS_TEXT: EOS, UNK_TEXT: UNK}))
    if section.words == "words":
        library.normalizer = make_normalizer(section)
        library.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), "isolated")
        library.decoder = decoders.Fuse()
        return library
    # Corpora such as the Penn Treebank write unknown words as <unk>.
    unknown_words = normalizers.Replace(Regex(r"(?<!\S)<unk>(?!\S)"), UNK_TEXT)
    line_ends = normalizers.Replace("\n", f" {EOS_TEXT} ")
    library.normalizer = make_normalizer(section, unknown_words, line_ends)
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return library


def _new_byte_library(section: TokenizerSection) -> HuggingFaceTokenizer:
    """Return a tokenizer of single bytes, which is one of subwords without merges."""
    library = HuggingFaceTokenizer(models.BPE(_byte_vocabulary(), []))
    library.normalizer = make_normalizer(section) if section.level == "bpe" else None
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    is_byte = section.level == "byte"
    library.pre_tokenizer = to_bytes if is_byte else pre_tokenizers.Sequence([words, to_bytes])
    library.decoder = decoders.ByteLevel()
    return library


_NEW_LIBRARY = {
    "char": _new_character_library,
    "word": _new_word_library,
    "byte": _new_byte_library,
    "bpe": _new_byte_library,
}


def make_normalizer(section: TokenizerSection, *more: Any) -> Any:
    """Return the normalization before a text is split, or None without one.

    Args:
        section: Unicode form, and whether to convert to lower case.
        more: Steps after these.
    """
    forms = {
        "nfc": normalizers.NFC,
        "nfd": normalizers.NFD,
        "nfkc": normalizers.NFKC,
        "nfkd": normalizers.NFKD,
    }
    steps = [forms[section.normalization]()] if section.normalization != "none" else []
    steps += [normalizers.Lowercase()] if section.lowercase else []
    steps += more
    return normalizers.Sequence(steps) if steps else None


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each letter of the byte-level alphabet (Radford et al. 2019).

    The printable bytes of Latin-1 are their own letters; the others are the code points from 256
    on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + rank): byte for rank, byte in enumerate(others)
    }


def _byte_vocabulary() -> dict[str, int]:
    letters = sorted(_byte_alphabet().items(), key=lambda item: item[1])
    return {EOS_TEXT: EOS, UNK_TEXT: UNK} | {letter: 2 + byte for letter, byte in letters}


def _cut_at_lines(piece: bytes) -> Iterator[bytes]:
    """Yield a text in parts that end at line ends, because the library is slow on long texts."""
    start = 0
    while len(piece) - start > _PART_BYTES:
        line_end = piece.find(b"\n", start + _PART_BYTES)
        if line_end < 0:
            break
        yield piece[start : line_end + 1]
        start = line_end + 1
    yield piece[start:]


def _look_up(table: npt.NDArray[Any], text: str) -> Ids:
    """Return the table's entry for each code point, in chunks that fit the processor's cache."""
    ids = [table[:0]]
    for start in range(0, len(text), _CHUNK_CHARACTERS):
        chunk = text[start : start + _CHUNK_CHARACTERS].encode("utf-32-le")
        ids.append(table.take(np.frombuffer(chunk, dtype=np.int32), mode="clip"))
    return np.concatenate(ids)


def _lengths_in_characters(joined: bytes, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the lengths of adjacent pieces of UTF-8 in characters, given those in bytes."""
    characters_before = np.concatenate([[0], np.cumsum(starts_character(joined))])
    bounds: npt.NDArray[np.int64] = characters_before[np.concatenate([[0], np.cumsum(lengths)])]
    return np.diff(bounds)


def _to_utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"character {error.start} of the text ({error.object[error.start]!r}) is not "
            "Unicode; give the text in UTF-8"
        ) from None
