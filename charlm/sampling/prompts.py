"""Prompts, and texts to stop at or to ban: read, and checked against what a model can write."""

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from charlm.data.tokenizer import Tokenizer
from charlm.errors import UnsupportedOptionError, quote
from charlm.sampling.options import StopCondition
from charlm.trained_model import Trained, TrainedModel

_LISTED = 8  # Unknown characters or words that an error message lists.
# Characters that a keyboard writes, and those that printed texts have in their place.
_PRINTED = {'"': "“”„«»", "'": "\u2019\u2018", "-": "\u2013\u2014"}
_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")


@dataclass(frozen=True)
class Prompt:
    """A prompt as a model reads it.

    Attributes:
        ids: Ids, in the order of the text.
        pending: End of the prompt that the first new token begins with: a space, at the levels
            where a token includes the space before it; else empty.
    """

    ids: list[int]
    pending: str = ""


def read_prompt(
    trained: Trained[Any], prompt: str, *, allow_unknown: bool, option: str = "prompt"
) -> Prompt:
    """Return a prompt as a model reads it.

    Args:
        trained: Model that reads the prompt.
        prompt: Text without <EOS>.
        allow_unknown: Whether characters or words that the model does not know are read as <UNK>.
        option: Name of the option that the prompt came from, for the error message.

    Raises:
        UnsupportedOptionError: The prompt has unknown characters or words, and that is not allowed.
    """
    space = " " if trained.is_forward and joins_spaces(trained.tokenizer) else ""
    pending = space if prompt.endswith(space) else ""
    text = prompt.removesuffix(pending)
    if trained.tokenizer.find_unknown("\r"):  # The prompt is a file of Windows, the text is not.
        text = text.replace("\r\n", "\n")
    unknown = trained.tokenizer.find_unknown(text)
    if unknown and not allow_unknown:
        raise UnsupportedOptionError(
            option, _describe_unknown(trained.tokenizer, text, unknown), others=["allow_unknown"]
        )
    return Prompt(trained.tokenizer.encode(text).tolist(), pending)


def joins_spaces(tokenizer: Tokenizer) -> bool:
    """Return whether a token includes the space before it, and tokens with a space exist."""
    if tokenizer.section.level not in ("word", "bpe") or tokenizer.separates_by_space:
        return False
    return any(token.startswith(b" ") for token in tokenizer.token_bytes)


def refuse_unwritable(
    trained: TrainedModel, stop: StopCondition, ban: Sequence[str], *, allow_unknown: bool
) -> None:
    """Refuse texts to stop at, and banned texts, that a model can never write.

    Raises:
        UnsupportedOptionError: There is such a text, and it is not allowed.
    """
    if allow_unknown or not (stop.until or ban):
        return
    texts = _written_texts(trained)
    for option, wanted in (("until", stop.until), ("ban", ban)):
        for text in wanted:
            if not _is_writable(trained.tokenizer, texts, text):
                hint = next(_writable_forms(trained.tokenizer, texts, text), "")
                raise UnsupportedOptionError(
                    option,
                    f"use only text that the model can write, or pass {{}}; it never writes "
                    f"{quote(text)}{hint}",
                    others=["allow_unknown"],
                )


class FirstToken:
    """Lets the first new token of each sequence begin with a text.

    A constraint of `generate` and `beam_search`.
    """

    def __init__(self, tokenizer: Tokenizer, text: str, device: torch.device) -> None:
        """Find the tokens that begin with the text."""
        beginning = text.encode()
        others = [not token.startswith(beginning) for token in tokenizer.token_bytes]
        self._others = torch.tensor(others, device=device)
        self._is_first = True

    def mask(self, logits: Tensor) -> Tensor:
        """Return logits, (batch, vocabulary), minus infinity for forbidden tokens."""
        return logits.masked_fill(self._others, -torch.inf) if self._is_first else logits

    def update(self, tokens: Sequence[int | None]) -> None:
        """Take in the next token of each sequence, None for a sequence that has ended."""
        self._is_first = False

    def select(self, rows: Sequence[int]) -> None:
        """Let sequence i continue what was sequence rows[i]; all are in the same state."""

    def save(self) -> bool:
        """Return the state, for `restore`."""
        return self._is_first

    def restore(self, saved: bool) -> None:
        """Return to a saved state."""
        self._is_first = saved


