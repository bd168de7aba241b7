"""From the bytes of a request to a checked value, and work that ends when its client leaves."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from charlm.config.mistakes import describe_mistakes
from charlm.serving.endpoints import as_json
from charlm.serving.errors import ApiError
from charlm.serving.schemas import IGNORED
from charlm.storage.untrusted import parse_json

_QUICK_BYTES = 1 << 16  # A longer body is parsed in a thread, so that other requests go on.
_MAX_REQUESTS = 32  # Number of requests that are measured or wait to be measured.

Body = TypeVar("Body", bound=BaseModel)
Value = TypeVar("Value")
HasGone = Callable[[], bool]


async def read_body(request: Request, kind: type[Body]) -> Body:
    """Return the checked body of a request.

    Raises:
        ApiError: It is no JSON object, or a field is unknown or wrong.
    """
    data = await request.body()
    if len(data) <= _QUICK_BYTES:
        return parse_body(data, kind)
    return await asyncio.to_thread(parse_body, data, kind)


def parse_body(data: bytes, kind: type[Body]) -> Body:
    """Return the checked body of a request; errors as for `read_body`."""
    try:
        fields = parse_json(data)
    except ValueError as error:
        raise ApiError(400, f"the request is not JSON: {error}", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "the request must be a JSON object", code="invalid_json")
    known = kind.model_fields
    given = {
        name: value
        for name, value in fields.items()
        if name in known or not (name in IGNORED or value is None)
    }
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = str(first["loc"][0]) if first["loc"] else None
        code = "unknown_parameter" if first["type"] == "extra_forbidden" else "invalid_value"
        raise ApiError(400, describe_mistakes(error, kind), param=param, code=code) from None


class Threads:
    """Runs the measurements of requests in a few threads.

    A measurement that still waits when its client leaves is not begun.
    """

    def __init__(self, threads: int) -> None:
        """Allow a number of measurements at a time."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="charlm-measure")
        self._num_requests = 0

    async def run(self, request: Request, measure: Callable[[HasGone], BaseModel]) -> Response:
        """Return the result of a measurement as a response.

        Args:
            request: Request that it belongs to.
            measure: Function that is given another one, which says whether the client has left.

        Raises:
            ApiError: There are too many requests, or the client has left.
        """
        if self._num_requests >= _MAX_REQUESTS:
            raise ApiError(429, "the server is busy; try again in a second", code="busy")
        has_gone = Event()
        self._num_requests += 1
        try:
            return await unless_client_leaves(request, self._work(measure, has_gone))
        finally:
            has_gone.set()
            self._num_requests -= 1

    async def _work(self, measure: Callable[[HasGone], BaseModel], has_gone: Event) -> Response:
        loop = asyncio.get_running_loop()
        answer = partial(_answer, measure, has_gone)
        return await loop.run_in_executor(self._executor, answer)

    def close(self) -> None:
        """Begin no further measurement."""
        self._executor.shutdown(wait=False, cancel_futures=True)


async def unless_client_leaves(request: Request, work: Awaitable[Value]) -> Value:
    """Return the result of work, which is cancelled when the client of the request leaves.

    Raises:
        ApiError: The client has left; nobody reads the response.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_wait_until_left(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client has left")
        return task.result()
    finally:
        await _cancel(watcher)
        await _cancel(task)


def _answer(measure: Callable[[HasGone], BaseModel], has_gone: Event) -> Response:
    return as_json(measure(has_gone.is_set))


async def _wait_until_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: "asyncio.Task[Any]") -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
