"""`/v1/completions`: from a request to jobs of an engine, and from their pieces to responses."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple

from charlm.data.tokenizer import EOS, EOS_TEXT
from charlm.errors import CharlmError
from charlm.sampling.beam_search import normalize
from charlm.sampling.options import SampleOptions
from charlm.serving.errors import ApiError
from charlm.serving.jobs import Generation, Job, Piece
from charlm.serving.models import ServedModel
from charlm.serving.responses import Choice, Completion, Logprobs, Usage
from charlm.serving.schemas import CompletionRequest, Prompt

_MAX_RESULTS = 4_000_000  # Log-probabilities that a response may have.
_THREADS = ThreadPoolExecutor(thread_name_prefix="charlm-submit")
# These threads prepare regular expressions and copy limits, so that those do not take all threads.
_SLOW_THREADS = ThreadPoolExecutor(2, thread_name_prefix="charlm-constraints")
MAX_WAITING = 1000  # Parts of a stream that wait for a client that reads slowly.


@dataclass(frozen=True)
class Texts:
    """What a request asks for.

    Attributes:
        asked: The request.
        model: Run that answers.
        options: How the texts are sampled, with seed and state.
        seed: Seed of the texts; without one in the request that of the state, or a new one.
        id: Name of the response.
        created: Time of the request, in seconds since 1970.
    """

    asked: CompletionRequest
    model: ServedModel
    options: SampleOptions
    seed: int
    id: str
    created: int

    def jobs(self) -> list[Job]:
        """Return a job for each candidate of each prompt."""
        return [
            self._job(prompt, number)
            for prompt in self.asked.prompts
            for number in range(self.asked.num_candidates)
        ]

    def _job(self, prompt: Prompt, number: int) -> Job:
        ids = _ids_of(prompt, self.model)
        asked = self.asked
        num_logprobs = asked.logprobs
        if num_logprobs is None and asked.num_candidates > asked.num_choices:
            num_logprobs = 0  # The candidates are ranked by them.
        return Job(
            replace(
                self.options,
                prompt=prompt if ids is None and isinstance(prompt, str) else "",
                count=1,
                best_of=1,
                length_penalty=None,
                state_out=False,
            ),
            number=number,
            prompt_ids=ids,
            num_logprobs=num_logprobs,
            echo=bool(asked.echo),
            writes=asked.writes,
            keeps_state=bool(asked.state),
            streams=bool(asked.stream),
        )

    def completion(self, choices: list[Choice], usage: Usage | None) -> Completion:
        """Return a response, or a part of one."""
        return Completion(
            id=self.id,
            created=self.created,
            model=self.model.name,
            choices=choices,
            usage=usage,
            seed=self.seed,
        )


class Submitted(NamedTuple):
    """A text that the engine writes.

    Attributes:
        generation: Its pieces.
        number: Number of the text among those of the seed.
        num_echoed: Number of tokens of its prompt that its pieces begin with.
        begins: Whether the first of these is the beginning of a text, which has no probability.
    """

    generation: Generation
    number: int
    num_echoed: int
    begins: bool


class Written(NamedTuple):
    """A text that is complete.

    Attributes:
        submitted: Text that the engine has written.
        piece: All of it.
        num_new: Number of its new tokens.
    """

    submitted: Submitted
    piece: Piece
    num_new: int


def read_texts(asked: CompletionRequest, model: ServedModel, *, max_sequences: int) -> Texts:
    """Return what a request asks for.

    Raises:
        ApiError: It asks for too much, or its fields exclude each other.
        OptionError: A value is out of its range, or options exclude each other.
    """
    _check_request(asked, max_sequences)
    options = asked.sample_options()
    if asked.handle:
        state = model.states.get(asked.handle)
        options = replace(options, state_in=state, seed=asked.seed)
        seed = state.seed if asked.seed is None else asked.seed
    else:
        seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
        options = replace(options, seed=seed)
    return Texts(
        asked=asked,
        model=model,
        options=options,
        seed=seed,
        id=f"cmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
    )


def _check_request(asked: CompletionRequest, max_sequences: int) -> None:
    """Raise ApiError if a request asks for too much, or its fields exclude each other."""
    candidates, prompts = asked.num_candidates, len(asked.prompts)
    if candidates * prompts > max_sequences:
        raise _wrong(
            "n",
            f"asks for {candidates * prompts} texts, but at most {max_sequences} may be asked for",
        )
    if asked.stream and candidates > asked.num_choices:
        raise _wrong("best_of", "cannot be combined with stream, because all candidates are needed")
    if asked.stream_options is not None and not asked.stream:
        raise _wrong("stream_options", "has no effect without stream")
    if asked.handle and prompts > 1:
        raise _wrong("state", "continues one text; send one prompt")
    if not asked.writes and not asked.echo:
        raise _wrong("max_tokens", "is 0: there is no text without echo")


async def _submit_all(texts: Texts, stack: ExitStack) -> list[Submitted]:
    """Give all jobs of a request to the engine; leaving the stack cancels them.

    Raises:
        CharlmError: As for `Engine.submit`.
        ApiError: The response would be too large.
    """
    submitted = []
    for job in texts.jobs():
        generation = await _submit(texts.model, job)
        stack.enter_context(generation)
        num_echoed = generation.num_prompt_tokens if job.echo else 0
        begins = num_echoed > 0 and job.options.state_in is None
        submitted.append(Submitted(generation, job.number, num_echoed, begins))
    _check_size(texts.asked, submitted)
    return submitted


async def complete(texts: Texts) -> Completion:
    """Write all texts of a request.

    Raises:
        CharlmError: As for `Engine.submit`, or the constraints leave nothing to write.
        ApiError: The response would be too large.
    """
    with ExitStack() as stack:
        submitted = await _submit_all(texts, stack)
        written = await asyncio.gather(*map(_written, submitted))
    usage = _usage(texts, submitted, sum(text.num_new for text in written))
    return texts.completion(_choices(texts, written), usage)


async def stream(texts: Texts, stack: ExitStack) -> AsyncIterator[Completion]:
    """Yield the parts of all texts as they are written, and then the usage without a text.

    Leaving the stack ends the work.

    Raises:
        CharlmError: As for `complete`.
        ApiError: As for `complete`, before the first part.
    """
    submitted = await _submit_all(texts, stack)
    seen = [0] * len(submitted)
    async for index, piece in _merged([text.generation for text in submitted]):
        choice = _choice(texts, index, submitted[index], piece, is_first=seen[index] == 0)
        seen[index] += len(piece.ids)
        yield texts.completion([choice], None)
    num_new = sum(seen) - sum(text.num_echoed for text in submitted)
    yield texts.completion([], _usage(texts, submitted, num_new))


async def _submit(model: ServedModel, job: Job) -> Generation:
    """Submit a job in a thread, because a long prompt takes time."""
    constraints = job.options.constraints
    is_slow = constraints.matching is not None or constraints.max_copy is not None
    submitted = (_SLOW_THREADS if is_slow else _THREADS).submit(model.engine.submit, job)
    try:
        return await asyncio.shield(asyncio.wrap_future(submitted))
    except asyncio.CancelledError:
        if not submitted.cancel():  # The thread has begun with the job.
            submitted.add_done_callback(_cancel_submitted)
        raise


def _cancel_submitted(submitted: Future[Generation]) -> None:
    if submitted.exception() is None:
        submitted.result().cancel()


async def _written(submitted: Submitted) -> Written:
    pieces = [piece async for piece in submitted.generation]
    if not pieces:
        raise CharlmError("the text was cancelled")
    piece = Piece(
        text="".join(piece.text for piece in pieces),
        ids=tuple(token for piece in pieces for token in piece.ids),
        log_probabilities=tuple(value for piece in pieces for value in piece.log_probabilities),
        alternatives=tuple(value for piece in pieces for value in piece.alternatives),
        offsets=tuple(value for piece in pieces for value in piece.offsets),
        finish_reason=pieces[-1].finish_reason,
        state=pieces[-1].state,
    )
    return Written(submitted, piece, len(piece.ids) - submitted.num_echoed)


async def _merged(generations: Sequence[Generation]) -> AsyncIterator[tuple[int, Piece]]:
    """Yield the pieces of several generations with their positions, in the order of arrival."""
    arrived: asyncio.Queue[tuple[int, Piece] | Exception | None] = asyncio.Queue()

    async def forward(index: int) -> None:
        try:
            async for piece in generations[index]:
                if arrived.qsize() >= MAX_WAITING:
                    raise CharlmError("the client reads the stream too slowly; it is cut here")
                arrived.put_nowait((index, piece))
            arrived.put_nowait(None)
        except CharlmError as error:
            arrived.put_nowait(error)

    tasks = [asyncio.ensure_future(forward(index)) for index in range(len(generations))]
    try:
        for _ in tasks:
            while (item := await arrived.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
    finally:
        for task in tasks:
            task.cancel()


def _choices(texts: Texts, written: Sequence[Written]) -> list[Choice]:
    """Return the best candidates of each prompt."""
    asked = texts.asked
    choices: list[Choice] = []
    for first in range(0, len(written), asked.num_candidates):
        candidates = written[first : first + asked.num_candidates]
        if asked.num_candidates > asked.num_choices:
            penalty = texts.options.ranking_penalty
            candidates = sorted(candidates, key=lambda text: -_rank(text, penalty))
        for candidate in candidates[: asked.num_choices]:
            index = len(choices)
            choices.append(
                _choice(texts, index, candidate.submitted, candidate.piece, is_first=True)
            )
    return choices


def _rank(written: Written, penalty: float) -> float:
    """Return the measure by which `charlm sample --best-of` ranks texts."""
    first = len(written.piece.ids) - written.num_new
    scores = written.piece.log_probabilities[first:]
    return normalize(sum(value or 0.0 for value in scores), written.num_new, penalty)


def _choice(
    texts: Texts, index: int, submitted: Submitted, piece: Piece, *, is_first: bool
) -> Choice:
    """Return a text or a part of one, which may be the first part."""
    asked = texts.asked
    begins = is_first and submitted.begins
    return Choice(
        index=index,
        number=submitted.number,
        text=piece.text,
        logprobs=None if asked.logprobs is None else _logprobs(texts, piece, begins),
        finish_reason=piece.finish_reason,
        token_ids=list(piece.ids) if asked.return_token_ids else None,
        state=None if piece.state is None else texts.model.states.put(piece.state),
    )


def _logprobs(texts: Texts, piece: Piece, begins: bool) -> Logprobs:
    names = texts.model.token_names
    values = list(piece.log_probabilities)
    top = [
        None if row is None else {names[token]: value for token, value in row.items()}
        for row in piece.alternatives
    ]
    if begins:  # Clients expect no value for the first token of a prompt.
        values[:1] = [None] * len(values[:1])
        top[:1] = [None] * len(top[:1])
    return Logprobs(
        tokens=[names[token] for token in piece.ids],
        token_logprobs=values,
        top_logprobs=top if texts.asked.logprobs else None,
        text_offset=list(piece.offsets),
    )


def _usage(texts: Texts, submitted: Sequence[Submitted], num_new: int) -> Usage:
    prompts = submitted[:: texts.asked.num_candidates]
    num_prompt = sum(text.generation.num_prompt_tokens for text in prompts)
    return Usage(
        prompt_tokens=num_prompt, completion_tokens=num_new, total_tokens=num_prompt + num_new
    )


def _check_size(asked: CompletionRequest, submitted: Sequence[Submitted]) -> None:
    if asked.logprobs is not None:
        tokens = sum(text.num_echoed for text in submitted)
        if tokens * (asked.logprobs + 1) > _MAX_RESULTS:
            raise _wrong("logprobs", f"{tokens:,} tokens have too many; send a shorter prompt")


def _ids_of(prompt: Prompt, model: ServedModel) -> tuple[int, ...] | None:
    """Return the ids of a prompt that is given as ids, or begins with <EOS>; else None."""
    if not isinstance(prompt, str):
        return tuple(prompt)
    if not prompt.startswith(EOS_TEXT):
        return None
    return tuple(read_ids(prompt, model))


def read_ids(text: str, model: ServedModel) -> list[int]:
    """Return the ids of a text; <EOS> at its beginning is the id 0."""
    ids = model.trained.tokenizer.encode(text.removeprefix(EOS_TEXT)).tolist()
    return [EOS, *ids] if text.startswith(EOS_TEXT) else ids


def _wrong(param: str, problem: str) -> ApiError:
    return ApiError(400, f"{param}: {problem}", param=param, code="invalid_value")
