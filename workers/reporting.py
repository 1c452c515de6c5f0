"""What is said of a transaction that applied events, once it has committed."""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from opentelemetry.trace import SpanKind

from shared import telemetry
from shared.domain.events import StoredEvent
from shared.store.work import Settlement
from workers.surroundings import Surroundings


def report(
    surroundings: Surroundings,
    now: datetime,
    begun_ns: int,
    events: Sequence[StoredEvent],
    settled: Sequence[Settlement],
) -> None:
    """Count and trace; `now` is the transaction's, `begun_ns` since when it had the lane."""
    telemetry.batch(len(events))
    for event in events:
        telemetry.end_to_end((now - event.received_at).total_seconds())
    counts = Counter((one.source_id, one.outcome) for one in settled)
    for (source_id, outcome), count in counts.items():
        telemetry.settled(surroundings.name_of(source_id), outcome, count)
    if not telemetry.records_spans():
        return
    ended_ns = time.time_ns()
    for event in events:
        span = telemetry.start_span(
            "process event", SpanKind.CONSUMER, event.trace_context, begun_ns=begun_ns
        )
        span.set_attribute("messaging.system", "sluice")
        span.set_attribute("messaging.operation.type", "process")
        span.set_attribute("messaging.destination.name", "inbox")
        span.set_attribute("messaging.message.id", str(event.tracking_id))
        span.set_attribute("sluice.event_type", event.event_type)
        span.set_attribute("sluice.run", event.run)
        span.end(ended_ns)
