"""
What the processes say about themselves: metrics, traces and logs, with all names in one place.

Metrics are read at `/metrics` of a process's admin port. Where OTEL_EXPORTER_OTLP_ENDPOINT is set,
metrics and traces are sent there too; otherwise no span is recorded, but every request still has
valid ids. Labels hold configured names and closed sets of words, never an id.
"""

import os
from collections.abc import Callable, Iterable
from importlib import metadata

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, TraceFlags, Tracer
from prometheus_client import start_http_server

from shared import gauges
from shared.logs import log_as_json

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.8, 1, 2.5, 5, 10)
_LONG_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 86400)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def set_up(
    process: str, *, log_level: str = "INFO", admin_host: str = "", admin_port: int = 0
) -> Callable[[], None]:
    """
    Set up logs, traces and metrics of this process ("gateway", "worker", …).

    Returns the function that sends what has not been sent and stops serving.

    Raises:
        OSError: the admin port is taken.
    """
    log_as_json(log_level)
    resource = Resource.create({"service.name": f"sluice-{process}"})
    exports = bool(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))
    tracers = _tracers(resource, exports)
    meters = _meters(resource, exports)
    _tracing[:] = [tracers.get_tracer("sluice")]
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    build = (process, _version())
    gauges.build_info.read_from(lambda: {build: 1})
    server = start_http_server(admin_port, admin_host or "127.0.0.1")[0] if admin_port else None

    def shut_down() -> None:
        if server is not None:
            server.shutdown()
            server.server_close()
        tracers.shutdown()
        meters.shutdown()

    return shut_down


def _tracers(resource: Resource, exports: bool) -> TracerProvider:
    if not exports:
        return TracerProvider(sampler=ALWAYS_OFF, resource=resource)
    # Importing the exporter takes a third of a second.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _meters(resource: Resource, exports: bool) -> MeterProvider:
    readers: list[MetricReader] = [
        PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False)
    ]
    if exports:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
    return MeterProvider(readers, resource, exemplar_filter=AlwaysOffExemplarFilter())


def _version() -> str:
    try:
        return metadata.version("sluice-gateway")
    except metadata.PackageNotFoundError:
        return "unknown"


# Traces ---------------------------------------------------------------------------------------

_tracing: list[Tracer] = []
_ROOT = Context()


def start_span(
    name: str, kind: SpanKind, linked_to: str | None = None, *, begun_ns: int | None = None
) -> Span:
    """
    Start a span in a trace of its own, linked to a traceparent that was stored or sent.

    A provider's traceparent is not trusted to be our parent, and a stored one may be days old:
    both are links. `begun_ns` is when it began, in nanoseconds since 1970, if not now. The caller
    ends the span.
    """
    links = _links(linked_to) if linked_to else None
    if not _tracing:
        # Not set up, as in a test: ids are valid all the same.
        _tracing.append(TracerProvider(sampler=ALWAYS_OFF).get_tracer("sluice"))
    return _tracing[0].start_span(name, context=_ROOT, kind=kind, links=links, start_time=begun_ns)


def records_spans() -> bool:
    """Whether spans go anywhere. Without it a worker need not start one for each event."""
    return bool(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))


def trace_id_of(span: Span) -> str:
    """32 hex digits."""
    return f"{span.get_span_context().trace_id:032x}"


def begin_trace(name: str) -> str:
    """A trace of its own for what is stored now, as a W3C traceparent."""
    span = start_span(name, SpanKind.CLIENT)
    span.end()
    return traceparent_of(span)


