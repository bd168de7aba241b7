r"""Text ↔ token ids, at the level of characters, bytes, words or subwords.

The file of record is Hugging Face's `tokenizer.json`: loaded with that library alone it gives the same ids.
Characters and bytes are encoded in bulk by a lookup table instead, to the same ids at memory speed.

    >>> from charlm.config.schema import Tokenizer as Section
    >>> tokenizer = learn_tokenizer(["to be or not to be"], Section(level="char"))
    >>> tokenizer.encode("bet").tolist()
    [3, 4, 8]
    >>> tokenizer.decode([3, 4, 8])
    'bet'
"""

import codecs
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from charlm.config.schema import VOCABULARY_SIZES
from charlm.config.schema import Tokenizer as TokenizerSection
from charlm.data.utf8 import starts_character
from charlm.errors import TokenizerError
from charlm.storage.untrusted import one_line, parse_json

Ids = npt.NDArray[np.integer[Any]]
EOS, UNK = 0, 1
EOS_TEXT, UNK_TEXT = "<EOS>", "<UNK>"

# A word with the one space before it; a mark with the one space before it; the end of a line; other spaces, the last
# of which is left to the word it precedes. Nothing reaches over a line's end, so that a text can be cut there.
_WORDS = r" ?[\p{L}\p{M}\p{N}_]+(?:['\u2019][\p{L}\p{M}\p{N}_]+)*| ?[^\s\p{L}\p{M}\p{N}_]|\n|[^\S\n]+(?!\S)|[^\S\n]"
_CODE_POINTS = 0x110000
_CHUNK = 1 << 14  # Characters.
_PART = 1 << 12  # Bytes.


class Tokenizer:
    """A tokenizer of one level, learnt from a text or loaded from `tokenizer.json`.

    Attributes:
        library: The Hugging Face tokenizer: what `tokenizer.json` holds.
        section: Its configuration.
        vocabulary_size: Number of ids, <EOS> and <UNK> among them.
    """

    def __init__(self, library: HuggingFaceTokenizer, section: TokenizerSection) -> None:
        """Wrap what the Hugging Face library has learnt or loaded."""
        self.library = library
        self.section = section
        self.vocabulary_size: int = library.get_vocab_size()

    def encode(self, text: str) -> Ids:
        """Return the ids of `text`, (tokens,).

        Raises:
            TokenizerError: The text has lone surrogates, so that it is not Unicode.
        """
        return self.encode_pieces([_as_utf8(text)], [False])

    def encode_pieces(self, pieces: Sequence[bytes], ends: Sequence[bool]) -> Ids:
        """Return the ids of pieces of text, one after another, with <EOS> after those that end something.

        Args:
            pieces: UTF-8; at level `byte`, any bytes.
            ends: Whether <EOS> follows, for each piece.
        """
        if self._table is not None:
            return self._bulk(self._table, pieces, np.asarray(ends))
        parts, last = [], []
        for piece, end in zip(pieces, ends, strict=True):
            cut = list(_cut_at_lines(piece))
            parts += cut
            last += [False] * (len(cut) - 1) + [end]
        eos = np.array([EOS])
        encodings = self.library.encode_batch_fast(
            [part.decode() for part in parts], add_special_tokens=False
        )
        encoded = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        return np.concatenate(
            [
                ids
                for piece, end in zip(encoded, last, strict=True)
                for ids in (piece, eos[: int(end)])
            ]
            or [eos[:0]]
        )

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; bytes that form no character become U+FFFD."""
        decoder = Decoder(self)
        return "".join(map(decoder.feed, ids)) + decoder.flush()

    def find_unknown(self, text: str) -> list[str]:
        """Return the characters or words of `text` that the tokenizer does not know, each once, in order.

        Raises:
            TokenizerError: The text has lone surrogates, so that it is not Unicode.
        """
        normal = self._normalized(_as_utf8(text).decode())
        if self.section.level == "word":
            ids = ((piece, self.library.token_to_id(piece)) for piece in self._pre_tokenize(normal))
            return list(
                dict.fromkeys(
                    piece.strip(" ") or piece for piece, index in ids if index in (None, UNK)
                )
            )
        if self.section.level == "char" and self._table is not None:
            return list(
                dict.fromkeys(letter for letter in normal if self._table[ord(letter)] == UNK)
            )
        return []  # Bytes and subwords know every text.

    def to_json(self) -> str:
        """Return the contents of `tokenizer.json`."""
        return self.library.to_str(pretty=True)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The UTF-8 bytes that each id stands for; none for <EOS>, the marker itself for <UNK>."""
        texts = [self.library.id_to_token(index) or "" for index in range(self.vocabulary_size)]
        if self.section.level in ("byte", "bpe"):
            letters = _byte_letters()
            found = [bytes(letters[letter] for letter in text) for text in texts[2:]]
        else:
            found = [text.encode() for text in texts[2:]]
        return [b"", UNK_TEXT.encode(), *found]

    def token_texts(self, *, eos: bytes | None = None, unknown: bytes = b"") -> list[bytes]:
        """Return the UTF-8 bytes that each id adds to a text when it follows another on a line.

        Unlike `token_bytes`, they include the space before a word where the tokenizer splits at
        spaces; the first word of a line has none.

        Args:
            eos: What <EOS> adds; by default what `decode` writes for it.
            unknown: What <UNK> stands for.
        """
        space = b" " if self.separates_by_space else b""
        texts = [space + token for token in self.token_bytes]
        texts[EOS] = self.decode([EOS]).encode() if eos is None else eos
        texts[UNK] = space + unknown if unknown else b""
        return texts

    @property
    def separates_by_space(self) -> bool:
        """Whether tokens are what stood between spaces, and <EOS> is the end of a line."""
        return self.section.level == "word" and self.section.words == "whitespace"

    @cached_property
    def _table(self) -> npt.NDArray[Any] | None:
        """Id of each code point (char) or byte (byte), in the smallest type; None at the other levels."""
        kind = id_dtype(self.vocabulary_size)
        if self.section.level == "byte":
            return np.arange(2, 258).astype(kind)
        if self.section.level == "char":
            table = np.full(_CODE_POINTS, UNK, dtype=kind)
            for token, index in self.library.get_vocab().items():
                if index not in (EOS, UNK):
                    table[ord(token)] = index
            return table
        return None

    def _bulk(
        self, table: npt.NDArray[Any], pieces: Sequence[bytes], ends: npt.NDArray[np.bool_]
    ) -> Ids:
        """Encode by table, all pieces in one."""
        if self.library.normalizer is not None:
            pieces = [self._normalized(piece.decode()).encode() for piece in pieces]
        joined = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        ids: Ids
        if self.section.level == "byte":
            # The table of bytes is 2, 3, 4, ...; in its type before the sum, or the last two would wrap around.
            ids = np.frombuffer(joined, dtype=np.uint8).astype(table.dtype) + table[0]
        elif table.itemsize == 1 and joined.isascii():
            ids = np.frombuffer(joined.translate(table[:256].tobytes()), dtype=table.dtype)
        else:
            ids = _look_up(table, joined.decode())
        if not ends.any():
            return ids
        lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        if len(ids) != len(joined):
            lengths = _in_characters(joined, lengths)
        return np.insert(ids, np.cumsum(lengths)[ends], EOS)

    def _normalized(self, text: str) -> str:
        normalizer = self.library.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    def _pre_tokenize(self, text: str) -> list[str]:
        splitter = self.library.pre_tokenizer
        return (
            [text] if splitter is None else [piece for piece, _ in splitter.pre_tokenize_str(text)]
        )


