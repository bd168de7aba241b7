"""A job while it is decoded: its prompt is read, then it is a row of the batch."""

from dataclasses import replace

from charlm.data.tokenizer import EOS, Decoder
from charlm.errors import CharlmError
from charlm.sampling.batch import Batch
from charlm.sampling.constraints.copy_limit import CopyLimit
from charlm.sampling.plan import Plan
from charlm.sampling.prompt_reader import PromptReader
from charlm.sampling.saved_state import GenerationState, shorten
from charlm.sampling.text_stream import TextStream
from charlm.serving.jobs import FinishReason, Generation, Job, Piece

# Tokens of a prompt that are read at once, while the other rows wait: about ten milliseconds for an
# LSTM of hidden size 512.
_WINDOW = 128
# Last tokens of a text that its state keeps, so that continuing it takes constant time. Filters and
# constraints of the continuation see no more of the text.
_MAX_HISTORY = 1024


class Row:
    """A job while it is decoded.

    Attributes:
        generation: What the job gives back.
        texts: Text of the job; its generator is a member of the batch once the prompt is read.
        reader: Reads the prompt.
        streams: Whether pieces are delivered while the text is written.
        has_begun: Whether a piece was delivered.
    """

    def __init__(
        self,
        job: Job,
        plan: Plan,
        generation: Generation,
        batch: Batch,
        copy_limit: CopyLimit | None,
    ) -> None:
        """Prepare all that takes long: this runs in the thread of the client.

        Args:
            job: The job.
            plan: Plan of its text.
            generation: What the job gives back.
            batch: Batch that it is to join.
            copy_limit: Limit on copying; None without one.
        """
        self.generation = generation
        self.streams = job.streams
        self.has_begun = False
        self.texts = plan.begin(
            [job.number if plan.state is None else plan.first_number],
            copy_limit,
            num_alternatives=job.num_logprobs or 0,
            batch=batch,
        )
        self.reader = PromptReader(
            plan.trained.model,
            self.texts.generator.unread,
            None if plan.state is None else plan.state.states,
            num_alternatives=job.num_logprobs if job.echo else None,
            window=_WINDOW,
        )
        self._job = job
        self._plan = plan
        self._stream = self.texts.streams[0]
        self._echoed: list[int] = []
        if job.echo:
            self._echoed = [*([EOS] if job.begins_with_eos else []), *plan.prompt_ids]
        else:
            self._stream.skip_prompt()
        self._offsets = _Offsets(plan, job, self._stream) if job.num_logprobs is not None else None
        self._num_sent = 0

    @property
    def is_finished(self) -> bool:
        """Whether no token follows."""
        return not self._job.writes or self.texts.is_finished

    @property
    def has_news(self) -> bool:
        """Whether there are tokens that were not delivered."""
        return self.texts.num_final > self._num_sent

    def start(self) -> None:
        """Join the batch; the prompt is read."""
        self.texts.generator.start(self.reader.states)

    def deliver(self) -> None:
        """Deliver what is new, and at the end of the text its last piece."""
        is_last = self.is_finished
        if is_last and not self._job.keeps_state:
            self._stream.flush()
        self.generation.deliver(self._piece(is_last=is_last))
        if is_last:
            self.generation.deliver(None)

    def fail(self, error: CharlmError) -> None:
        """Deliver an error."""
        self.generation.deliver(error)

    def _piece(self, *, is_last: bool) -> Piece:
        new = slice(self._num_sent, self.texts.num_final)
        piece = Piece(
            ids=(*self._echoed, *self.texts.generator.tokens[0][new]),
            finish_reason=self._finish_reason() if is_last else None,
            state=self._state() if is_last and self._job.keeps_state else None,
            text=self._stream.new_text(is_last=is_last),
        )
        if self._offsets is not None:
            piece = self._with_scores(piece, new, self._offsets)
        self._echoed = []
        self._num_sent = self.texts.num_final
        self.has_begun = True
        return piece

    def _with_scores(self, piece: Piece, new: slice, offsets: "_Offsets") -> Piece:
        """Return a piece with log-probabilities: those of the prompt, and those of new tokens."""
        generator, reader = self.texts.generator, self.reader
        before = (None,) if self._echoed and self._job.begins_with_eos else ()
        scores = (*before, *reader.log_probabilities, *generator.log_probabilities[0][new])
        alternatives = (*before, *reader.alternatives, *generator.alternatives[0][new])
        reader.forget()
        return replace(
            piece,
            log_probabilities=scores,
            alternatives=alternatives if self._job.num_logprobs else (),
            offsets=offsets.of(piece.ids),
        )

    def _finish_reason(self) -> FinishReason:
        is_at_end = not self.texts.generator.running[0] and not self._stream.ended
        return "stop" if self._stream.stopped or is_at_end else "length"

    def _state(self) -> GenerationState:
        state = self.texts.generator.generation_state(len(self._stream.text))
        return shorten(state, self._plan.trained.tokenizer, _MAX_HISTORY)


class _Offsets:
    """Counts the characters before each token of a text."""

    def __init__(self, plan: Plan, job: Job, stream: TextStream) -> None:
        """Begin with the prompt if it is echoed, else after it."""
        self._decoder = Decoder(plan.trained.tokenizer)
        self._stream = stream
        self._begins_with_eos = job.echo and job.begins_with_eos
        self._first = stream.start if job.echo else stream.prompt_length
        earlier = [] if plan.state is None else plan.state.ids
        before = earlier if job.echo else [*earlier, *plan.prompt_ids]
        self._position = sum(map(len, map(self._decoder.feed, before))) - self._first

    def of(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of characters before each of the next tokens."""
        end = len(self._stream.text) - self._first
        offsets = []
        for token in ids:
            # The text may end within a token, and the prompt may have the first character of one.
            offsets.append(min(max(self._position, 0), end))
            if self._begins_with_eos:  # <EOS> stands before the text.
                self._begins_with_eos = False
            else:
                self._position += len(self._decoder.feed(token))
        return tuple(offsets)