def traceparent_of(span: Span) -> str:
    """The span as a W3C traceparent, to be stored with an event."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _links(traceparent: str) -> list[Link] | None:
    """A link to a traceparent, or none where it is malformed: anybody may have written it."""
    parts = traceparent.split("-")
    if [len(part) for part in parts[:4]] != [2, 32, 16, 2] or not traceparent.isascii():
        return None
    try:
        trace_id, span_id, flags = (int(part, 16) for part in parts[1:4])
    except ValueError:
        return None
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags & 1))
    return [Link(context)] if context.is_valid else None


# Metrics --------------------------------------------------------------------------------------

_meter = metrics.get_meter("sluice")


class _Counter:
    """
    Counts in a dictionary and is read when somebody asks.

    The SDK's own counter takes some 8 µs a call, which a request pays several times.
    """

    def __init__(self, name: str, description: str, *labels: str) -> None:
        self._labels = labels
        self._counts: dict[tuple[str, ...], int] = {}
        _meter.create_observable_counter(name, [self._read], description=description)

    def add(self, amount: int, *values: str) -> None:
        """Add to the series with these label values, in the order of the labels."""
        self._counts[values] = self._counts.get(values, 0) + amount

    def _read(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(count, dict(zip(self._labels, values, strict=True)))
            for values, count in list(self._counts.items())
        ]


_requests = _Counter(
    "sluice_ingress_requests", "Webhook requests by what became of them.", "source", "outcome"
)
_body_bytes = _Counter("sluice_ingress_body_bytes", "Bytes of verified bodies.", "source")
_duration = _meter.create_histogram(
    "sluice_ingress_request_duration",
    unit="s",
    description="From the request's headers to its answer.",
    explicit_bucket_boundaries_advisory=_SECONDS,
)
_intake_batch = _meter.create_histogram(
    "sluice_intake_batch_events",
    description="Events committed together by the gateway.",
    explicit_bucket_boundaries_advisory=_COUNTS,
)
_store_errors = _Counter("sluice_store_errors", "Failed writes of the gateway.", "kind")
_ring_failures = _Counter("sluice_ring_failures", "Wake-ups that Redis did not take.")
_refusals = _Counter(
    "sluice_refusals_kept", "Refused requests that were kept, by their cause.", "source", "cause"
)
_refusals_dropped = _Counter(
    "sluice_refusals_dropped", "Refused requests of which no sample was kept.", "source"
)
_shadowed = _Counter(
    "sluice_shadow_requests",
    "Requests by what a source's shadow said of them beside the real secrets.",
    "source",
    "verdict",
)
_settled = _Counter("sluice_events_settled", "Finished runs by their outcome.", "source", "outcome")
_conflicts = _Counter(
    "sluice_conflicts_found", "Redeliveries with another body under the same event id.", "source"
)
_attempts = _Counter("sluice_attempts_failed", "Failed attempts by their code.", "source", "code")
_fetches = _Counter("sluice_fetches", "Fetches by what became of them.", "source", "code")
_sent = _Counter("sluice_outbox_sendings", "Attempts to send, by outcome.", "handler", "outcome")
_job_rows = _Counter("sluice_job_rows", "Rows that jobs have gone through.", "kind")
_job_rows_failed = _Counter("sluice_job_rows_failed", "Of those, the ones not taken.", "kind")
_job_steps_failed = _Counter("sluice_job_steps_failed", "Failed steps of jobs.", "kind", "code")
_reconciled = _Counter(
    "sluice_customers_reconciled", "Customers looked at in rounds.", "source", "found"
)
_missed = _Counter(
    "sluice_events_missed", "Events that no webhook brought, found by asking.", "source"
)
_compared = _Counter(
    "sluice_objects_compared", "Objects of providers' lists beside ours.", "source", "found"
)
_batch = _meter.create_histogram(
    "sluice_worker_batch_events",
    description="Events applied in one transaction.",
    explicit_bucket_boundaries_advisory=_COUNTS,
)
_end_to_end = _meter.create_histogram(
    "sluice_end_to_end",
    unit="s",
    description="From receipt to settlement.",
    explicit_bucket_boundaries_advisory=_LONG_SECONDS,
)
_handled = _Counter(
    "sluice_handler_runs",
    "Runs of extension handlers by what became of them.",
    "handler",
    "outcome",
)
_handler_duration = _meter.create_histogram(
    "sluice_handler_duration",
    unit="s",
    description="How long an extension handler took for one event.",
    explicit_bucket_boundaries_advisory=_SECONDS,
)
_turn_delay = _meter.create_histogram(
    "sluice_turn_delay",
    unit="s",
    description="From when access began or ended by the clock until the sweep audited it.",
    explicit_bucket_boundaries_advisory=_LONG_SECONDS,
)


def received(source: str, outcome: str, seconds: float) -> None:
    """One webhook request was answered. `source` is a configured name, or "unknown"."""
    _requests.add(1, source, outcome)
    _duration.record(seconds)


def verified(source: str, body_bytes: int) -> None:
    """A body was verified."""
    _body_bytes.add(body_bytes, source)


def committed(events: int) -> None:
    """The gateway committed so many events together."""
    _intake_batch.record(events)


def store_failed(kind: str) -> None:
    """A write of the gateway failed: "unreachable", "timeout", "lost", "fault" or "data"."""
    _store_errors.add(1, kind)


def ring_failed() -> None:
    """Redis did not take a wake-up; the sweep will."""
    _ring_failures.add(1)


def refusal_kept(source: str, cause: str) -> None:
    """A refused request was kept, with what was found out of it."""
    _refusals.add(1, source, cause)


def refusal_dropped(source: str) -> None:
    """A refused request was not kept: there are enough, or it could not be."""
    _refusals_dropped.add(1, source)


def shadowed(source: str, verdict: str) -> None:
    """A shadow was tried: "both_accept", "only_real", "only_shadow" or "both_refuse"."""
    _shadowed.add(1, source, verdict)


def settled(source: str, outcome: str, count: int = 1) -> None:
    """Runs were finished with this outcome."""
    _settled.add(count, source, outcome)


def conflict_found(source: str) -> None:
    """Another body came under an event's id. Worth waking somebody."""
    _conflicts.add(1, source)


