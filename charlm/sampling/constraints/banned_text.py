"""Texts that are never written, however they are split into tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor

from charlm.data.tokenizer import UNK, UNK_TEXT, Tokenizer
from charlm.errors import UnsupportedOptionError, quote


class BannedText:
    """Forbids each token that would complete a banned text, alone or as the last of several tokens.

    A constraint of `generate` and `beam_search`. Texts are compared as UTF-8 bytes, case-sensitive.
    A banned text that begins in the prompt counts.
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
        """Compute the forbidden tokens.

        Args:
            tokenizer: Tokenizer of the model.
            banned: Banned texts, at least one, none empty.
            before: Ids of the text so far, in the order in which the model reads them.
            batch: Number of sequences that continue it.
            device: Device of the logits.
            backward: Whether the model reads texts from their end.

        Raises:
            UnsupportedOptionError: Every token contains a banned text.
        """
        direction = -1 if backward else 1
        token_texts = tokenizer.token_texts(unknown=UNK_TEXT.encode())
        self._tokens = [text[::direction] for text in token_texts]
        texts = [text.encode(errors="replace")[::direction] for text in banned]
        self._max_bytes = max(map(len, texts))
        beginning: dict[bytes, list[int]] = {}  # The tokens that begin with a text.
        for token, token_text in enumerate(self._tokens):
            for size in range(1, min(len(token_text), self._max_bytes) + 1):
                beginning.setdefault(token_text[:size], []).append(token)
        # From an end of the text to the mask of the tokens that must not follow it.
        none = torch.zeros(tokenizer.vocabulary_size, dtype=torch.bool, device=device)
        self._forbidden = {b"": none}
        for text in texts:
            self._forbid(b"", [id for id, token in enumerate(self._tokens) if text in token])
            for size in range(1, len(text)):
                self._forbid(text[:size], beginning.get(text[size:], []))
        is_known = torch.arange(tokenizer.vocabulary_size, device=device) != UNK
        if not (is_known & ~self._forbidden[b""]).any():
            listed = " or ".join(map(quote, banned))
            raise UnsupportedOptionError(
                "ban", f"every token contains {listed}, so that nothing can be written; ban less"
            )
        tail = b"".join(self._tokens[token] for token in before)[-self._max_bytes :]
        self._tails = [tail] * batch

    def mask(self, logits: Tensor) -> Tensor:
        """Return logits, (batch, vocabulary), minus infinity for forbidden tokens."""
        rows = []
        for tail in self._tails:
            masks = [mask for end, mask in self._forbidden.items() if tail.endswith(end)]
            rows.append(torch.stack(masks).any(dim=0))
        return logits.masked_fill(torch.stack(rows), -torch.inf)

    def update(self, tokens: Sequence[int | None]) -> None:
        """Take in the next token of each sequence, None for a sequence that has ended."""
        self._tails = [
            tail if token is None else (tail + self._tokens[token])[-self._max_bytes :]
            for tail, token in zip(self._tails, tokens, strict=True)
        ]

    def select(self, rows: Sequence[int]) -> None:
        """Let sequence i continue what was sequence rows[i]."""
        self._tails = [self._tails[row] for row in rows]

    def save(self) -> list[bytes]:
        """Return the state, for `restore`."""
        return self._tails

    def restore(self, saved: list[bytes]) -> None:
        """Return to a saved state."""
        self._tails = saved

    def _forbid(self, end: bytes, tokens: list[int]) -> None:
        if tokens:
            mask = self._forbidden.get(end, torch.zeros_like(self._forbidden[b""]))
            mask[tokens] = True
            self._forbidden[end] = mask