class Decoder:
    """Ids → text, one at a time: for printing a text while it is written."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Begin at the start of a text."""
        self._bytes = tokenizer.token_bytes
        self._spaced = tokenizer.separates_by_space
        # Where the end of a line is kept in the text, <EOS> after it says nothing more; documents it sets apart.
        self._eos = "\n" if self._spaced or tokenizer.section.eos == "document" else ""
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._line_starts = True

    def feed(self, token: int) -> str:
        """Return the text that `token` adds, less any bytes that wait for the rest of their character."""
        if token == EOS:
            self._line_starts = True
            return self.flush() + self._eos
        space = "" if self._line_starts or not self._spaced else " "
        self._line_starts = False
        return space + self._utf8.decode(self._bytes[token])

    def flush(self) -> str:
        """Return what still waits for the rest of its character."""
        return self._utf8.decode(b"", final=True)


def learn_tokenizer(blocks: Iterable[str], section: TokenizerSection) -> Tokenizer:
    """Learn a vocabulary from a text.

    Args:
        blocks: The training split, in blocks that end at line ends.
        section: Level and options.

    Raises:
        TokenizerError: The vocabulary cannot be as small as asked for.
    """
    file = _BLANK[section.level](section)
    if section.level == "char":
        file.model = _word_level(_character_vocabulary(file, blocks, section))
    elif section.level == "word":
        file = _learn_words(file, blocks, section)
    elif section.level == "bpe":
        file = _learn_bpe(file, blocks, section)
    return Tokenizer(file, section)


