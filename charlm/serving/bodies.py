"""Bodies of requests: bounded in size and time while they are read."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from charlm.errors import counted
from charlm.serving.errors import ApiError

_MAX_DRAINED = 8  # A body up to this many times the limit is read to its end before it is refused.


class BoundedBodies:
    """ASGI middleware that reads the body of a request before the app sees the request."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, seconds: float) -> None:
        """Bound the bodies of an app.

        Args:
            app: The app.
            max_bytes: Largest body that is accepted.
            seconds: Seconds in which a client must send it.
        """
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose body is small and fast enough."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._read(receive), self._seconds)
        except TimeoutError:
            message = f"the request took more than {counted(self._seconds, 'second')} to arrive"
            error = ApiError(408, message, code="timeout", headers={"Connection": "close"})
            await error.response()(scope, receive, send)
        except ApiError as error:
            await error.response()(scope, receive, send)
        else:
            if body is not None:
                await self._app(scope, _replayed(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the body; None if the client has left."""
        chunks: list[bytes] = []
        size = 0
        more = True
        while more and size <= _MAX_DRAINED * self._max_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            # A client that cannot send its whole body may not read the answer either. So the rest
            # of a body that is too large is read, too, and not kept.
            if size <= self._max_bytes:
                chunks.append(chunk)
            else:
                chunks.clear()
            more = message.get("more_body", False)
        if size > self._max_bytes:
            problem = f"the request is larger than {self._max_bytes:,} bytes; send a shorter text"
            headers = {"Connection": "close"}
            raise ApiError(413, problem, code="request_too_large", headers=headers)
        return b"".join(chunks)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body at first, and then what the client does."""
    is_given = False

    async def receive_again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
