"""Errors as the API states them: a status and an object with message, type, param and code."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from charlm.errors import BusyError, CharlmError, ClosedError, OptionError
from charlm.serving.schemas import FIELD_OF
from charlm.storage.untrusted import one_line

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class ApiError(Exception):
    """A request that is answered with an error object.

    Attributes:
        status: HTTP status.
        message: What is wrong and what to do, in one line.
        param: Name of the field of the request that is wrong, or None.
        code: Short name of the error, or None.
        headers: Further headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Describe the error; the arguments are the attributes of the class."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def to_json(self) -> dict[str, Any]:
        """Return the object that the response contains."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        message = one_line(self.message)
        error = {"message": message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> Response:
        """Return the response."""
        # In ASCII, because a message may quote half of a surrogate pair, which UTF-8 cannot write.
        body = json.dumps(self.to_json()).encode("ascii")
        return Response(body, self.status, self.headers, media_type="application/json")


def as_api_error(error: Exception) -> ApiError:
    """Return an error of charlm or of the web framework as an error of the API."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OptionError):
        message = error.message(api_name)
        return ApiError(400, message, param=api_name(error.option), code="invalid_value")
    if isinstance(error, BusyError):
        return ApiError(429, str(error), code="busy", headers={"Retry-After": "1"})
    if isinstance(error, ClosedError):
        return ApiError(503, str(error), code="shutting_down")
    if isinstance(error, CharlmError):
        return ApiError(400, str(error))
    if isinstance(error, HTTPException):
        return _http_error(error)
    message = "the server failed on this request; the traceback is in its log"
    return ApiError(500, message, code="internal_error")


def api_name(option: str) -> str:
    """Return the name of an option in requests."""
    return FIELD_OF.get(option, option)


async def answer_error(request: Request, error: Exception) -> Response:
    """Return the response to an error; an exception handler of the app."""
    found = as_api_error(error)
    if found.status in (404, 405) and found.code is None:
        found.message = f"{request.method} {request.url.path}: {found.message}"
        found.code = "not_found" if found.status == 404 else "method_not_allowed"
    return found.response()


def _http_error(error: HTTPException) -> ApiError:
    messages = {
        404: "there is no such route; /openapi.json lists them",
        405: "the route does not take this method; /openapi.json lists them",
    }
    message = messages.get(error.status_code, HTTPStatus(error.status_code).phrase)
    return ApiError(error.status_code, message, headers=error.headers)
