"""What the server counts, for Prometheus."""

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.responses import Response

from charlm.serving.models import ServedModels
from charlm.serving.responses import Usage

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The counts of one server, in a registry of its own."""

    def __init__(self, models: ServedModels) -> None:
        """Begin at zero."""
        self._registry = CollectorRegistry()
        self._registry.register(_Load(models))
        self._requests = Counter(
            "charlm_requests",
            "Requests by route and HTTP status.",
            ["route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "charlm_request_seconds",
            "Time from a request to the end of its response.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._first_token = Histogram(
            "charlm_first_token_seconds",
            "Time from a request to the first part of its stream.",
            ["model"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._tokens = Counter(
            "charlm_tokens",
            "Tokens read and written.",
            ["model", "kind"],
            registry=self._registry,
        )

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count a response; `route` is the path of a route, not what a client sent."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_usage(self, model: str, usage: Usage) -> None:
        """Count the tokens of a response."""
        self._tokens.labels(model, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(model, "completion").inc(usage.completion_tokens)

    def count_first_token(self, model: str, started: float) -> None:
        """Count the time since `started`, of `time.perf_counter`."""
        self._first_token.labels(model).observe(time.perf_counter() - started)

    def response(self) -> Response:
        """Return the counts in Prometheus' text format."""
        body = generate_latest(self._registry)
        return Response(body, headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Load(Collector):
    """How many texts are written and wait, read when the metrics are asked for."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    def collect(self) -> Iterable[GaugeMetricFamily]:
        running = GaugeMetricFamily(
            "charlm_texts_running", "Texts being written.", labels=["model"]
        )
        queued = GaugeMetricFamily("charlm_texts_queued", "Texts that wait.", labels=["model"])
        states = GaugeMetricFamily("charlm_states", "States in memory.", labels=["model"])
        for model in self._models:
            running.add_metric([model.name], model.engine.num_running)
            queued.add_metric([model.name], model.engine.num_queued)
            states.add_metric([model.name], len(model.states))
        return [running, queued, states]