def attempt_failed(source: str, code: str) -> None:
    """One attempt failed with this code."""
    _attempts.add(1, source, code)


def fetched(source: str, code: str) -> None:
    """A provider was asked what an object is: "answered", or why there is no answer."""
    _fetches.add(1, source, code)


def sent(handler: str, outcome: str) -> None:
    """An attempt to send a message ended: "sent", "failed", "dead", or "lost" with its lease."""
    _sent.add(1, handler, outcome)


def reconciled(source: str, found: str, customers: int) -> None:
    """So many customers were looked at: "same" as held here, "different", or "failed"."""
    _reconciled.add(customers, source, found)


def missed(source: str, events: int) -> None:
    """So many events were found that no webhook had brought. Worth waking somebody."""
    _missed.add(events, source)


def compared(source: str, found: str, objects: int) -> None:
    """So many listed objects were "same" as held here, "different", or "failed"."""
    _compared.add(objects, source, found)


def batch(events: int) -> None:
    """A worker applied so many events in one transaction."""
    _batch.record(events)


def end_to_end(seconds: float) -> None:
    """An event was settled so long after it was received."""
    _end_to_end.record(seconds)


def handled(handler: str, outcome: str, seconds: float) -> None:
    """A handler ran: "applied", "unchanged", "ignored", "failed", "timeout" or "fault"."""
    _handled.add(1, handler, outcome)
    _handler_duration.record(seconds, {"handler": handler})


def turned(seconds: float) -> None:
    """The sweep audited so late what the clock did to an entitlement."""
    _turn_delay.record(seconds)


def job_stepped(kind: str, rows: int, failed: int) -> None:
    """A job's step has committed, which went through so many rows, and did not take some."""
    _job_rows.add(rows, kind)
    if failed:
        _job_rows_failed.add(failed, kind)


def job_failed(kind: str, code: str) -> None:
    """A job's step failed with this code."""
    _job_steps_failed.add(1, kind, code)
