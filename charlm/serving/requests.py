"""From the bytes of a request to a checked value, and work that ends when its client leaves."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from charlm.config.mistakes import describe_mistakes
from charlm.serving.errors import ApiError
from charlm.serving.schemas import IGNORED
from charlm.storage.untrusted import parse_json

_QUICK_BYTES = 1 << 16  # A longer text is parsed in a thread, so that other requests go on.

Body = TypeVar("Body", bound=BaseModel)
Value = TypeVar("Value")


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


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, Value]) -> Value:
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


async def _wait_until_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: "asyncio.Task[Any]") -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
