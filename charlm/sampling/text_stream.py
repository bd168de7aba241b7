"""From ids to the text that is shown: what each token adds, and where the text ends."""

from collections.abc import Sequence

from charlm.data.tokenizer import EOS, Decoder, Tokenizer
from charlm.sampling.generator import Generator
from charlm.sampling.options import StopCondition


class TextStream:
    """The text of one sequence while it is generated.

    Attributes:
        text: Text so far, cut at its end.
        ended: Whether a stop string or the number of characters has ended the text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        stop: StopCondition,
        *,
        before: Sequence[int] = (),
        num_shown: int = 0,
        pending: str = "",
    ) -> None:
        """Decode the prompt.

        Args:
            tokenizer: Tokenizer of the model.
            prompt: Ids that the text begins or continues with.
            stop: Where the text ends.
            before: Ids of the text that is continued.
            num_shown: Number of characters of that text that were shown.
            pending: End of the prompt that the next token begins with.
        """
        self._decoder = Decoder(tokenizer)
        self._until = stop.until
        self._start = num_shown
        self._num_shown = num_shown
        self.ended = False
        text = "".join(map(self._decoder.feed, [*before, *prompt]))
        # Characters of the last earlier token that were not shown count as new, unless a prompt
        # follows them.
        self.text = text + pending if prompt or pending or not before else text[:num_shown]
        self._pending = pending
        self._max_characters = None if stop.characters is None else len(self.text) + stop.characters
        self._append(text[len(self.text) :])

    def feed(self, token: int) -> None:
        """Append the text of a token."""
        self._append(self._decoder.feed(token).removeprefix(self._pending))
        self._pending = ""

    def flush(self) -> None:
        """Append the bytes of an incomplete character: no token follows."""
        self._append(self._decoder.flush())

    def new_text(self) -> str:
        """Return the text since the last call; the first call includes the prompt."""
        new = self.text[self._num_shown :]
        self._num_shown = len(self.text)
        return new

    @property
    def continuation(self) -> str:
        """Prompt and new text, without the earlier text that was shown before."""
        return self.text[self._start :]

    def _append(self, piece: str) -> None:
        if self.ended or not piece:
            return
        searched = len(self.text)
        self.text += piece
        ends = []
        for stop in self._until:
            start = self.text.find(stop, max(0, searched - len(stop) + 1))
            if start >= 0:
                ends.append(start + len(stop))
        if self._max_characters is not None and len(self.text) >= self._max_characters:
            ends.append(self._max_characters)
        if ends:
            self.text = self.text[: min(ends)]
            self.ended = True


class TextBatch:
    """Texts that are generated side by side, each to its end.

    Attributes:
        generator: Tokens of the texts.
        streams: Text of each sequence.
    """

    def __init__(
        self, generator: Generator, streams: Sequence[TextStream], *, max_tokens: int
    ) -> None:
        """Stop the texts that end within their prompt.

        Args:
            generator: Generator of the sequences.
            streams: Text of each sequence, with its prompt.
            max_tokens: Maximum number of new tokens per text.
        """
        self.generator = generator
        self.streams = streams
        self._tokens_left = max_tokens
        for row, stream in enumerate(streams):
            if stream.ended:
                generator.stop(row)

    def step(self) -> bool:
        """Generate a token of each text; return False, without a token, if all have ended."""
        if not self._tokens_left or not self.generator.running.any():
            return False
        self._tokens_left -= 1
        for row, token in enumerate(self.generator.step()):
            if token is not None:
                self._feed(row, token)
        return True

    def finish(self) -> None:
        """Generate all texts to their ends."""
        while self.step():
            pass

    def _feed(self, row: int, token: int) -> None:
        if token == EOS and self.generator.options.stops_at_eos:
            return  # It is not part of the text.
        self.streams[row].feed(token)
        if self.streams[row].ended:
            self.generator.stop(row)
