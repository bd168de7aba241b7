"""The decoding engine: jobs for the same run are decoded together, in one thread.

A `Job` is one sequence. `Engine.submit` returns a `Generation`, which yields `Piece`s to a thread
or to an asyncio task. Nothing here knows HTTP.
"""

import asyncio
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from charlm.data.tokenizer import EOS, Decoder
from charlm.errors import BusyError, CharlmError, OptionError, UnsupportedOptionError
from charlm.sampling.options import SampleOptions
from charlm.sampling.plan import Plan, make_plan
from charlm.sampling.prompt_reader import PromptReader
from charlm.sampling.prompts import Prompt
from charlm.sampling.saved_state import GenerationState
from charlm.sampling.text_stream import TextBatch
from charlm.trained_model import TrainedModel

FinishReason = Literal["stop", "length"]
MAX_LOGPROBS = 100  # Alternatives per position.


@dataclass(frozen=True)
class Limits:
    """Bounds of an engine.

    Attributes:
        max_rows: Number of sequences that are decoded together.
        max_queued: Number of sequences that wait for a row.
        max_length: Number of tokens of prompt and new text together.
    """

    max_rows: int = 64
    max_queued: int = 1024
    max_length: int = 100_000


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
        replace(options, state_out=self.keeps_state)  # It checks what a state excludes.


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
    """

    def __init__(self, num_prompt_tokens: int, on_cancel: Callable[["Generation"], None]) -> None:
        """Begin without a piece; `on_cancel` is called in the thread of the consumer."""
        self.num_prompt_tokens = num_prompt_tokens
        self._on_cancel = on_cancel
        self._pieces = deque[Piece | CharlmError | None]()  # None: there is no more.
        self.is_cancelled = False
        self._is_over = False
        self._ready: threading.Event | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None

    def cancel(self) -> None:
        """End the job; its row is free at the next step. Without effect after its end."""
        self.is_cancelled = True
        self._on_cancel(self)

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
            self._ready.wait(timeout=1)
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
        """Add a piece, an error, or the end; called by the engine."""
        self._pieces.append(piece)
        if self._ready is not None:
            self._ready.set()

    def wake(self) -> None:
        """Continue the asyncio task that waits; called in its loop."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Engine:
    """Decodes the jobs of one run, in one thread.

    Attributes:
        trained: Model that writes.
        limits: Bounds of the engine.
    """

    def __init__(self, trained: TrainedModel, limits: Limits | None = None) -> None:
        """Start the thread."""
        self.trained = trained
        self.limits = Limits() if limits is None else limits
        self._changed = threading.Condition()
        self._queue = deque[_Row]()
        self._rows: list[_Row] = []
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="charlm-engine", daemon=True)
        self._thread.start()

    @property
    def num_running(self) -> int:
        """Number of sequences that are decoded now."""
        return len(self._rows)

    @property
    def num_queued(self) -> int:
        """Number of sequences that wait for a row."""
        return len(self._queue)

    def submit(self, job: Job) -> Generation:
        """Put a job into the queue. Any thread may call it.

        The job is checked here. That takes long for a long prompt or a regular expression, so an
        asyncio program calls this in a worker thread for such jobs.

        Raises:
            BusyError: The queue is full.
            OptionError: An option does not suit the model, or the text is too long.
            CharlmError: The engine is closed, or as for `charlm.sampling.sample.sample`.
        """
        plan = _plan(self.trained, job)
        self._check_length(plan)
        generation = Generation(len(plan.prompt_ids) + _begins_with_eos(job), self._cancel)
        with self._changed:
            if self._is_closing:
                raise CharlmError("the server is shutting down")
            if len(self._queue) >= self.limits.max_queued:
                raise BusyError(
                    f"the server is busy: {len(self._queue)} texts are waiting; try again later"
                )
            self._queue.append(_Row(job, plan, generation))
            self._changed.notify()
        return generation

    def close(self) -> None:
        """End all jobs with an error, and the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _check_length(self, plan: Plan) -> None:
        prompt = len(plan.prompt_ids)
        if prompt > self.limits.max_length:
            raise OptionError(
                "prompt", f"must have at most {self.limits.max_length} tokens, but has {prompt}"
            )
        most = self.limits.max_length - prompt
        if plan.options.stop.max_tokens > most:
            problem = f"must be at most {most} tokens after this prompt"
            raise OptionError("length", problem, value=plan.options.stop.max_tokens)

    def _cancel(self, generation: Generation) -> None:
        with self._changed:
            self._queue = deque(row for row in self._queue if row.generation is not generation)
        if generation.loop is not None:
            generation.wake()

    def _run(self) -> None:
        while self._admit():
            for row in self._rows:
                row.advance()
            _wake([row.generation for row in self._rows])
            self._rows = [row for row in self._rows if not row.is_over]
        error = CharlmError("the server is shutting down")
        ended = [*self._rows, *self._queue]
        for row in ended:
            row.generation.deliver(error)
        _wake([row.generation for row in ended])

    def _admit(self) -> bool:
        """Wait for jobs, and move them from the queue to free rows; return False at the end."""
        with self._changed:
            while not (self._rows or self._queue or self._is_closing):
                self._changed.wait()
            if self._is_closing:
                return False
            while self._queue and len(self._rows) < self.limits.max_rows:
                self._rows.append(self._queue.popleft())
        return True


class _Row:
    """A job while it is decoded."""

    def __init__(self, job: Job, plan: Plan, generation: Generation) -> None:
        self.generation = generation
        self.is_over = False
        self._job = job
        self._plan = plan
        self._texts: TextBatch | None = None
        self._num_sent = 0
        self._offsets: list[int] = []
        self._pending: list[Piece] = []

    def advance(self) -> None:
        """Write a token."""
        try:
            if self.generation.is_cancelled:
                self._end(None)
            elif self._texts is None:
                self._begin()
            else:
                self._step(self._texts)
        except CharlmError as error:
            self._end(error)

    def _begin(self) -> None:
        number = self._job.number if self._plan.state is None else self._plan.first_number
        self._texts = self._plan.begin([number], num_alternatives=self._job.num_logprobs or 0)
        if self._job.echo:
            self._pending.append(_echo(self._plan, self._job))
        self._texts.streams[0].new_text()
        if not self._job.writes:
            self._send(self._texts, "length")

    def _step(self, texts: TextBatch) -> None:
        (stream,) = texts.streams
        if texts.is_finished:
            self._send(texts, _finish_reason(texts))
            return
        self._offsets.append(len(stream.text))
        texts.step()
        is_finished = texts.is_finished
        if is_finished and not self._job.keeps_state:
            stream.flush()
        self._pending.append(self._piece(texts, is_last=is_finished))
        if is_finished:
            self._send(texts, _finish_reason(texts))
        elif self._job.streams:
            self.generation.deliver(_joined(self._pending))
            self._pending = []

    def _piece(self, texts: TextBatch, *, is_last: bool) -> Piece:
        generator = texts.generator
        (stream,) = texts.streams
        text = stream.new_text(is_last=is_last)
        ids = tuple(generator.tokens[0][self._num_sent :])
        if self._job.num_logprobs is None:
            piece = Piece(text, ids)
        else:
            start = stream.prompt_length if not self._job.echo else self._plan_start(texts)
            offsets = [min(offset, len(stream.text)) - start for offset in self._offsets]
            piece = Piece(
                text,
                ids,
                log_probabilities=tuple(generator.log_probabilities()[0][self._num_sent :]),
                alternatives=tuple(generator.alternatives[0][self._num_sent :]),
                offsets=tuple(offsets[self._num_sent :]),
            )
        self._num_sent = len(generator.tokens[0])
        return piece

    def _plan_start(self, texts: TextBatch) -> int:
        (stream,) = texts.streams
        return len(stream.text) - len(stream.continuation)

    def _send(self, texts: TextBatch, reason: FinishReason) -> None:
        state = None
        if self._job.keeps_state:
            state = texts.generator.generation_state(len(texts.streams[0].text))
        last = replace(_joined(self._pending), finish_reason=reason, state=state)
        self.generation.deliver(last)
        self._end(None)

    def _end(self, error: CharlmError | None) -> None:
        self.generation.deliver(error)
        self.is_over = True


def _plan(trained: TrainedModel, job: Job) -> Plan:
    if trained.model.direction != "forward":
        raise UnsupportedOptionError(
            "model",
            f"the model of {trained.folder} does not read from the beginning to the end of a text, "
            "so that it cannot continue one; use a model with model.direction=forward",
        )
    options = replace(job.options, scored=job.num_logprobs is not None, state_out=job.keeps_state)
    prompt = None
    if job.prompt_ids is not None:
        size = trained.tokenizer.vocabulary_size
        unknown = next((token for token in job.prompt_ids if not 0 <= token < size), None)
        if unknown is not None:
            raise UnsupportedOptionError("prompt", f"ids must be below {size}", value=unknown)
        prompt = Prompt(list(job.prompt_ids[_begins_with_eos(job) :]))
    return make_plan(trained, options, prompt)


def _finish_reason(texts: TextBatch) -> FinishReason:
    (stream,) = texts.streams
    is_stopped = stream.stopped or (not texts.generator.running[0] and not stream.ended)
    return "stop" if is_stopped else "length"


def _echo(plan: Plan, job: Job) -> Piece:
    """Return the prompt of a job, with its log-probabilities if they are asked for."""
    # An <EOS> that stands before the text, and that no token precedes.
    before = (EOS,) if _begins_with_eos(job) else ()
    ids = (*before, *plan.prompt_ids)
    text, offsets = _decode(plan, len(before))
    if job.num_logprobs is None:
        return Piece(text, ids)
    earlier = [] if plan.state is None else plan.state.ids
    reader = PromptReader(
        plan.trained.model,
        [*(earlier[-1:] or [EOS]), *plan.prompt_ids],
        None if plan.state is None else plan.state.states,
        num_alternatives=job.num_logprobs,
    )
    while not reader.is_finished:
        reader.read_window()
    unpredicted = (None,) * len(before)
    return Piece(
        text,
        ids,
        log_probabilities=(*unpredicted, *reader.log_probabilities),
        alternatives=(*unpredicted, *reader.alternatives) if job.num_logprobs else (),
        offsets=offsets,
    )


def _decode(plan: Plan, num_before: int) -> tuple[str, tuple[int, ...]]:
    """Return the text of the prompt, and the offset of each token."""
    decoder = Decoder(plan.trained.tokenizer)
    if plan.state is not None:
        for token in plan.state.ids:
            decoder.feed(token)
    text = ""
    offsets = [0] * num_before
    for token in plan.prompt_ids:
        offsets.append(len(text))
        text += decoder.feed(token)
    return text + plan.prompt.pending, tuple(offsets)


def _begins_with_eos(job: Job) -> bool:
    return job.options.state_in is None and (job.prompt_ids or ())[:1] == (EOS,)


def _joined(pieces: Sequence[Piece]) -> Piece:
    return Piece(
        text="".join(piece.text for piece in pieces),
        ids=tuple(token for piece in pieces for token in piece.ids),
        log_probabilities=tuple(value for piece in pieces for value in piece.log_probabilities),
        alternatives=tuple(value for piece in pieces for value in piece.alternatives),
        offsets=tuple(value for piece in pieces for value in piece.offsets),
    )


def _wake(generations: Sequence[Generation]) -> None:
    """Wake the asyncio tasks that wait, with one call per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Generation]] = {}
    for generation in generations:
        if generation.loop is not None:
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


