"""The page of the server: its files, and the routes that only the page needs."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, TypeVar

import anyio
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from charlm.errors import CharlmError
from charlm.evaluation.probes.memory import measure_memory
from charlm.runs.samples import read_samples
from charlm.sampling.options import SampleOptions, StopCondition
from charlm.sampling.sample import sample
from charlm.serving.errors import ApiError
from charlm.serving.next_token import predict_next
from charlm.serving.page_requests import (
    MAX_CHARACTERS,
    MAX_MEMORY_CHARACTERS,
    CopiesRequest,
    MemoryRequest,
    NextRequest,
    PageRequest,
    ReadRequest,
    RecordsRequest,
)
from charlm.serving.reading import Interrupted, Reader, StateCache, settled, split_text
from charlm.serving.training_text import TrainingText
from charlm.trained_model import TrainedModel
from charlm.views.style import design_tokens

MAX_MEMORY_TOKENS = 128  # The cost grows with the square: 128 take about two seconds.
_CACHE_BYTES = 64 << 20  # Of the saved states of all runs.
_MAX_WAITING = 32  # Requests that wait for a thread.
_EXAMPLE_CHARACTERS = 400
_TYPES = {"css": "text/css", "js": "text/javascript", "html": "text/html"}
_ASSETS = (
    "page.css",
    "page.js",
    "shared.js",
    "state.js",
    "reading.js",
    "write.js",
    "score.js",
    "memory.js",
    "records.js",
)

Model = TypeVar("Model", bound=PageRequest)


@dataclass(frozen=True)
class PageRun:
    """A run that the page shows.

    Attributes:
        name: Name of the run in requests.
        trained: The model.
        reader: Reader of edited texts.
        training: Training text of the run.
    """

    name: str
    trained: TrainedModel
    reader: Reader
    training: TrainingText


class Threads:
    """Runs measurements in threads; a measurement whose client has gone is not begun."""

    def __init__(self, threads: int) -> None:
        """Allow a number of measurements at a time; at most `_MAX_WAITING` wait."""
        self._limiter = anyio.Semaphore(threads)
        self._waiting = 0

    async def run(self, request: Request, measure: Callable[[Callable[[], bool]], Any]) -> Any:
        """Return the result of a measurement.

        Args:
            request: Request that it belongs to.
            measure: Function that is given another one, which says whether the client has gone.

        Raises:
            ApiError: Too many requests wait already.
            Interrupted: The client has gone.
        """
        if self._waiting >= _MAX_WAITING:
            raise ApiError(429, "the server is busy; try again in a second", code="busy")
        self._waiting += 1
        try:
            await self._limiter.acquire()
        finally:
            self._waiting -= 1
        try:
            return await _while_connected(request, measure)
        finally:
            self._limiter.release()


async def _while_connected(request: Request, measure: Callable[[Callable[[], bool]], Any]) -> Any:
    if await request.is_disconnected():
        raise Interrupted
    has_gone = False

    async def watch() -> None:
        nonlocal has_gone
        while not await request.is_disconnected():
            await anyio.sleep(0.1)
        has_gone = True

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            return await anyio.to_thread.run_sync(partial(measure, lambda: has_gone))
        finally:
            group.cancel_scope.cancel()


class Page:
    """The page of some runs: its routes, and the states that it keeps."""

    def __init__(self, runs: Mapping[str, TrainedModel]) -> None:
        """Serve models under the names of their runs; the first one is the default."""
        cache = StateCache(_CACHE_BYTES)
        self._runs = {
            name: PageRun(name, trained, Reader(trained, cache), TrainingText(trained))
            for name, trained in runs.items()
        }
        self._quick = Threads(2)
        self._heavy = Threads(1)

    def routes(self) -> list[Route]:
        """Return the routes."""
        assets = [
            Route(f"/assets/{name}", partial(_asset, name=name), methods=["GET"])
            for name in (*_ASSETS, "tokens.css")
        ]
        posts = {
            "read": self._read,
            "next": self._next,
            "copies": self._copies,
            "memory": self._memory,
            "records": self._records,
        }
        return [
            Route("/", partial(_asset, name="page.html"), methods=["GET"]),
            *assets,
            Route("/page/runs", self._list_runs, methods=["GET"]),
            *(Route(f"/page/{name}", route, methods=["POST"]) for name, route in posts.items()),
        ]

    async def _list_runs(self, request: Request) -> Response:
        names = [name for name, run in self._runs.items() if run.trained.writes_records]
        runs = [_describe(run, names) for run in self._runs.values()]
        limits = {
            "characters": MAX_CHARACTERS,
            "memory_characters": MAX_MEMORY_CHARACTERS,
            "memory_tokens": MAX_MEMORY_TOKENS,
        }
        return JSONResponse({"runs": runs, "limits": limits})

    async def _read(self, request: Request) -> Response:
        asked = await _parse(request, ReadRequest)
        run = self._forward_run(asked)

        def measure(has_gone: Callable[[], bool]) -> Any:
            reading = run.reader.read(
                asked.text,
                start=asked.start,
                alternatives=asked.alternatives,
                is_interrupted=has_gone,
            )
            return reading.to_json()

        return await self._answer(self._quick, request, measure)

    async def _next(self, request: Request) -> Response:
        asked = await _parse(request, NextRequest)
        run = self._forward_run(asked)

        def measure(_: Callable[[], bool]) -> Any:
            at = len(asked.text) if asked.at is None else asked.at
            found = predict_next(
                run.reader,
                asked.text,
                at,
                asked.filters(),
                max_copy=asked.max_copy,
                training=run.training,
            )
            return found.to_json()

        return await self._answer(self._quick, request, measure)

    async def _copies(self, request: Request) -> Response:
        asked = await _parse(request, CopiesRequest)
        run = self._forward_run(asked)
        return await self._answer(self._heavy, request, lambda _: find_copies(run, asked))

    async def _memory(self, request: Request) -> Response:
        asked = await _parse(request, MemoryRequest)
        run = self._run(asked)

        def measure(_: Callable[[], bool]) -> Any:
            return measure_memory(run.trained, asked.text, tokens=MAX_MEMORY_TOKENS).to_json()

        return await self._answer(self._heavy, request, measure)

    async def _records(self, request: Request) -> Response:
        asked = await _parse(request, RecordsRequest)
        run = self._run(asked)
        if not run.trained.writes_records:
            raise ApiError(
                400, f"{run.name}: {_NO_RECORDS}", param="model", code="unsupported_model"
            )
        return await self._answer(self._heavy, request, lambda _: write_records(run, asked))

    async def _answer(
        self, threads: Threads, request: Request, measure: Callable[[Callable[[], bool]], Any]
    ) -> Response:
        try:
            return JSONResponse(await threads.run(request, measure))
        except Interrupted:
            return Response(status_code=499)  # Nobody reads it.

    def _run(self, asked: PageRequest) -> PageRun:
        if asked.model is None:
            return next(iter(self._runs.values()))
        if asked.model not in self._runs:
            names = ", ".join(self._runs)
            message = f"there is no model {asked.model!r}; use one of {names}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return self._runs[asked.model]

    def _forward_run(self, asked: PageRequest) -> PageRun:
        run = self._run(asked)
        if reason := _reading_problem(run.trained):
            raise ApiError(400, f"{run.name}: {reason}", param="model", code="unsupported_model")
        return run


_NO_RECORDS = "the run reads one long text and not records, such as names or titles"


def find_copies(run: PageRun, asked: CopiesRequest) -> dict[str, Any]:
    """Return the copied passages, as `start`, `spans` of characters, and `reason` if there is none.

    Passages before `start` are the same as before the edit.
    """
    pieces = split_text(run.trained, asked.text)
    # A passage that an edit makes or destroys begins or ends within its own length of the edit.
    changed = max(0, settled(run.trained, asked.text, asked.start) - asked.min_characters)
    context = max(0, changed - asked.min_characters)
    first = sum(end <= context for end in pieces.ends)
    try:
        copied = run.training.copied_tokens(pieces.ids[first:], asked.min_characters)
    except CharlmError as error:
        return {"start": 0, "spans": [], "reason": str(error)}
    begins = [0, *pieces.ends][first:]
    spans: list[list[int]] = []
    for begin, end, is_copied in zip(begins, pieces.ends[first:], copied, strict=False):
        if not is_copied or end <= changed:
            continue
        if spans and spans[-1][1] == max(begin, changed):
            spans[-1][1] = end
        else:
            spans.append([max(begin, changed), end])
    return {"start": changed, "spans": spans, "reason": None}


def write_records(run: PageRun, asked: RecordsRequest) -> dict[str, Any]:
    """Return records that the model writes, each with whether it is new, or None if unknown."""
    options = SampleOptions(
        stop=StopCondition(length=asked.max_tokens),
        filters=asked.filters(),
        count=asked.count,
        seed=asked.seed,
    )
    reason = None
    records = []
    for written in sample(run.trained, options):
        is_new = None
        if reason is None:
            try:
                is_new = run.training.is_new_record(written.tokens)
            except CharlmError as error:
                reason = str(error)
        records.append(
            {
                "text": written.text,
                "log_probability": written.log_probability,
                "tokens": len(written.tokens),
                "ended": written.ended,
                "is_new": is_new,
            }
        )
    return {"records": records, "reason": reason}


def _describe(run: PageRun, runs_of_records: Sequence[str]) -> dict[str, Any]:
    trained = run.trained
    reading = _reading_problem(trained)
    both = trained.model.direction == "both"
    records = None if trained.writes_records and not both else _NO_RECORDS
    return {
        "name": run.name,
        "title": trained.origin.corpus.get("title", ""),
        "level": trained.config.tokenizer.level,
        "separates_by_space": trained.tokenizer.separates_by_space,
        "separator": trained.record_separator,
        "writes_records": trained.writes_records,
        "direction": trained.model.direction,
        "vocabulary_size": trained.tokenizer.vocabulary_size,
        "cell": trained.config.model.cell.kind,
        "example": _example(trained),
        "unavailable": {
            "write": reading,
            "score": None,
            "memory": reading,
            "records": reading if both else records,
        },
        "runs_of_records": [name for name in runs_of_records if name != run.name],
    }


def _reading_problem(trained: TrainedModel) -> str | None:
    """Return why the page cannot read a text from its beginning, or None."""
    if trained.model.direction == "backward":
        return (
            "the model reads a text from its end to its beginning, so that it cannot continue one; "
            "choose a run of direction forward"
        )
    if trained.model.direction == "both":
        return (
            "the model reads a text in both directions, so that it has no next token; choose a run "
            "of direction forward"
        )
    return None


def _example(trained: TrainedModel) -> str:
    """Return the end of what the model wrote last during its training."""
    samples = read_samples(trained.folder)
    return str(samples[-1]["text"])[:_EXAMPLE_CHARACTERS] if samples else ""


async def _parse(request: Request, kind: type[Model]) -> Model:
    body = await request.body()
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _validation_error(error) from None


def _validation_error(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    message = f"{place}: {first['msg']}" if place else first["msg"]
    return ApiError(400, message, param=place or None, code="invalid_value")


async def _asset(request: Request, *, name: str) -> Response:
    if name == "tokens.css":
        text = design_tokens()
    else:
        text = (files("charlm.serving") / "assets" / name).read_text(encoding="utf-8")
    return Response(text, media_type=_TYPES[name.rsplit(".")[-1]])