def load_tokenizer(text: str, section: TokenizerSection) -> Tokenizer:
    """Read the contents of a `tokenizer.json`.

    Raises:
        TokenizerError: It is damaged, or not one that charlm wrote.
    """
    try:
        facts = parse_json(text)
        model = facts["model"]
        vocabulary, merges = model["vocab"], [_pair(merge) for merge in model.get("merges", [])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(one_line(f"tokenizer.json: cannot be read: {error!r}")) from None
    if problem := _problem_of(vocabulary, section):
        raise TokenizerError(f"tokenizer.json: {problem}; charlm did not write this file")
    # Built anew from words alone: what a file says of how text is cut and changed could do anything, and never ends.
    try:
        made = (
            models.BPE(vocabulary, merges)
            if section.level in ("byte", "bpe")
            else _word_level(vocabulary)
        )
        file = _with_model(section, made)
        agrees = _agree(facts, file)
    except Exception as error:  # The library raises nothing narrower.
        raise TokenizerError(one_line(f"tokenizer.json: cannot be read: {error}")) from None
    if not agrees:
        raise TokenizerError(
            f"tokenizer.json: is not one of level {section.level} as the configuration has it, or charlm did not write "
            "it; take both from one run"
        )
    return Tokenizer(file, section)


def id_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """Return the smallest unsigned type that holds every id."""
    return np.min_scalar_type(vocabulary_size - 1)


def _pair(merge: Any) -> tuple[str, str]:
    """Return the two parts of a merge, which older files have in one text."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _problem_of(vocabulary: Any, section: TokenizerSection) -> str:
    """Return what is wrong with a vocabulary that was read; nothing, if it is one of this section."""
    if not isinstance(vocabulary, dict) or {type(index) for index in vocabulary.values()} != {int}:
        return "its vocabulary must give each token a number"
    if (vocabulary.get(EOS_TEXT), vocabulary.get(UNK_TEXT)) != (EOS, UNK):
        return "<EOS> must be 0 and <UNK> must be 1"
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        return "its tokens must be numbered from 0, without a gap"
    tokens = vocabulary.keys() - {EOS_TEXT, UNK_TEXT}
    if section.level == "char" and any(len(token) != 1 for token in tokens):
        return "at level char each token must be one character"
    letters = set(_byte_letters())
    if section.level == "byte" and (tokens != letters or vocabulary != _byte_vocabulary()):
        return "at level byte the tokens must be the bytes, in order"
    if section.level == "bpe" and not (
        letters <= tokens and all(letters.issuperset(token) for token in tokens)
    ):
        return "at level bpe the tokens must be bytes, all of them, and what is merged of them"
    return ""


def _agree(facts: dict[str, Any], file: HuggingFaceTokenizer) -> bool:
    """Return whether a tokenizer that was read has the parts that charlm gives it, vocabulary and merges apart.

    A later version of the library may write a part in another way, so that the library reads what was not as expected.
    """
    expected, found = (_without_words(each) for each in (json.loads(file.to_str()), facts))
    return (
        found == expected
        or json.loads(HuggingFaceTokenizer.from_str(json.dumps(found)).to_str()) == expected
    )


def _without_words(facts: dict[str, Any]) -> dict[str, Any]:
    empty: dict[str, Any] = {"vocab": {EOS_TEXT: EOS, UNK_TEXT: UNK}} | (
        {"merges": []} if "merges" in facts["model"] else {}
    )
    return facts | {"model": facts["model"] | empty}


def _word_level(vocabulary: dict[str, int]) -> Any:
    return models.WordLevel(vocabulary, unk_token=UNK_TEXT)


def _learn_words(
    file: HuggingFaceTokenizer, blocks: Iterable[str], section: TokenizerSection
) -> HuggingFaceTokenizer:
    size = _size(section) or 0
    trainer = trainers.WordLevelTrainer(
        vocab_size=size, min_frequency=section.min_count, show_progress=False
    )
    file.train_from_iterator(blocks, trainer)
    return _with_model(section, _word_level(_numbered(file, size)))


def _learn_bpe(
    file: HuggingFaceTokenizer, blocks: Iterable[str], section: TokenizerSection
) -> HuggingFaceTokenizer:
    size = _size(section) or 0
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
    file.train_from_iterator(blocks, trainer)
    merges = [tuple(pair) for pair in json.loads(file.to_str())["model"]["merges"]]
    return _with_model(section, models.BPE(_numbered(file, size), merges))


def _with_model(section: TokenizerSection, model: Any) -> HuggingFaceTokenizer:
    """Return a fresh tokenizer with this model: what a trainer leaves in the old one would be saved too."""
    file = _BLANK[section.level](section)
    file.model = model
    return file


def _numbered(file: HuggingFaceTokenizer, size: int) -> dict[str, int]:
    """Return the learnt vocabulary in its order, numbered after <EOS> and <UNK>.

    Those two are no special tokens to the library, or it would look for their names in the text itself.
    """
    learnt = sorted(file.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in learnt if token not in (EOS_TEXT, UNK_TEXT)][: size - 2]
    return {token: index for index, token in enumerate([EOS_TEXT, UNK_TEXT, *tokens])}


def _size(section: TokenizerSection) -> int | None:
    return section.vocabulary_size or VOCABULARY_SIZES[section.level]


def _character_vocabulary(
    file: HuggingFaceTokenizer, blocks: Iterable[str], section: TokenizerSection
) -> dict[str, int]:
    """Return the most frequent characters, in the order of their code points."""
    counts = np.zeros(_CODE_POINTS, dtype=np.int64)
    for block in blocks:
        text = block if file.normalizer is None else file.normalizer.normalize_str(block)
        found = np.bincount(np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32))
        counts[: len(found)] += found
    known = np.flatnonzero(counts >= section.min_count)
    if section.vocabulary_size is not None:
        frequent_first = np.argsort(-counts[known], kind="stable")
        known = np.sort(known[frequent_first[: section.vocabulary_size - 2]])
    return {EOS_TEXT: EOS, UNK_TEXT: UNK} | {
        chr(point): 2 + rank for rank, point in enumerate(known)
    }


def _blank_char(section: TokenizerSection) -> HuggingFaceTokenizer:
    file = HuggingFaceTokenizer(_word_level({EOS_TEXT: EOS, UNK_TEXT: UNK}))
    file.normalizer = _normalizer(section)
    file.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    file.decoder = decoders.Fuse()
    return file


def _blank_word(section: TokenizerSection) -> HuggingFaceTokenizer:
    file = HuggingFaceTokenizer(_word_level({EOS_TEXT: EOS, UNK_TEXT: UNK}))
    if section.words == "words":
        file.normalizer = _normalizer(section)
        file.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), "isolated")
        file.decoder = decoders.Fuse()
        return file
    own_unknown = normalizers.Replace(Regex(r"(?<!\S)<unk>(?!\S)"), UNK_TEXT)
    line_end = normalizers.Replace("\n", f" {EOS_TEXT} ")
    file.normalizer = _normalizer(section, own_unknown, line_end)
    file.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return file


def _blank_bytes(section: TokenizerSection) -> HuggingFaceTokenizer:
    """Return a tokenizer of single bytes: subwords with nothing merged."""
    file = HuggingFaceTokenizer(models.BPE(_byte_vocabulary(), []))
    file.normalizer = _normalizer(section) if section.level == "bpe" else None
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    file.pre_tokenizer = (
        whole if section.level == "byte" else pre_tokenizers.Sequence([words, whole])
    )
    file.decoder = decoders.ByteLevel()
    return file


_BLANK = {"char": _blank_char, "word": _blank_word, "byte": _blank_bytes, "bpe": _blank_bytes}


def _normalizer(section: TokenizerSection, *more: Any) -> Any:
    """Return what changes a text before it is split, or None where nothing does."""
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


def _byte_letters() -> dict[str, int]:
    """Return the byte that each letter of the byte-level alphabet stands for (Radford et al. 2019).

    Printable bytes of Latin-1 stand for themselves, the others for the code points from 256 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + rank): byte for rank, byte in enumerate(others)
    }


