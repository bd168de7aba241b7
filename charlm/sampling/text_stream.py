"""Ids → the texts that are shown: what each token adds, and where a text ends."""

from collections.abc import Sequence
from dataclasses import dataclass

from charlm.data.tokenizer import EOS, Decoder, Tokenizer
from charlm.sampling.generator import Generator

_LENGTH = 500  # Tokens, where nothing else is asked for.


@dataclass(frozen=True)
class StopCondition:
    """Where a text ends, whichever comes first.

    Attributes:
        length: Most tokens to write; None for 500 or, with `characters`, as many as those take.
        characters: Characters to write, to be cut at exactly.
        until: Texts to end with.
    """

    length: int | None = None
    characters: int | None = None
    until: tuple[str, ...] = ()

    @property
    def most_tokens(self) -> int:
        """Tokens after which to give up, however few characters they make."""
        if self.length is not None:
            return self.length
        # A character has at most four bytes, a token of <EOS> perhaps no text: a sound model stays far below.
        return _LENGTH if self.characters is None else 8 * self.characters + 1000


class TextStream:
    """Follows one text while it is written.

    Attributes:
        text: All of it so far, cut at its end.
        ended: Whether it has come to its end, by a stop string or by its characters.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        ending: StopCondition,
        *,
        before: Sequence[int] = (),
        told: int = 0,
    ) -> None:
        """Begin.

        Args:
            tokenizer: Of the model.
            prompt: Ids that it begins or goes on with.
            ending: Where it ends.
            before: Ids of a text that goes on.
            told: How many characters of that have been shown.
        """
        self._decoder = Decoder(tokenizer)
        self._until = ending.until
        self._begin = self._shown = told
        self.ended = False
        text = "".join(map(self._decoder.feed, [*before, *prompt]))
        # What was not shown of the last token before counts as written, unless a prompt stands between.
        self.text = text if prompt or not before else text[:told]
        self._most = None if ending.characters is None else len(self.text) + ending.characters
        self._add(text[len(self.text) :])

    def feed(self, token: int) -> None:
        """Add the text of a token."""
        self._add(self._decoder.feed(token))

    def flush(self) -> None:
        """Add what still waits for the rest of its character: the text does not go on."""
        self._add(self._decoder.flush())

    def new(self) -> str:
        """Return what has come since the last call; the first time, with the prompt."""
        new = self.text[self._shown :]
        self._shown = len(self.text)
        return new

    @property
    def chapter(self) -> str:
        """The text but for what had been shown before it began: prompt and what was written."""
        return self.text[self._begin :]

    def _add(self, piece: str) -> None:
        if self.ended or not piece:
            return
        looked = len(self.text)
        self.text += piece
        found = [
            (self.text.find(stop, max(0, looked - len(stop) + 1)), len(stop))
            for stop in self._until
        ]
        ends = [at + size for at, size in found if at >= 0]
        if self._most is not None and len(self.text) >= self._most:
            ends.append(self._most)
        if ends:
            self.text, self.ended = self.text[: min(ends)], True


class TextBatch:
    """Texts that are written side by side, each to its end.

    Attributes:
        writing: Their tokens.
        tellings: Their texts.
    """

    def __init__(
        self,
        writing: Generator,
        tellings: Sequence[TextStream],
        ending: StopCondition,
        *,
        stops_at_eos: bool,
    ) -> None:
        """Begin with the prompt; `stops_at_eos` as for `Generator`: that <EOS> is no text."""
        self.writing, self.tellings = writing, tellings
        self._left, self._silent = ending.most_tokens, EOS if stops_at_eos else None
        for row, telling in enumerate(tellings):
            if telling.ended:
                writing.stop(row)

    def advance(self) -> bool:
        """Write a token of each text; return False, having written none, where all have ended."""
        if not self._left or not self.writing.running.any():
            return False
        self._left -= 1
        for row, (telling, token) in enumerate(
            zip(self.tellings, self.writing.advance(), strict=True)
        ):
            if token is not None and token != self._silent:
                telling.feed(token)
                if telling.ended:
                    self.writing.stop(row)
        return True
