"""The routes of the API: one function per route, from a request to a response."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from charlm.data.tokenizer import EOS, EOS_TEXT
from charlm.errors import CharlmError
from charlm.evaluation.sentences import score_sentences
from charlm.serving import completions, responses, schemas
from charlm.serving.endpoints import as_json, route
from charlm.serving.errors import ApiError, as_api_error
from charlm.serving.metrics import Metrics
from charlm.serving.models import ServedModel, ServedModels
from charlm.serving.options import ServeOptions
from charlm.serving.requests import HasGone, Threads, read_body, unless_client_leaves
from charlm.version import VERSION

_QUICK_TOKENS = 10_000  # A response with more is written as JSON in a thread.
# Some clients, httpx among them, end a line of a stream at these characters, too.
_ESCAPED = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


@dataclass(frozen=True)
class Api:
    """The API of some runs.

    Attributes:
        models: The runs.
        options: Options of the server.
        metrics: What is counted.
        threads: Threads in which sentences are scored.
    """

    models: ServedModels
    options: ServeOptions
    metrics: Metrics
    threads: Threads

    @route("GET", "/v1/models", responses.ModelList)
    async def list_models(self, request: Request) -> Response:
        """List the runs."""
        infos = [self._info(model) for model in self.models]
        return as_json(responses.ModelList(data=infos))

    @route("GET", "/v1/models/{model}", responses.ModelInfo)
    async def show_model(self, request: Request) -> Response:
        """Describe a run."""
        return as_json(self._info(self.models.find(request.path_params["model"])))

    @route(
        "POST",
        "/v1/completions",
        responses.Completion,
        schemas.CompletionRequest,
        examples=(
            {"prompt": "The ", "max_tokens": 20, "temperature": 0.8, "seed": 1},
            {"prompt": ["The ", "A "], "n": 2, "stop": ["."], "logprobs": 2},
            {"prompt": [2, 3], "max_tokens": 0, "echo": True, "logprobs": 0},
            {"prompt": "", "max_tokens": 5, "stream": True},
            {"prompt": "The ", "max_tokens": 5, "state": True},
        ),
    )
    async def complete(self, request: Request) -> Response:
        """Write texts that continue prompts, or score prompts."""
        started = time.perf_counter()
        asked = await read_body(request, schemas.CompletionRequest)
        model = self.models.find(asked.model)
        texts = completions.read_texts(asked, model, max_sequences=self._max_sequences)
        if asked.stream:
            return await self._stream(request, texts, started)
        completion = await unless_client_leaves(request, completions.complete(texts))
        self._count(completion)
        tokens = 0 if completion.usage is None else completion.usage.total_tokens
        if tokens * (1 + (asked.logprobs or 0)) <= _QUICK_TOKENS:
            return as_json(completion)
        return await asyncio.to_thread(as_json, completion)

    @route(
        "POST",
        "/v1/score",
        responses.ScoreResponse,
        schemas.ScoreRequest,
        examples=({"sentences": ["The cat sat.", "The cat sat on."], "explain": True},),
    )
    async def score(self, request: Request) -> Response:
        """Return the log-probability of sentences, as `charlm eval sentences` does."""
        asked = await read_body(request, schemas.ScoreRequest)
        model = self.models.find(asked.model)
        self._check_length(sum(map(len, asked.sentences)), "sentences")

        def score(_: HasGone) -> responses.ScoreResponse:
            result = score_sentences(model.trained, asked.sentences, explain=asked.explain)
            found = result.to_json()
            # The path of the folder is not the client's business.
            found["settings"] |= {"run": model.name}
            return responses.ScoreResponse.model_validate(found)

        return await self.threads.run(request, score)

    @route("POST", "/v1/chat/completions", responses.ErrorResponse)
    async def refuse_chat(self, request: Request) -> Response:
        """Refuse chats: a run continues texts."""
        raise ApiError(
            404,
            "the models of this server continue texts and hold no chats; use /v1/completions with "
            "a prompt",
            code="not_found",
        )

    @route("GET", "/tokenizer_info", responses.TokenizerInfo)
    async def describe_tokenizer(self, request: Request) -> Response:
        """Name the special tokens."""
        return as_json(responses.TokenizerInfo(eos_token=EOS_TEXT))

    @route(
        "POST",
        "/tokenize",
        responses.TokenizeResponse,
        schemas.TokenizeRequest,
        examples=({"prompt": "The "}, {"prompt": "<EOS>"}),
    )
    async def tokenize(self, request: Request) -> Response:
        """Return the token ids of a text."""
        asked = await read_body(request, schemas.TokenizeRequest)
        model = self.models.find_tokenizer(asked.model)
        ids = await asyncio.to_thread(completions.read_ids, asked.prompt, model)
        most = self.options.max_text
        return as_json(responses.TokenizeResponse(tokens=ids, count=len(ids), max_model_len=most))

    @route(
        "POST",
        "/detokenize",
        responses.DetokenizeResponse,
        schemas.DetokenizeRequest,
        examples=({"tokens": [0, 2, 3]},),
    )
    async def detokenize(self, request: Request) -> Response:
        """Return the text of token ids."""
        asked = await read_body(request, schemas.DetokenizeRequest)
        model = self.models.find_tokenizer(asked.model)
        size = model.trained.tokenizer.vocabulary_size
        wrong = next((token for token in asked.tokens if not 0 <= token < size), None)
        if wrong is not None:
            message = f"tokens: must be between 0 and {size - 1}, got {wrong!r:.40}"
            raise ApiError(400, message, param="tokens", code="invalid_value")
        text = await asyncio.to_thread(_text_of, model, asked.tokens)
        return as_json(responses.DetokenizeResponse(prompt=text))

    @route("GET", "/health", responses.Health)
    async def show_health(self, request: Request) -> Response:
        """Say that it runs."""
        names = [model.name for model in self.models]
        return as_json(responses.Health(version=VERSION, models=names))

    @route("GET", "/metrics", None)
    async def show_metrics(self, request: Request) -> Response:
        """Return counts for Prometheus."""
        return self.metrics.response()

    @property
    def _max_sequences(self) -> int:
        return self.options.max_streams + self.options.max_queue

    def _info(self, model: ServedModel) -> responses.ModelInfo:
        trained = model.trained
        return responses.ModelInfo(
            id=model.name,
            created=0,
            checkpoint=trained.origin.which,
            step=trained.origin.state["step"],
            level=trained.tokenizer.section.level,
            mode=trained.mode,
            vocabulary_size=trained.tokenizer.vocabulary_size,
            max_model_len=self.options.max_text,
            record_separator=trained.record_separator,
        )

    def _check_length(self, characters: int, param: str) -> None:
        most = self.options.max_text
        if characters > most:
            message = f"{param}: have {characters:,} characters, but at most {most:,} are allowed"
            raise ApiError(400, message, param=param, code="invalid_value")

    def _count(self, completion: responses.Completion) -> None:
        if completion.usage is not None:
            self.metrics.count_usage(completion.model, completion.usage)

    async def _stream(self, request: Request, texts: completions.Texts, started: float) -> Response:
        """Return a stream whose first part is there, so that an error has its own status."""
        stack = ExitStack()
        parts = completions.stream(texts, stack)
        try:
            first = await unless_client_leaves(request, anext(parts))
        except BaseException:
            stack.close()
            raise
        self.metrics.count_first_token(texts.model.name, started)
        return EventStream(self._events(texts, first, parts), stack)

    async def _events(
        self,
        texts: completions.Texts,
        first: responses.Completion,
        parts: AsyncIterator[responses.Completion],
    ) -> AsyncIterator[bytes]:
        """Yield the parts of a stream as server-sent events; an error is the last one."""
        options = texts.asked.stream_options
        yield _event(first)
        try:
            async for part in parts:
                self._count(part)
                if part.choices or (options is not None and options.include_usage):
                    yield _event(part)
        except CharlmError as error:
            yield b"data: " + as_api_error(error).response().body + b"\n\n"
        yield b"data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """A stream of server-sent events that ends its work when the client leaves."""

    def __init__(self, events: AsyncIterator[bytes], stack: ExitStack) -> None:
        """Send events; the stack is closed at the end."""
        super().__init__(events, media_type="text/event-stream")
        self._stack = stack

    async def stream_response(self, send: Send) -> None:
        """Send the events."""
        with self._stack:
            await super().stream_response(send)


def _event(part: responses.Completion) -> bytes:
    return f"data: {part.model_dump_json().translate(_ESCAPED)}\n\n".encode()


def _text_of(model: ServedModel, ids: list[int]) -> str:
    """Return the text of ids; <EOS> at the beginning is written, as `tokenize` reads it."""
    text = model.trained.tokenizer.decode(ids[1:] if ids[:1] == [EOS] else ids)
    return EOS_TEXT + text if ids[:1] == [EOS] else text
