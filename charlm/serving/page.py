"""The page of the server: its files, and the routes that it needs besides the API."""

from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from charlm.errors import CharlmError
from charlm.evaluation.probes.memory import Memory, measure_memory
from charlm.runs.samples import read_samples
from charlm.sampling.options import SampleOptions, StopCondition
from charlm.sampling.sample import sample
from charlm.serving import page_schemas as schemas
from charlm.serving.endpoints import as_json, route
from charlm.serving.errors import ApiError
from charlm.serving.models import ServedModels
from charlm.serving.next_token import predict_next
from charlm.serving.reading import Reader, StateCache, settled, split_text
from charlm.serving.requests import HasGone, Threads, read_body
from charlm.serving.training_text import TrainingText
from charlm.trained_model import TrainedModel
from charlm.views.style import design_tokens

_STATES_BYTES = 64 << 20  # The saved states of all runs take at most this memory.
_EXAMPLE_CHARACTERS = 400
_SHARED_STYLE = "tokens.css"
_FILES = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "shared.js": "text/javascript",
    "state.js": "text/javascript",
    "reading.js": "text/javascript",
    "write.js": "text/javascript",
    "score.js": "text/javascript",
    "memory.js": "text/javascript",
    "records.js": "text/javascript",
}
_NO_RECORDS = "it reads one long text, and no records such as names or titles"
_BACKWARD = (
    "it reads a text from the end to the beginning, so it cannot continue one; use a run of "
    "direction forward"
)
_BOTH = (
    "it reads a text in both directions, so no token is the next; use a run of direction forward"
)


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


class Page:
    """The page of some runs: its routes, and the states that it keeps."""

    def __init__(self, models: ServedModels) -> None:
        """Make a page for the runs of a server."""
        states = StateCache(_STATES_BYTES)
        self._models = models
        self._runs = {
            model.name: PageRun(
                name=model.name,
                trained=model.trained,
                reader=Reader(model.trained, states),
                training=TrainingText(model.trained, model.engine.training_index),
            )
            for model in models
        }
        self._quick = Threads(2)
        self._heavy = Threads(1)

    def files(self) -> list[Route]:
        """Return the routes of the page's files."""
        assets = [*_FILES, _SHARED_STYLE]
        return [
            Route("/", partial(_send_file, name="page.html"), methods=["GET"]),
            *(
                Route(f"/assets/{it}", partial(_send_file, name=it), methods=["GET"])
                for it in assets
            ),
        ]

    def close(self) -> None:
        """Begin no further measurement."""
        self._quick.close()
        self._heavy.close()

    @route("GET", "/page/runs", schemas.RunsResponse)
    async def list_runs(self, request: Request) -> Response:
        """List the runs."""
        limits = {
            "characters": schemas.MAX_CHARACTERS,
            "memory_characters": schemas.MAX_MEMORY_CHARACTERS,
            "memory_tokens": schemas.MAX_MEMORY_TOKENS,
        }
        runs = [_describe(run) for run in self._runs.values()]
        return as_json(schemas.RunsResponse(schemas.RunList(runs, limits)))

    @route(
        "POST",
        "/page/read",
        schemas.ReadResponse,
        schemas.ReadRequest,
        examples=({"text": "The cat", "start": 4, "alternatives": 2},),
    )
    async def read(self, request: Request) -> Response:
        """Predict the tokens of a text from an edited position on."""
        asked = await read_body(request, schemas.ReadRequest)
        run = self._forward_run(asked.model)

        def measure(has_gone: HasGone) -> BaseModel:
            reading = run.reader.read(
                asked.text,
                start=asked.start,
                alternatives=asked.alternatives,
                is_interrupted=has_gone,
            )
            return schemas.ReadResponse(reading)

        return await self._quick.run(request, measure)

    @route(
        "POST",
        "/page/next",
        schemas.NextResponse,
        schemas.NextRequest,
        examples=({"text": "The cat", "at": 4, "temperature": 0.7, "top_p": 0.9},),
    )
    async def predict_next(self, request: Request) -> Response:
        """Return the distribution of the token at a position of a text."""
        asked = await read_body(request, schemas.NextRequest)
        run = self._forward_run(asked.model)

        def measure(_: HasGone) -> BaseModel:
            at = len(asked.text) if asked.at is None else asked.at
            found = predict_next(
                run.reader,
                asked.text,
                at,
                asked.filters(),
                max_copy=asked.max_copy,
                training=run.training,
            )
            return schemas.NextResponse(found)

        return await self._quick.run(request, measure)

    @route(
        "POST",
        "/page/copies",
        schemas.CopiesResponse,
        schemas.CopiesRequest,
        examples=({"text": "The cat", "min_characters": 3},),
    )
    async def find_copies(self, request: Request) -> Response:
        """Find the passages of a text that the training text has, too."""
        asked = await read_body(request, schemas.CopiesRequest)
        run = self._forward_run(asked.model)
        return await self._heavy.run(
            request, lambda _: schemas.CopiesResponse(find_copies(run, asked))
        )

    @route(
        "POST",
        "/page/memory",
        schemas.MemoryResponse,
        schemas.MemoryRequest,
        examples=({"text": "The cat"},),
    )
    async def measure_memory(self, request: Request) -> Response:
        """Measure which earlier tokens each prediction of a passage depends on."""
        asked = await read_body(request, schemas.MemoryRequest)
        run = self._forward_run(asked.model)
        return await self._heavy.run(
            request, lambda _: schemas.MemoryResponse(_memory(run, asked.text))
        )

    @route(
        "POST",
        "/page/records",
        schemas.RecordsResponse,
        schemas.RecordsRequest,
        examples=({"model": "records", "count": 2, "seed": 1},),
    )
    async def write_records(self, request: Request) -> Response:
        """Write records, and say which of them are new."""
        asked = await read_body(request, schemas.RecordsRequest)
        run = self._run(asked.model)
        if reason := _unavailable(run.trained)["records"]:
            raise _unsupported(run, reason)
        return await self._heavy.run(
            request, lambda _: schemas.RecordsResponse(write_records(run, asked))
        )

    def _run(self, name: str | None) -> PageRun:
        return self._runs[self._models.find(name).name]

    def _forward_run(self, name: str | None) -> PageRun:
        run = self._run(name)
        if reason := _reading_problem(run.trained):
            raise _unsupported(run, reason)
        return run


