"""A vocabulary that grows for another text: ids stay the same, and unknown tokens are appended.

Tokens of two texts are matched by their text, never by their id. With ids matched, a model would
read another alphabet, or the same one in another order, as a substitution cipher.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from charlm.data.tokenizer import UNK, Tokenizer
from charlm.data.vocabulary import learn_tokenizer, with_tokens

# At level bpe, a character that is rarer than this stays divided into its bytes.
_MIN_CHARACTER_COUNT = 2


def grow(tokenizer: Tokenizer, blocks: Iterable[str]) -> Tokenizer:
    """Return a tokenizer that also has the tokens of another text.

    At the levels `char` and `word`, these are the tokens that a vocabulary learned from that text
    with the same settings has, and `tokenizer` does not. At level `bpe`, which can write every
    text, they are the text's characters of several bytes; no other merge is learned. At level
    `byte` nothing can be added.

    Args:
        tokenizer: Tokenizer to extend.
        blocks: Training part of the other text, in blocks that end at line ends.
    """
    level = tokenizer.section.level
    if level == "byte":
        return tokenizer
    if level == "bpe":
        return _with_characters(tokenizer, blocks)
    learned = learn_tokenizer(blocks, tokenizer.section).library.get_vocab()
    known = tokenizer.library.get_vocab()
    return with_tokens(
        tokenizer,
        [token for token in sorted(learned, key=learned.__getitem__) if token not in known],
    )


def relatives(grown: Tokenizer, num_old: int) -> list[int | None]:
    """Return for each new token the old token that it resembles most; None if there is none.

    These are, in this order: the same text in another case, in its compatibility form
    (Unicode NFKC), and without diacritics, each also in another case.

    Args:
        grown: Tokenizer with the new tokens.
        num_old: Number of tokens before it grew.
    """
    # Bytes that are no whole character resemble nothing.
    texts = [token.decode(errors="ignore") for token in grown.token_bytes]
    old_ids = {text: index for index, text in enumerate(texts[:num_old]) if text and index != UNK}
    return [
        next((old_ids[form] for form in _related_forms(text) if form in old_ids), None)
        for text in texts[num_old:]
    ]


def _related_forms(text: str) -> Iterator[str]:
    """Yield the forms of a token's text, the most similar first."""
    compatible = unicodedata.normalize("NFKC", text)
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    for form in filter(None, (text, compatible, plain)):
        yield form
        yield form.lower()
        yield form.upper()
        yield form.title()


def _with_characters(tokenizer: Tokenizer, blocks: Iterable[str]) -> Tokenizer:
    """Return a tokenizer of subwords in which each frequent character is one token."""
    counts: Counter[str] = Counter()
    for block in blocks:
        counts.update(tokenizer.normalize(block))
    least = max(_MIN_CHARACTER_COUNT, tokenizer.section.min_count)
    tokens: dict[str, None] = {}
    merges: list[tuple[str, str]] = []
    for character in sorted(character for character, count in counts.items() if count >= least):
        ids = tokenizer.encode(character).tolist()
        merged, *rest = [tokenizer.library.id_to_token(index) or "" for index in ids]
        for piece in rest:
            if merged + piece not in tokens:
                tokens[merged + piece] = None
                merges.append((merged, piece))
            merged += piece
    return with_tokens(tokenizer, list(tokens), merges)