def _byte_vocabulary() -> dict[str, int]:
    letters = sorted(_byte_letters().items(), key=lambda item: item[1])
    return {EOS_TEXT: EOS, UNK_TEXT: UNK} | {letter: 2 + byte for letter, byte in letters}


def _cut_at_lines(piece: bytes) -> Iterator[bytes]:
    """Yield a text in parts that end at a line's end where they can: the library is slower on what is longer."""
    start = 0
    while len(piece) - start > _PART and (found := piece.find(b"\n", start + _PART)) >= 0:
        yield piece[start : found + 1]
        start = found + 1
    yield piece[start:]


def _look_up(table: npt.NDArray[Any], text: str) -> Ids:
    """Return the table's entry for each code point, in chunks that stay in the processor's cache."""
    chunks = (text[at : at + _CHUNK].encode("utf-32-le") for at in range(0, len(text), _CHUNK))
    found = [table.take(np.frombuffer(chunk, dtype=np.int32), mode="clip") for chunk in chunks]
    return np.concatenate(found) if found else table[:0]


def _in_characters(joined: bytes, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the lengths of adjoining pieces of UTF-8 in characters, given in bytes."""
    before = np.concatenate([[0], np.cumsum(starts_character(joined))])
    seams: npt.NDArray[np.int64] = before[np.concatenate([[0], np.cumsum(lengths)])]
    return np.diff(seams)


def _as_utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"character {error.start} of the text ({error.object[error.start]!r}) is not "
            "Unicode; give it in UTF-8"
        ) from None


def decode_blocks(blocks: Iterable[tuple[bytes, bool]]) -> Iterator[str]:
    """Return blocks of UTF-8 as text."""
    return (block.decode() for block, _ in blocks)
