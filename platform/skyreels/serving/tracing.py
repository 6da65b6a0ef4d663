"""OpenTelemetry: one trace per job, over all processes that work on it; off without an endpoint.

FastAPI makes the spans of requests. A job's trace has the digits of its id, so nothing need be handed on between
processes. No span tells a prompt or a key.
"""

import hashlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.util.types import AttributeValue

from skyreels.serving.store.records import Job, State

logger = logging.getLogger(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_SECOND = 10**9
_span_id: ContextVar[int | None] = ContextVar("span_id", default=None)


def is_on() -> bool:
    """Whether an endpoint is configured, as OpenTelemetry's environment variable says."""
    return bool(os.environ.get(ENDPOINT))


def start(role: str) -> None:
    """Send this process's spans, as the service `skyreels-serving`, to the endpoint; nothing where there is none."""
    if not is_on() or isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    names = {"service.name": "skyreels-serving", "service.instance.id": f"{socket.gethostname()}-{os.getpid()}"}
    provider = TracerProvider(resource=Resource.create({**names, "skyreels.role": role}), id_generator=_Ids())
    provider.add_span_processor(BatchSpanProcessor(OtlpJson(os.environ[ENDPOINT])))
    trace.set_tracer_provider(provider)


@contextmanager
def stage_span(job: Job, together: int = 1) -> Iterator[None]:
    """Around a stage's run, as a part of its job."""
    if not is_on():
        yield
        return
    facts: dict[str, AttributeValue] = {
        "skyreels.job": job.id,
        "skyreels.attempt": job.stage_attempts,
        "skyreels.together": together,
    }
    with _tracer().start_as_current_span(f"stage {job.stage}", _of_job(job.id), attributes=facts):
        yield


def job_span(job: Job) -> None:
    """The whole of a job that is over, from its acceptance to its end."""
    if not is_on() or not job.state.is_over or job.completed_at is None:
        return
    token = _span_id.set(_root(job.id))
    try:
        context = _of_job(job.id)
        facts: dict[str, AttributeValue] = {"skyreels.job": job.id, "skyreels.state": str(job.state)}
        facts["skyreels.attempts"] = job.attempts
        facts |= {f"skyreels.seconds.{stage}": seconds for stage, seconds in job.timings.items()}
        span = _tracer().start_span("job", context, attributes=facts, start_time=int(job.created_at * _SECOND))
        if job.state is State.FAILED:
            span.set_status(trace.StatusCode.ERROR, job.error_code or "")
        span.end(int(job.completed_at * _SECOND))
    finally:
        _span_id.reset(token)


class OtlpJson(SpanExporter):
    """OTLP over HTTP, in its JSON form: what every collector takes, without a library of its own."""

    def __init__(self, endpoint: str) -> None:
        self._url = f"{endpoint.rstrip('/')}/v1/traces"
        self._client = httpx.Client(timeout=10.0)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        resource = {"attributes": _attributes(spans[0].resource.attributes)} if spans else {}
        scoped = [{"scope": {"name": "skyreels.serving"}, "spans": [_told(span) for span in spans]}]
        try:
            answer = self._client.post(
                self._url, json={"resourceSpans": [{"resource": resource, "scopeSpans": scoped}]}
            )
            answer.raise_for_status()
        except httpx.HTTPError as error:  # what is traced goes on without its traces
            logger.warning("%d spans were not sent to %s: %s", len(spans), self._url, error)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self._client.close()


class _Ids(RandomIdGenerator):
    """A job's own span has an id that every process knows."""

    def generate_span_id(self) -> int:
        return _span_id.get() or super().generate_span_id()


def _tracer() -> trace.Tracer:
    return trace.get_tracer("skyreels.serving")


def _root(job: str) -> int:
    return int.from_bytes(hashlib.sha256(job.encode()).digest()[:8]) or 1


def _of_job(job: str) -> Any:
    """The context under which a job's spans stand."""
    digits = job.rpartition("_")[2]
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    parent = trace.SpanContext(int(digits, 16), _root(job), is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(parent))


def _told(span: ReadableSpan) -> dict[str, Any]:
    own, parent = span.context, span.parent
    assert own is not None
    above = None if parent is None or parent.span_id == own.span_id else f"{parent.span_id:016x}"
    end = span.end_time or time.time_ns()
    return {
        "traceId": f"{own.trace_id:032x}",
        "spanId": f"{own.span_id:016x}",
        "name": span.name,
        "kind": span.kind.value + 1,
        "startTimeUnixNano": str(span.start_time or end),
        "endTimeUnixNano": str(end),
        "attributes": _attributes(span.attributes or {}),
        "status": {"code": span.status.status_code.value, "message": span.status.description or ""},
        **({} if above is None else {"parentSpanId": above}),
    }


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _typed(value)} for key, value in values.items()]


def _typed(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}
