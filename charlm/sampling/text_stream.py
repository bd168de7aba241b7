"""From ids to the text that is shown: what each token adds, and where the text ends."""

from collections.abc import Sequence

from charlm.data.tokenizer import EOS, Decoder, Tokenizer
from charlm.sampling.constraints.copy_limit import Backtracker
from charlm.sampling.generator import Generator
from charlm.sampling.options import StopCondition


class TextStream:
    """The text of one sequence while it is generated.

    Attributes:
        text: Text so far, cut at its end.
        ended: Whether a stop string or the number of characters has ended the text.
        stopped: Whether it was a stop string.
        start: Number of characters of `text` that were shown before the prompt.
        prompt_length: Number of characters of `text` before the new ones.
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
        self._includes_until = stop.includes_until
        self.start = num_shown
        self._num_shown = num_shown
        self.ended = False
        self.stopped = False
        text = "".join(map(self._decoder.feed, [*before, *prompt]))
        # Characters of the last earlier token that were not shown count as new, unless a prompt
        # follows them.
        self.text = text + pending if prompt or pending or not before else text[:num_shown]
        self.prompt_length = len(self.text)
        self._pending = pending
        self._ends_nowhere = not stop.until and stop.characters is None
        self._max_characters = None if stop.characters is None else len(self.text) + stop.characters
        self._append(text[len(self.text) :])

    def feed(self, token: int) -> None:
        """Append the text of a token."""
        piece = self._decoder.feed(token)
        if self._pending:
            piece = piece.removeprefix(self._pending)
            self._pending = ""
        self._append(piece)

    def flush(self) -> None:
        """Append the bytes of an incomplete character: no token follows."""
        self._append(self._decoder.flush())

    def skip_prompt(self) -> None:
        """Let the first call of `new_text` begin after the prompt."""
        self._num_shown = self.prompt_length

    def new_text(self, *, is_last: bool = True) -> str:
        """Return the text since the last call; the first call includes the prompt.

        Args:
            is_last: Whether the end of the text is returned even if it may be the beginning of a
                stop string that is not part of the text.
        """
        end = len(self.text) - (0 if is_last or self.ended else self._beginning_of_stop())
        new = self.text[self._num_shown : end]
        self._num_shown = max(self._num_shown, end)
        return new

    def _beginning_of_stop(self) -> int:
        """Return how many last characters of the new text may begin an excluded stop string."""
        if self._includes_until:
            return 0
        return max(
            (
                size
                for stop in self._until
                for size in range(1, min(len(stop), len(self.text) - self.prompt_length + 1))
                if self.text.endswith(stop[:size])
            ),
            default=0,
        )

    @property
    def continuation(self) -> str:
        """Prompt and new text, without the earlier text that was shown before."""
        return self.text[self.start :]

    def _append(self, piece: str) -> None:
        if self.ended or not piece:
            return
        searched = len(self.text)
        self.text += piece
        if self._ends_nowhere:
            return
        ends = []
        # A stop string that is left out is new text as a whole.
        first = 0 if self._includes_until else self.prompt_length
        for stop in self._until:
            start = self.text.find(stop, max(first, searched - len(stop) + 1))
            if start >= 0:
                end = start + len(stop)
                ends.append((end, False, end if self._includes_until else start))
        if self._max_characters is not None and len(self.text) >= self._max_characters:
            ends.append((self._max_characters, True, self._max_characters))
        if ends:
            _, is_limit, length = min(ends)
            self.text = self.text[:length]
            self.stopped = not is_limit
            self.ended = True


class TextBatch:
    """Texts that are generated side by side, each to its end.

    Attributes:
        generator: Tokens of the texts.
        streams: Text of each sequence.
    """

    def __init__(
        self,
        generator: Generator,
        streams: Sequence[TextStream],
        *,
        max_tokens: int,
        backtracker: Backtracker | None = None,
    ) -> None:
        """Stop the texts that end within their prompt.

        Args:
            generator: Generator of the sequences.
            streams: Text of each sequence, with its prompt.
            max_tokens: Maximum number of new tokens per text.
            backtracker: Takes the only sequence back from dead ends. Its text then has only tokens
                that can no longer be removed.
        """
        self.generator = generator
        self.streams = streams
        self._max_tokens = max_tokens
        self._num_steps = 0
        self._backtracker = backtracker
        self._num_read = 0
        for row, stream in enumerate(streams):
            if stream.ended:
                generator.stop(row)

    @property
    def is_finished(self) -> bool:
        """Whether all texts have ended."""
        steps = self._num_steps if self._backtracker is None else len(self.generator.tokens[0])
        return steps >= self._max_tokens or not any(self.generator.running)

    @property
    def num_final(self) -> int:
        """Number of tokens of the first text that can no longer be removed."""
        return len(self.generator.tokens[0]) if self._backtracker is None else self._num_read

    def step(self) -> bool:
        """Generate a token of each text; return False, without a token, if all have ended."""
        if self.is_finished:
            return False
        self.prepare()
        self.generator.step()
        self.take()
        return True

    def prepare(self) -> None:
        """Before a step of the generator: leave a dead end."""
        if self._backtracker is not None:
            self._backtracker.prepare()

    def take(self) -> None:
        """After a step of the generator: append its tokens, and stop the texts that end."""
        self._num_steps += 1
        if self._backtracker is not None:
            self._take_final(self._backtracker)
            return
        for row, token in enumerate(self.generator.last_tokens):
            if token is not None:
                self._feed(row, token)

    def finish(self) -> None:
        """Generate all texts to their ends."""
        while self.step():
            pass

    def _take_final(self, backtracker: Backtracker) -> None:
        backtracker.finish()
        (ids,) = self.generator.tokens
        final = len(ids) if self.is_finished else backtracker.num_final
        for token in ids[self._num_read : final]:
            self._num_read += 1
            self._feed(0, token)
            if self.streams[0].ended:
                self.generator.truncate(self._num_read)
                return

    def _feed(self, row: int, token: int) -> None:
        if token == EOS and self.generator.options.stops_at_eos:
            return  # The end is not part of the text.
        self.streams[row].feed(token)
        if self.streams[row].ended:
            self.generator.stop(row)
