"""The ASGI app: the routes of the API and of the page, behind the checks of every request."""

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from charlm.errors import CharlmError
from charlm.serving.api_routes import Api
from charlm.serving.bodies import BoundedBodies
from charlm.serving.endpoints import endpoints_of, routes_of
from charlm.serving.errors import ApiError, answer_error
from charlm.serving.metrics import Metrics
from charlm.serving.models import ServedModels
from charlm.serving.openapi import describe
from charlm.serving.options import ServeOptions
from charlm.serving.page import Page
from charlm.serving.requests import Threads
from charlm.serving.security import Guard
from charlm.storage.untrusted import one_line
from charlm.trained_model import TrainedModel

_SCORING_THREADS = 2
_LOGGED_CHARACTERS = 200  # Number of characters of a path in the log.


def make_app(
    runs: Sequence[TrainedModel],
    options: ServeOptions,
    *,
    log: Callable[[str], None] = lambda _: None,
) -> Starlette:
    """Return the app that serves runs.

    Args:
        runs: The runs; the first one answers requests that name none.
        options: Options of the server.
        log: Function that is called with a line per request.

    Raises:
        OptionError: Two runs have the same name.
    """
    models = ServedModels(runs, options)
    metrics = Metrics(models)
    threads = Threads(_SCORING_THREADS)
    api = Api(models, options, metrics, threads)
    page = Page(models)
    endpoints = [*endpoints_of(api), *endpoints_of(page)]
    description = json.dumps(describe(endpoints, has_key=options.api_key is not None))

    async def show_openapi(request: Request) -> Response:
        return Response(description, media_type="application/json")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        models.close()
        page.close()
        threads.close()

    routes: list[BaseRoute] = [
        *routes_of(endpoints),
        Route("/openapi.json", show_openapi),
        *page.files(),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            ApiError: answer_error,
            CharlmError: answer_error,
            HTTPException: answer_error,
            Exception: answer_error,
        },
        middleware=_middleware(options, metrics, routes, log),
    )
    app.state.models = models
    return app


def _middleware(
    options: ServeOptions,
    metrics: Metrics,
    routes: Sequence[BaseRoute],
    log: Callable[[str], None],
) -> list[Middleware]:
    """Return what a request passes, the outermost first."""
    layers = [Middleware(Counted, metrics=metrics, routes=routes, log=log)]
    if options.allow_origin:
        # A browser asks for permission without the key, so this comes before the guard.
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(options.allow_origin),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],  # OpenAI's client sends many headers of its own.
            )
        )
    bodies = Middleware(BoundedBodies, max_bytes=options.max_body, seconds=options.idle_seconds)
    return [*layers, Middleware(Guard, options=options), bodies]


class Counted:
    """ASGI middleware that counts each response and writes a line about it to the log."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        routes: Sequence[BaseRoute],
        log: Callable[[str], None],
    ) -> None:
        """Count the responses of an app.

        Args:
            app: The app.
            metrics: Where they are counted, by route.
            routes: The routes.
            log: Function that is called with a line per response.
        """
        self._app = app
        self._metrics = metrics
        self._routes = routes
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request and count the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 499  # It is counted if there is no response.

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            seconds = time.perf_counter() - started
            self._metrics.count_request(self._route_of(scope), status, seconds)
            path = one_line(scope["path"][:_LOGGED_CHARACTERS])
            self._log(f"{scope['method']} {path} {status} {seconds:.3f} s")

    def _route_of(self, scope: Scope) -> str:
        """Return the path of the route, so that clients cannot make new labels."""
        for route in self._routes:
            if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
                return route.path
        return "other"