def find_copies(run: PageRun, asked: schemas.CopiesRequest) -> schemas.Copies:
    """Return the passages that a text copies from the training text, from an edited position on."""
    pieces = split_text(run.trained, asked.text)
    # A passage that an edit makes or destroys is near it: no further than its smallest length.
    changed = max(0, settled(run.trained, asked.text, asked.start) - asked.min_characters)
    first = sum(end <= max(0, changed - asked.min_characters) for end in pieces.ends)
    try:
        copied = run.training.copied_tokens(pieces.ids[first:], asked.min_characters)
    except CharlmError as error:
        return schemas.Copies(0, [], str(error))
    spans: list[tuple[int, int]] = []
    ends = [0, *pieces.ends][first:]
    for number, is_copied in enumerate(copied):
        begin, end = max(ends[number], changed), ends[number + 1]
        if is_copied and begin < end:
            if spans and spans[-1][1] == begin:
                begin = spans.pop()[0]
            spans.append((begin, end))
    return schemas.Copies(changed, spans, None)


def write_records(run: PageRun, asked: schemas.RecordsRequest) -> schemas.Records:
    """Return records that a model writes, and which of them are new."""
    options = SampleOptions(
        stop=StopCondition(length=asked.max_tokens),
        filters=asked.filters(),
        count=asked.count,
        seed=asked.seed,
    )
    written = sample(run.trained, options)
    reason = None
    are_new: list[bool | None] = [None for _ in written]
    try:
        are_new = [run.training.is_new_record(record.tokens) for record in written]
    except CharlmError as error:
        reason = str(error)
    records = [
        schemas.Record(
            text=record.text,
            log_probability=record.log_probability,
            tokens=len(record.tokens),
            ended=record.ended,
            is_new=is_new,
        )
        for record, is_new in zip(written, are_new, strict=True)
    ]
    return schemas.Records(records, reason)


def _memory(run: PageRun, text: str) -> Memory:
    memory = measure_memory(run.trained, text, tokens=schemas.MAX_MEMORY_TOKENS)
    # The path of the folder is not the client's business.
    return replace(memory, settings=memory.settings | {"run": run.name})


def _describe(run: PageRun) -> schemas.RunInfo:
    trained = run.trained
    return schemas.RunInfo(
        name=run.name,
        cell=trained.config.model.cell.kind,
        level=trained.tokenizer.section.level,
        separates_by_space=trained.tokenizer.separates_by_space,
        separator=trained.record_separator,
        writes_records=trained.writes_records,
        direction=trained.model.direction,
        vocabulary_size=trained.tokenizer.vocabulary_size,
        example=_example(trained),
        unavailable=_unavailable(trained),
    )


def _unavailable(trained: TrainedModel) -> dict[str, str | None]:
    """Return for each view why a run does not have it, or None."""
    problem = _reading_problem(trained)
    no_records = None if trained.writes_records else _NO_RECORDS
    return {
        "write": problem,
        "score": None,
        "memory": problem,
        "records": problem if trained.model.direction == "both" else no_records,
    }


def _reading_problem(trained: TrainedModel) -> str | None:
    """Return why a text cannot be read from its beginning, or None."""
    return {"forward": None, "backward": _BACKWARD, "both": _BOTH}[trained.model.direction]


def _unsupported(run: PageRun, reason: str) -> ApiError:
    return ApiError(400, f"{run.name}: {reason}", param="model", code="unsupported_model")


def _example(trained: TrainedModel) -> str:
    """Return the beginning of what the model wrote last during its training."""
    samples = read_samples(trained.folder)
    return str(samples[-1]["text"])[:_EXAMPLE_CHARACTERS] if samples else ""


async def _send_file(request: Request, *, name: str) -> Response:
    if name == _SHARED_STYLE:
        return Response(design_tokens(), media_type="text/css")
    text = (files("charlm.serving") / "assets" / name).read_text(encoding="utf-8")
    return Response(text, media_type=_FILES.get(name, "text/html"))