def first_token(trained: TrainedModel, prompt: Prompt) -> list[FirstToken]:
    """Return the constraint that the end of a prompt makes, or none."""
    if not prompt.pending:
        return []
    return [FirstToken(trained.tokenizer, prompt.pending, trained.device)]


def can_write(tokens: Collection[bytes], text: bytes) -> bool:
    """Return whether a text is part of some sequence of tokens.

    >>> can_write({b" cat", b" dog"}, b"t d"), can_write({b" cat", b" dog"}, b"td")
    (True, False)
    """
    if any(text in token for token in tokens):
        return True
    # Sizes of the beginnings of the text that end where a token ends, and of the ends of the text
    # that begin where a token begins.
    ends: set[int] = set()
    rests: set[int] = set()
    for token in tokens:
        sizes = range(1, min(len(token) + 1, len(text)))
        ends.update(size for size in sizes if token.endswith(text[:size]))
        rests.update(size for size in sizes if token.startswith(text[-size:]))
    lengths = {len(token) for token in tokens} - {0}
    for end in range(1, len(text)):
        if end in ends:
            if len(text) - end in rests:
                return True
            ends.update(end + size for size in lengths if text[end : end + size] in tokens)
    return False


def _written_texts(trained: TrainedModel) -> frozenset[bytes]:
    """Return what the tokens add to a text, within a line and after the end of one."""
    tokenizer = trained.tokenizer
    texts = tokenizer.token_texts(eos=b"" if trained.writes_records else None)
    if tokenizer.separates_by_space:
        texts += [b"\n" + token for token in tokenizer.token_bytes[2:]]
    return frozenset(texts)


def _is_writable(tokenizer: Tokenizer, texts: frozenset[bytes], text: str) -> bool:
    # Subwords can form any bytes, but the model has learned normalized text only.
    if tokenizer.section.level == "bpe" and tokenizer.normalize(text) != text:
        return False
    return can_write(texts, text.encode())


def _writable_forms(tokenizer: Tokenizer, texts: frozenset[bytes], text: str) -> Iterator[str]:
    """Yield hints: other forms of a text that the model can write."""
    for form in _FORMS:
        if _is_writable(tokenizer, texts, unicodedata.normalize(form, text)):
            yield f"; write it in the Unicode form {form}"
    normalized = tokenizer.normalize(text)
    if normalized != text and _is_writable(tokenizer, texts, normalized):
        yield f"; write {quote(normalized)}"


def _describe_unknown(tokenizer: Tokenizer, prompt: str, unknown: Sequence[str]) -> str:
    """Return what is wrong with a prompt, and how to write what was probably meant."""
    kind = "word" if tokenizer.section.level == "word" else "character"
    listed = ", ".join(map(quote, unknown[:_LISTED])) + ", ..." * (len(unknown) > _LISTED)
    problem = f"use only {kind}s of the training text, or pass {{}}; it has no {kind} {listed}"
    for form in _FORMS:
        if not tokenizer.find_unknown(unicodedata.normalize(form, prompt)):
            return f"{problem}; write the prompt in the Unicode form {form}"
    for mark in unknown if kind == "character" else ():
        known = [other for other in _PRINTED.get(mark, "") if not tokenizer.find_unknown(other)]
        if known:
            return f"{problem}; in place of {quote(mark)}, the text has {' '.join(known)}"
    spaced = f" {unknown[0]}"
    if kind == "word" and not tokenizer.separates_by_space and not tokenizer.find_unknown(spaced):
        return f"{problem} at the start of a line; write {spaced!r}, with a space before it"
    return problem
