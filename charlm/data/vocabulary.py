"""The vocabulary of a tokenizer: learned from a text, loaded from a file, or extended.

Each level has its Hugging Face tokenizer, whose vocabulary, merges and normalization are set here.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from charlm.config.tokenizer import VOCABULARY_SIZES
from charlm.config.tokenizer import Tokenizer as TokenizerSection
from charlm.data.tokenizer import (
    EOS,
    EOS_TEXT,
    NUM_CODE_POINTS,
    UNK,
    UNK_TEXT,
    Tokenizer,
    byte_alphabet,
)
from charlm.errors import TokenizerError
from charlm.storage.untrusted import one_line, parse_json

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


def decode_blocks(blocks: Iterable[tuple[bytes, bool]]) -> Iterator[str]:
    """Yield the text of blocks of UTF-8, as `Text.blocks` yields them."""
    return (block.decode() for block, _ in blocks)


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
    letters = set(byte_alphabet())
    if section.level == "byte" and (tokens != letters or vocabulary != _byte_vocabulary()):
        return "at level byte the tokens must be the bytes, in order"
    if section.level == "bpe" and not (
        letters <= tokens and all(letters.issuperset(token) for token in tokens)
    ):
        return "at level bpe the tokens must be all bytes, and merges of them"
    return ""


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


def _library_of(
    section: TokenizerSection, vocabulary: dict[str, int], merges: list[tuple[str, str]]
) -> HuggingFaceTokenizer:
    """Return a Hugging Face tokenizer for a vocabulary and merges."""
    if section.level in ("byte", "bpe"):
        return _with_model(section, models.BPE(vocabulary, merges))
    return _with_model(section, _word_level(vocabulary))


def _merges_of(library: HuggingFaceTokenizer) -> list[tuple[str, str]]:
    """Return the merges of a tokenizer, in their order; empty except for subwords."""
    return [_merge_pair(merge) for merge in json.loads(library.to_str())["model"].get("merges", [])]


def _character_vocabulary(
    library: HuggingFaceTokenizer, blocks: Iterable[str], section: TokenizerSection
) -> dict[str, int]:
    """Return the most frequent characters, in the order of their code points."""
    counts = np.zeros(NUM_CODE_POINTS, dtype=np.int64)
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


def _learned_vocabulary(library: HuggingFaceTokenizer, size: int) -> dict[str, int]:
    """Return the learned tokens in order, with ids after those of <EOS> and <UNK>.

    <EOS> and <UNK> are not special tokens of the library, which would search the text for them.
    """
    learned = sorted(library.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in learned if token not in (EOS_TEXT, UNK_TEXT)][: size - 2]
    return {token: index for index, token in enumerate([EOS_TEXT, UNK_TEXT, *tokens])}


def _vocabulary_size(section: TokenizerSection) -> int:
    return section.vocabulary_size or VOCABULARY_SIZES[section.level] or 0


def _with_model(section: TokenizerSection, model: Any) -> HuggingFaceTokenizer:
    """Return a new tokenizer with this model, without the settings that a trainer leaves."""
    library = _NEW_LIBRARY[section.level](section)
    library.model = model
    return library


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


def _word_level(vocabulary: dict[str, int]) -> Any:
    return models.WordLevel(vocabulary, unk_token=UNK_TEXT)


def _byte_vocabulary() -> dict[str, int]:
    letters = sorted(byte_alphabet().items(), key=lambda item: item[1])
    return {EOS_TEXT: EOS, UNK_TEXT: UNK} | {letter: 2 + byte for letter, byte in letters}
