"""Texts that are never written, however their tokens are cut."""

from collections.abc import Sequence

import torch
from torch import Tensor

from charlm.data.tokenizer import UNK, UNK_TEXT, Tokenizer
from charlm.errors import CharlmError


class BannedText:
    """Forbids each token that would complete a banned text: by itself, or as the last of several tokens.

    A constraint of `generate` and of `beam_search`. Texts are compared as UTF-8 bytes, upper and lower case apart; one
    that begins in the prompt counts.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        banned: Sequence[str],
        before: Sequence[int],
        *,
        batch: int,
        device: torch.device,
        backward: bool = False,
    ) -> None:
        """Find the tokens.

        Args:
            tokenizer: Of the model.
            banned: Texts, one or more, none empty.
            before: Ids of the text so far, as the model reads them.
            batch: Sequences that go on from it.
            device: Of the logits.
            backward: Whether the model reads texts from their end.

        Raises:
            CharlmError: A text is empty, or no token is left.
        """
        if not all(banned):
            raise CharlmError("--ban: must not be empty: every text contains that")
        way = -1 if backward else 1
        token_texts = tokenizer.token_texts(unknown=UNK_TEXT.encode())
        self._tokens = [text[::way] for text in token_texts]
        texts = [ban.encode(errors="replace")[::way] for ban in banned]
        self._longest = max(map(len, texts))
        # What to look for at the end of the text → the tokens that must not follow.
        self._after: dict[bytes, Tensor] = {}
        for text in texts:
            self._forbid(b"", [text in token for token in self._tokens], device)
            for size in range(1, len(text)):
                self._forbid(
                    text[:size], [token.startswith(text[size:]) for token in self._tokens], device
                )
        known = torch.arange(tokenizer.vocabulary_size, device=device) != UNK
        if not (known & ~self._after[b""]).any():
            raise CharlmError(
                f"--ban: every token contains {' or '.join(map(repr, banned))}; nothing is left to write"
            )
        self._tails = [b"".join(self._tokens[token] for token in before)[-self._longest :]] * batch

    def mask(self, logits: Tensor) -> Tensor:
        """Return logits, (batch, vocabulary), with those of forbidden tokens minus infinity."""
        ends = [[end for end in self._after if tail.endswith(end)] for tail in self._tails]
        rows = [torch.stack([self._after[end] for end in found]).any(dim=0) for found in ends]
        return logits.masked_fill(torch.stack(rows), -torch.inf)

    def advance(self, tokens: Sequence[int | None]) -> None:
        """Learn the next token of each sequence, None for one that has ended."""
        self._tails = [
            tail if token is None else (tail + self._tokens[token])[-self._longest :]
            for tail, token in zip(self._tails, tokens, strict=True)
        ]

    def select(self, rows: Sequence[int]) -> None:
        """Let sequence i go on from what was sequence rows[i]."""
        self._tails = [self._tails[row] for row in rows]

    def mark(self) -> list[bytes]:
        """Return what `back` needs to come back to this place."""
        return self._tails

    def back(self, mark: list[bytes]) -> None:
        """Go back to a place."""
        self._tails = mark

    def _forbid(self, end: bytes, tokens: list[bool], device: torch.device) -> None:
        if any(tokens) or not end:
            found = torch.tensor(tokens, device=device)
            self._after[end] = self._after[end] | found if end in self._after else found
