"""For Prometheus; no label tells an id, a key or a prompt. What the store says is the same from every ingress."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skyreels.serving.store.jobs import JobStore

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """Of one ingress: what it answered, and what its store holds."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._registry = registry = CollectorRegistry()
        self._jobs = Gauge("skyreels_jobs", "jobs by state", ["state"], registry=registry)
        self._waiting = Gauge("skyreels_waiting", "jobs that wait for a stage", ["stage"], registry=registry)
        self._working = Gauge("skyreels_working", "jobs that a stage works on", ["stage"], registry=registry)
        self._seconds = Gauge("skyreels_stage_seconds", "median of the newest", ["stage"], registry=registry)
        self._oldest = Gauge("skyreels_oldest_wait_seconds", "of jobs that nobody works on", registry=registry)
        self._http = Histogram(
            "skyreels_http_seconds", "until an answer begins", ["route", "status"], buckets=_SECONDS, registry=registry
        )
        self.refused = Counter("skyreels_refused", "requests that were refused, by code", ["code"], registry=registry)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """An answer has begun; routes are told by their pattern."""
        self._http.labels(route, status).observe(seconds)

    def text(self) -> bytes:
        """All of them as they stand."""
        for state, count in self._store.counts().items():
            self._jobs.labels(state).set(count)
        load = self._store.load()
        for gauge, values in ((self._waiting, load.waiting), (self._working, load.working), (self._seconds, load.pace)):
            gauge.clear()
            for stage, value in values.items():
                gauge.labels(stage).set(value)
        self._oldest.set(load.oldest_s)
        return generate_latest(self._registry)


class Timed:
    """Tells metrics of every answer; what matches no route is told as one."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                self._metrics.answered(route, message["status"], time.perf_counter() - start)
            await send(message)

        await self._app(scope, receive, told if scope["type"] == "http" else send)