class StateStore:
    """Texts that can be continued, in memory, each under a name that cannot be guessed.

    It holds a bounded number of states; the one that was used least recently is forgotten first,
    and a state that was not used for some time is forgotten too. Any thread may use it.
    """

    def __init__(
        self,
        *,
        max_states: int = 1024,
        max_seconds: float = 3600,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin empty.

        Args:
            max_states: Number of states to hold.
            max_seconds: Seconds after the last use at which a state expires.
            clock: Function that returns the time in seconds.
        """
        self._max_states = max_states
        self._max_seconds = max_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._states = OrderedDict[str, tuple[float, GenerationState]]()

    def __len__(self) -> int:
        """Return the number of states that have not expired."""
        with self._lock:
            self._expire()
            return len(self._states)

    def put(self, state: GenerationState) -> str:
        """Hold a state; return its name."""
        name = f"state-{secrets.token_urlsafe(24)}"
        with self._lock:
            self._states[name] = self._clock(), state
            self._expire()
        return name

    def get(self, name: str) -> GenerationState:
        """Return a state by its name.

        Raises:
            UnsupportedOptionError: There is no such state, or it has expired.
        """
        with self._lock:
            self._expire()
            if name not in self._states:
                raise UnsupportedOptionError(
                    "state", "is unknown or has expired; send the whole text as the prompt"
                )
            _, state = self._states.pop(name)
            self._states[name] = self._clock(), state
        return state

    def _expire(self) -> None:
        oldest = self._clock() - self._max_seconds
        while self._states:
            name, (last_use, _) = next(iter(self._states.items()))
            if last_use >= oldest and len(self._states) <= self._max_states:
                return
            del self._states[name]
