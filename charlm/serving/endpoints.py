"""Routes that answer with JSON: each is a method that states its path and its models."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Handler = Callable[[Request], Awaitable[Response]]
Method = TypeVar("Method", bound=Callable[..., Awaitable[Response]])
_MARK = "endpoint"  # Attribute of a method that answers.


class Endpoint(NamedTuple):
    """A route and its description.

    Attributes:
        path: Path of the route.
        method: HTTP method.
        handler: Function that answers.
        summary: What the route does, for /openapi.json.
        response: Model of the response, or None if it is no JSON.
        request: Model of the body of the request, or None if it has none.
        examples: Bodies that the route accepts.
    """

    path: str
    method: str
    handler: Handler
    summary: str
    response: type[BaseModel] | None
    request: type[BaseModel] | None = None
    examples: tuple[Mapping[str, Any], ...] = ()


def route(
    method: str,
    path: str,
    response: type[BaseModel] | None,
    request: type[BaseModel] | None = None,
    *,
    examples: tuple[Mapping[str, Any], ...] = (),
) -> Callable[[Method], Method]:
    """Let a method of a class answer a route, which the docstring of the method describes.

    The arguments are the attributes of `Endpoint`.
    """

    def mark(handler: Method) -> Method:
        summary = inspect.getdoc(handler) or ""
        endpoint = Endpoint(path, method, handler, summary, response, request, examples)
        setattr(handler, _MARK, endpoint)
        return handler

    return mark


def endpoints_of(owner: object) -> list[Endpoint]:
    """Return the routes that the methods of an object answer, in the order of its class."""
    return [
        getattr(function, _MARK)._replace(handler=getattr(owner, name))
        for name, function in vars(type(owner)).items()
        if hasattr(function, _MARK)
    ]


def routes_of(endpoints: list[Endpoint]) -> list[Route]:
    """Return the routes of endpoints for Starlette."""
    return [Route(item.path, item.handler, methods=[item.method]) for item in endpoints]


def as_json(value: BaseModel) -> Response:
    """Return a response with the fields of a value."""
    return Response(value.model_dump_json(), media_type="application/json")
