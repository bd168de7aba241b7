"""Connections: bounded in number, and closed when a client sends or takes too little."""

import asyncio
import json

from uvicorn.protocols.http.h11_impl import H11Protocol

from charlm.errors import counted
from charlm.serving.errors import ApiError
from charlm.serving.options import ServeOptions

_MIN_TAKEN = 1 << 14  # Bytes that a client must take of a response in `idle_seconds`.


def bounded_protocol(options: ServeOptions) -> type[H11Protocol]:
    """Return the protocol of a server with the limits of its options."""

    class Bounded(BoundedProtocol):
        max_connections = options.max_connections
        idle_seconds = options.idle_seconds

    return Bounded


class BoundedProtocol(H11Protocol):
    """A connection that is closed if a client is too slow.

    A client has `idle_seconds` to send the head of its next request. While it does not take what
    was written for it, it must take some of it in every `idle_seconds`. The body of a request is
    bounded in `bodies`.
    """

    max_connections: int
    idle_seconds: float
    _waiting: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, or refuse the connection."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            message = (
                f"the server has {counted(self.max_connections, 'connection')} already; try again"
            )
            self._refuse(ApiError(503, message, code="too_many_connections"))
            return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        self._stop_writing()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Handle what has arrived; a complete head of a request ends the waiting."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._wait()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Begin to wait until the client has taken what was written."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """Stop waiting for the client to take what was written."""
        self._stop_writing()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(ApiError(400, msg, code="invalid_http"))

    def _refuse(self, error: ApiError) -> None:
        """Answer with an error and close, without a request."""
        body = json.dumps(error.to_json()).encode()
        head = (
            f"HTTP/1.1 {error.status} Refused\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _wait(self) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(self.idle_seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _watch_writing(self) -> None:
        size = self.transport.get_write_buffer_size()

        def check() -> None:
            if self.transport.get_write_buffer_size() > size - _MIN_TAKEN:
                self.transport.abort()
            else:
                self._watch_writing()

        self._writing = self.loop.call_later(self.idle_seconds, check)

    def _stop_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
