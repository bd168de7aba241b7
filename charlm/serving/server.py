"""The server: one process that answers requests until SIGTERM or Ctrl-C."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

import torch

from charlm.errors import CharlmError
from charlm.serving.options import ServeOptions, as_address
from charlm.trained_model import TrainedModel
from charlm.version import install_hint

try:
    import uvicorn
    from starlette.types import ASGIApp

    from charlm.serving.app import make_app
    from charlm.serving.connections import bounded_protocol
except ModuleNotFoundError as missing:
    raise CharlmError(
        f"charlm serve: needs {missing.name}, which is not installed: {install_hint('serve')}"
    ) from missing

_BACKLOG = 2048
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server:
    """A server that listens from its beginning, and answers while `run` runs.

    Attributes:
        url: Address of the server.
    """

    def __init__(
        self,
        runs: Sequence[TrainedModel],
        options: ServeOptions,
        *,
        on_start: Callable[[str], object] = lambda url: None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Listen on the address of the options.

        Args:
            runs: The runs; the first one answers requests that name none.
            options: Options of the server.
            on_start: Function that is called with the address when the server answers.
            log: Function that is called with a line per request.

        Raises:
            OptionError: Two runs have the same name.
            CharlmError: The address cannot be listened on.
        """
        self._listener = _listen(options)
        self.url = _url(options.host, self._listener.getsockname()[1])
        # Scores are computed in fp32, also beside one another in several threads.
        torch.backends.cudnn.allow_tf32 = False
        try:
            app = make_app(runs, options, log=log)
        except CharlmError:
            self._listener.close()
            raise
        self._server = _Server(
            _uvicorn_config(app, options),
            on_start=lambda: on_start(self.url),
            close=app.state.models.close,
            grace_seconds=options.grace_seconds,
        )

    def run(self) -> None:
        """Answer requests until SIGTERM, Ctrl-C or `stop`, and then until the last text ends.

        A text that takes longer than `grace_seconds` is cut.
        """
        asyncio.run(self._server.serve(sockets=[self._listener]))

    def stop(self) -> None:
        """End `run`, from any thread."""
        self._server.should_exit = True


def _uvicorn_config(app: ASGIApp, options: ServeOptions) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=bounded_protocol(options),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(options.idle_seconds) + 1,
        timeout_graceful_shutdown=int(options.grace_seconds) + 2,
    )


class _Server(uvicorn.Server):
    """A server that ends its streams and exits with status 0 after SIGTERM or Ctrl-C."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_start: Callable[[], object],
        close: Callable[[], None],
        grace_seconds: float,
    ) -> None:
        super().__init__(config)
        self._on_start = on_start
        self._close = close
        self._grace_seconds = grace_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        closing = loop.call_later(self._grace_seconds, self._close)
        await super().shutdown(sockets)
        closing.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal; unlike uvicorn, do not raise the signal again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Only the main thread receives signals.
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(options: ServeOptions) -> socket.socket:
    """Return a socket that listens on the address of the server.

    Raises:
        CharlmError: The address cannot be listened on.
    """
    address = as_address(options.host)
    family = socket.AF_INET6 if address is not None and address.version == 6 else socket.AF_INET
    place = f"{options.host}:{options.port}"
    try:
        listener = socket.create_server(
            (options.host, options.port), family=family, backlog=_BACKLOG
        )
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while attempting")[0]
        remedy = "choose another address or --port"
        raise CharlmError(f"{place}: cannot listen: {reason}; {remedy}") from None
    # Connections inherit it. asyncio sets it only for sockets that it makes itself; without it, the
    # body of each answer waits 40 ms until the client has acknowledged the headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _url(host: str, port: int) -> str:
    """Return the address of the server for a browser on this machine."""
    address = as_address(host)
    if address is not None and address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
