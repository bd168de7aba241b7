"""`/openapi.json`: the description of the API, made from the models that the routes use."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from charlm.serving.endpoints import Endpoint
from charlm.serving.responses import ErrorResponse
from charlm.serving.schemas import IGNORED
from charlm.version import VERSION

_REFERENCE = "#/components/schemas/{model}"
_DESCRIPTION = (
    "Texts by recurrent language models. Unknown fields of requests are errors, except those that "
    f"are null and those that never change a text: {', '.join(sorted(IGNORED))}."
)


def describe(endpoints: Sequence[Endpoint], *, has_key: bool) -> dict[str, Any]:
    """Return the description of an API in the format OpenAPI 3.1.

    Args:
        endpoints: Routes of the API.
        has_key: Whether requests need a key.
    """
    requests = {item.request for item in endpoints if item.request is not None}
    responses = {item.response for item in endpoints if item.response is not None}
    models = sorted(requests | responses | {ErrorResponse}, key=lambda model: model.__name__)
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REFERENCE
    )
    paths: dict[str, Any] = {}
    for item in endpoints:
        paths.setdefault(item.path, {})[item.method.lower()] = _operation(item)
    schemes = {"bearer": {"type": "http", "scheme": "bearer"}}
    schemes["basic"] = {"type": "http", "scheme": "basic"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "charlm", "version": VERSION, "description": _DESCRIPTION},
        "paths": paths,
        "components": {"schemas": definitions["$defs"], "securitySchemes": schemes},
        "security": [{"bearer": []}, {"basic": []}] if has_key else [],
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    is_refused = endpoint.response is ErrorResponse
    responses = {"default": _response("The request failed.", ErrorResponse)}
    if not is_refused:
        responses["200"] = _response("The request succeeded.", endpoint.response)
    operation: dict[str, Any] = {"summary": endpoint.summary, "responses": responses}
    names = [part[1:-1] for part in endpoint.path.split("/") if part.startswith("{")]
    operation["parameters"] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    if endpoint.request is not None:
        examples = {
            f"example {number}": {"value": dict(value)}
            for number, value in enumerate(endpoint.examples, start=1)
        }
        content = _content(endpoint.request) | {"examples": examples}
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    return operation


def _response(description: str, model: type[BaseModel] | None) -> dict[str, Any]:
    content = {"text/plain": {}} if model is None else {"application/json": _content(model)}
    return {"description": description, "content": content}


def _content(model: type[BaseModel]) -> dict[str, Any]:
    return {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}
