"""The decoding engine: jobs for the same run are decoded together, in one thread.

A `Job` is one sequence. `Engine.submit` returns a `Generation`, which yields `Piece`s to a thread
or to an asyncio task. Nothing here knows HTTP.

A text does not depend on the texts beside it: products have packed weights, so that a row of a
batch is the same in any company (charlm/model/fast/packed.py). It is the text that `charlm sample`
writes for the same seed, except that the last bits of sums differ; see charlm/sampling/batch.py.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass, replace

from charlm.data.suffix_index import SuffixIndex
from charlm.errors import (
    BusyError,
    CharlmError,
    ClosedError,
    OptionError,
    UnsupportedOptionError,
    counted,
)
from charlm.model.fast.packed import with_packed_products
from charlm.sampling.batch import Batch
from charlm.sampling.plan import Plan, make_plan
from charlm.sampling.prompts import Prompt
from charlm.sampling.sample import training_index
from charlm.sampling.stepper import Stepper
from charlm.serving.jobs import Generation, Job, wake
from charlm.serving.rows import Row
from charlm.trained_model import TrainedModel

_PIECE_SECONDS = 0.02  # Between two pieces of a text, so that streaming does not slow the decoding.
# Prompts are read between two steps for this many times as long as the last step took, and at least
# a window.
_READING_SHARE = 2.0


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
        self._queue = deque[Row]()
        self._reading = deque[Row]()
        self._rows: list[Row] = []
        self._batch = Batch(trained.model, Stepper(with_packed_products(trained.model)))
        self._index: SuffixIndex | None = None
        self._index_lock = threading.Lock()
        self._is_closing = False
        self._step_seconds = 0.0
        self._next_pieces = 0.0
        self._thread = threading.Thread(target=self._run, name="charlm-engine", daemon=True)
        self._thread.start()

    @property
    def num_running(self) -> int:
        """Number of sequences that are decoded now."""
        return len(self._rows) + len(self._reading)

    @property
    def num_queued(self) -> int:
        """Number of sequences that wait for a row."""
        return len(self._queue)

    def submit(self, job: Job) -> Generation:
        """Put a job into the queue. Any thread may call it.

        The job is checked and prepared here. That takes long for a long prompt, a regular
        expression or a copy limit, so an asyncio program calls this in a worker thread.

        Raises:
            BusyError: The queue is full.
            OptionError: An option does not suit the model, or the text is too long.
            ClosedError: The engine is closed.
            CharlmError: As for `charlm.sampling.sample.sample`.
        """
        self._check_open()
        plan = _plan(self.trained, job)
        self._check_length(job, plan)
        num_prompt_tokens = len(plan.prompt_ids) + job.begins_with_eos
        generation = Generation(num_prompt_tokens, self._cancel)
        max_copy = job.options.constraints.max_copy
        limit = None if max_copy is None else plan.copy_limit(self.training_index(), max_copy)
        row = Row(job, plan, generation, self._batch, limit)
        with self._changed:
            self._check_open()
            self._queue.append(row)
            self._changed.notify()
        return generation

    def training_index(self) -> SuffixIndex:
        """Return the index of the training text, which is made at the first call.

        Raises:
            CharlmError: The training text cannot be read, or pydivsufsort is not installed.
        """
        with self._index_lock:
            if self._index is None:
                self._index = training_index(self.trained)
            return self._index

    def close(self) -> None:
        """End all jobs with an error, and the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _check_open(self) -> None:
        if self._is_closing:
            raise ClosedError("the server is shutting down")
        most = self.limits.max_rows + self.limits.max_queued
        if self.num_running + len(self._queue) >= most:
            waiting = counted(len(self._queue), "text")
            raise BusyError(f"the server is busy, with {waiting} waiting; try again later")

    def _check_length(self, job: Job, plan: Plan) -> None:
        prompt = len(plan.prompt_ids)
        if prompt > self.limits.max_length:
            raise OptionError(
                "prompt",
                f"must have at most {counted(self.limits.max_length, 'token')}, but has {prompt}",
            )
        most = self.limits.max_length - prompt
        if job.writes and plan.options.stop.max_tokens > most:
            problem = f"must be at most {counted(most, 'token')} after this prompt"
            raise OptionError("length", problem, value=plan.options.stop.max_tokens)

    def _cancel(self, generation: Generation) -> None:
        with self._changed:
            waiting = [row for row in self._queue if row.generation is not generation]
            self._queue = deque(waiting)

    def _run(self) -> None:
        reason = "the server failed; its output has the reason"
        try:
            while self._admit():
                self._drop_cancelled()
                self._read_prompts()
                self._step()
            reason = "the server is shutting down"
        finally:
            with self._changed:
                self._is_closing = True
            self._fail([*self._rows, *self._reading, *self._queue], reason)

    def _fail(self, rows: list[Row], reason: str) -> None:
        for row in rows:
            row.fail(ClosedError(reason))
        wake([row.generation for row in rows])

    def _admit(self) -> bool:
        """Wait for jobs, and move them from the queue to free rows; return False at the end."""
        with self._changed:
            while not (self.num_running or self._queue or self._is_closing):
                self._changed.wait()
            while self._queue and self.num_running < self.limits.max_rows:
                self._reading.append(self._queue.popleft())
            return not self._is_closing

    def _drop_cancelled(self) -> None:
        cancelled = [row for row in self._rows if row.generation.is_cancelled]
        self._remove(cancelled)
        for _ in range(len(self._reading)):
            row = self._reading.popleft()
            if not row.generation.is_cancelled:
                self._reading.append(row)

    def _remove(self, rows: list[Row]) -> None:
        if rows:
            self._batch.leave([row.texts.generator for row in rows])
            gone = {id(row) for row in rows}
            self._rows = [row for row in self._rows if id(row) not in gone]

    def _read_prompts(self) -> None:
        """Read prompts for some time; rows whose prompt is read join the batch."""
        start = time.perf_counter()
        while self._reading:
            row = self._reading[0]
            if not row.reader.is_finished:
                row.reader.read_window()
            if row.reader.is_finished:
                with self._changed:  # `submit` counts the row in one place or the other.
                    self._rows.append(self._reading.popleft())
                self._start(row)
            spent = time.perf_counter() - start
            if self._rows and spent > _READING_SHARE * self._step_seconds:
                return

    def _start(self, row: Row) -> None:
        row.start()
        if row.is_finished:
            self._deliver([row])

    def _step(self) -> None:
        """Give each row a token, and deliver pieces."""
        self._prepare()
        if not self._rows:
            return
        start = time.perf_counter()
        failed = {id(member): error for member, error in self._batch.step()}
        if failed:
            self._end_failed(failed)
        for row in self._rows:
            row.texts.take()
        now = time.perf_counter()
        self._step_seconds = now - start
        self._deliver_news(now)

    def _prepare(self) -> None:
        """Let rows leave dead ends; a row that cannot ends with an error."""
        failed: dict[int, CharlmError] = {}
        for row in self._rows:
            try:
                row.texts.prepare()
            except CharlmError as error:
                failed[id(row.texts.generator)] = error
        if failed:
            self._end_failed(failed)

    def _end_failed(self, failed: dict[int, CharlmError]) -> None:
        """End rows with an error, by the identity of their generators."""
        rows = [row for row in self._rows if id(row.texts.generator) in failed]
        for row in rows:
            row.fail(failed[id(row.texts.generator)])
        wake([row.generation for row in rows])
        self._remove(rows)

    def _deliver_news(self, now: float) -> None:
        is_due = now >= self._next_pieces
        if is_due:
            self._next_pieces = now + _PIECE_SECONDS
        rows = [
            row
            for row in self._rows
            if row.is_finished or (row.streams and (is_due or not row.has_begun) and row.has_news)
        ]
        if rows:
            self._deliver(rows)

    def _deliver(self, rows: list[Row]) -> None:
        for row in rows:
            row.deliver()
        wake([row.generation for row in rows])
        self._remove([row for row in rows if row.is_finished])


def _plan(trained: TrainedModel, job: Job) -> Plan:
    if trained.model.direction != "forward":
        raise UnsupportedOptionError(
            "model",
            f"the run has direction {trained.model.direction}, so that it cannot continue a text; "
            "use a run of direction forward",
        )
    options = replace(job.options, scored=job.num_logprobs is not None, state_out=job.keeps_state)
    prompt = None
    if job.prompt_ids is not None:
        size = trained.tokenizer.vocabulary_size
        unknown = next((token for token in job.prompt_ids if not 0 <= token < size), None)
        if unknown is not None:
            raise UnsupportedOptionError("prompt", f"ids must be below {size}", value=unknown)
        prompt = Prompt(list(job.prompt_ids[job.begins_with_eos :]))
    return make_plan(trained, options, prompt)
