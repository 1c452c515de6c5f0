"""What a trace shows of an event: where it came from, and how long it was applied."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared import db, telemetry
from tests.support.stack import Stack
from tests.support.stripe_events import NOW_S, event, subscription
from workers.marks import marked
from workers.process import apply_alone, visit

HOLD_CUSTOMER = "SELECT FROM customers WHERE customer = 'cus_1' FOR UPDATE"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Keeps the spans of the test, which are recorded as if they were sent."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracing", [provider.get_tracer("sluice")])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    return exporter


async def in_batches(stack: Stack) -> None:
    (lane,) = await stack.fetch("SELECT DISTINCT lane FROM work")
    await visit(stack.crew, lane["lane"])


async def one_by_one(stack: Stack) -> None:
    for row in await stack.fetch("SELECT lane, id FROM work ORDER BY id"):
        async with marked(stack.crew, row["lane"]) as mark:
            await apply_alone(stack.crew, row["lane"], row["id"], mark)


@pytest.mark.parametrize("apply", [in_batches, one_by_one])
async def test_a_span_lasts_as_long_as_its_event_was_applied(
    stack: Stack, exported: InMemorySpanExporter, apply: Callable[[Stack], Awaitable[None]]
) -> None:
    await stack.apply(event("customer.subscription.created", subscription("sub_1", tenant="a")))
    exported.clear()
    receipts = await stack.receive(*[
        event("customer.subscription.updated", subscription("sub_1", tenant="a", status="unpaid"),
              created=NOW_S + number, previous={"status": "active"})
        for number in (1, 2)
    ])  # fmt: skip
    began_ns = time.time_ns()
    async with db.connect(stack.endpoints.database["owner"], "owner") as holder:
        async with holder.transaction():
            await holder.execute(HOLD_CUSTOMER)
            applying = asyncio.create_task(apply(stack))
            await asyncio.sleep(0.3)
            assert exported.get_finished_spans() == ()
        await applying
    ended_ns = time.time_ns()

    spans = exported.get_finished_spans()
    named = [span.attributes["messaging.message.id"] for span in spans]
    assert named == [str(one.tracking_id) for one in receipts]
    for span in spans:
        assert (span.name, span.parent) == ("process event", None)
        (link,) = span.links
        assert f"{link.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
        assert began_ns <= span.start_time < span.end_time <= ended_ns
    # The first waited for the customer; of a batch, all did.
    waited = spans if apply is in_batches else spans[:1]
    assert min(span.end_time - span.start_time for span in waited) > 0.25e9
    assert len({(span.start_time, span.end_time) for span in waited}) == 1
