"""Jobs of an engine, and what it gives back: a `Generation`, which yields `Piece`s."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from charlm.data.tokenizer import EOS
from charlm.errors import CharlmError, OptionError
from charlm.sampling.options import SampleOptions
from charlm.sampling.saved_state import GenerationState
from charlm.serving.options import MAX_LOGPROBS

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Job:
    """One sequence to write.

    Attributes:
        options: How it is sampled; `count` and `best_of` are 1, and nothing needs to be novel.
        number: Number of the sequence among those of the seed: sequence k of a seed gets the random
            numbers that `charlm sample` gives it. With `options.state_in` it is that of the state.
        prompt_ids: Ids of the prompt instead of `options.prompt`. An <EOS> at the beginning is the
            one that a model reads before a text: it is not read twice.
        num_logprobs: None for no log-probabilities, 0 for those of the tokens of the text, k for
            those of the k most probable tokens as well.
        echo: Whether the pieces begin with the prompt.
        writes: Whether new text is written; else the prompt is read only.
        keeps_state: Whether the last piece has the state of the text, to continue it.
        streams: Whether pieces are delivered while the text is written; else there is one piece.

    Raises:
        OptionError: A value is out of its range, or options exclude each other.
    """

    options: SampleOptions
    number: int = 0
    prompt_ids: tuple[int, ...] | None = None
    num_logprobs: int | None = None
    echo: bool = False
    writes: bool = True
    keeps_state: bool = False
    streams: bool = True

    def __post_init__(self) -> None:
        """Check what the options of sampling do not check."""
        options = self.options
        if options.count > 1 or options.best_of > 1 or options.constraints.novel:
            raise OptionError("options", "a job is one sequence: count, best_of and novel are off")
        if self.num_logprobs is not None and not 0 <= self.num_logprobs <= MAX_LOGPROBS:
            problem = f"must be between 0 and {MAX_LOGPROBS}"
            raise OptionError("logprobs", problem, value=self.num_logprobs)
        replace(options, state_out=self.keeps_state)  # The new options check what a state excludes.

    @property
    def begins_with_eos(self) -> bool:
        """Whether the prompt has the <EOS> that a model reads before a text."""
        return self.options.state_in is None and (self.prompt_ids or ())[:1] == (EOS,)


@dataclass(frozen=True)
class Piece:
    """A part of a text, in order.

    The text of all pieces together is the text of the job: the prompt if it is echoed, then the new
    text up to its end. A token comes with or before its text: an incomplete character is held back,
    and so is what may begin a stop string that is not part of the text.

    Attributes:
        text: Text.
        ids: Ids of the tokens, with the <EOS> that ended a record.
        log_probabilities: Log-probability of each token in nats: the model's own, at temperature 1,
            before filters and constraints. None for an <EOS> before the text, which the model does
            not predict. Empty if none were asked for.
        alternatives: For each token, the log-probabilities of the most probable tokens and of the
            token itself, by id; None as above. Empty if none were asked for.
        offsets: For each token, the number of characters of the text of all pieces before it; empty
            without log-probabilities.
        finish_reason: Why the text ended, in the last piece; else None. "stop": a stop string,
            <EOS>, or the end of what matches a regular expression. "length": the number of tokens
            or characters.
        state: State of the text, in the last piece of a job that keeps it.
    """

    text: str = ""
    ids: tuple[int, ...] = ()
    log_probabilities: tuple[float | None, ...] = ()
    alternatives: tuple[dict[int, float] | None, ...] = ()
    offsets: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    state: GenerationState | None = None


class Generation:
    """The text of one job while it is written, for one consumer, in a thread or an asyncio task.

    Iterating ends after the last piece, or after `cancel`. It raises the CharlmError that ended the
    job, if one did. As a context manager it cancels the job at the end of the block.

    Attributes:
        num_prompt_tokens: Number of tokens of the prompt.
        is_cancelled: Whether nobody wants the text any more.
        loop: Event loop of the task that consumes it, or None.
    """

    def __init__(self, num_prompt_tokens: int, on_cancel: Callable[["Generation"], None]) -> None:
        """Begin without a piece; `on_cancel` is called in the thread of the consumer."""
        self.num_prompt_tokens = num_prompt_tokens
        self.is_cancelled = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self._on_cancel = on_cancel
        self._pieces = deque[Piece | CharlmError | None]()  # None: there is no more.
        self._is_over = False
        self._ready: threading.Event | None = None
        self._waiter: asyncio.Future[None] | None = None

    def cancel(self) -> None:
        """End the job; its row is free at the next step. Without effect after its end."""
        self.is_cancelled = True
        self._on_cancel(self)
        wake([self])

    def __enter__(self) -> "Generation":
        """Return the generation."""
        return self

    def __exit__(self, *error: object) -> None:
        """Cancel the job."""
        self.cancel()

    def __iter__(self) -> Iterator[Piece]:
        """Iterate over the pieces in a thread."""
        return self

    def __next__(self) -> Piece:
        """Wait for the next piece."""
        if self._ready is None:
            self._ready = threading.Event()
        while not (self._pieces or self._is_over or self.is_cancelled):
            self._ready.wait()
            self._ready.clear()
        piece = self._next()
        if piece is None:
            raise StopIteration
        return piece

    def __aiter__(self) -> AsyncIterator[Piece]:
        """Iterate over the pieces in an asyncio task."""
        return self

    async def __anext__(self) -> Piece:
        """Wait for the next piece."""
        # Before the look at the pieces: the engine adds a piece first and then looks at the loop.
        self.loop = asyncio.get_running_loop()
        while not (self._pieces or self._is_over or self.is_cancelled):
            self._waiter = self.loop.create_future()
            await self._waiter
        piece = self._next()
        if piece is None:
            raise StopAsyncIteration
        return piece

    def _next(self) -> Piece | None:
        piece = None if self.is_cancelled or self._is_over else self._pieces.popleft()
        if piece is None or isinstance(piece, CharlmError):
            self._is_over = True
        if isinstance(piece, CharlmError):
            raise piece
        return piece

    def deliver(self, piece: Piece | CharlmError | None) -> None:
        """Add a piece, an error, or the end; `wake` has to follow."""
        self._pieces.append(piece)

    def wake(self) -> None:
        """Continue the consumer, if it is a thread, or in its event loop."""
        if self._ready is not None:
            self._ready.set()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def wake(generations: Sequence[Generation]) -> None:
    """Continue the consumers of some generations, with one call per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Generation]] = {}
    for generation in generations:
        if generation.loop is None:
            generation.wake()
        else:
            by_loop.setdefault(generation.loop, []).append(generation)
    for loop, woken in by_loop.items():
        try:
            loop.call_soon_threadsafe(_wake_all, woken)
        except RuntimeError:  # The loop is closed: nobody waits.
            for generation in woken:
                generation.is_cancelled = True


def _wake_all(generations: Sequence[Generation]) -> None:
    for generation in generations:
        generation.wake()
