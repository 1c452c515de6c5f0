"""`python -m gateway`: serve until SIGTERM, then answer what is under way, flush, and exit."""

import argparse
import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import AsyncGenerator, Generator, Sequence
from datetime import UTC, datetime

import uvicorn
import uvloop
from opentelemetry.trace import SpanKind
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.api.checking import Checks
from gateway.api.followers import CONNECTIONS, Followers
from gateway.api.operations import Api
from gateway.api.tokens import Tokens
from gateway.app import Deps, create_app
from gateway.cors import read_origins
from gateway.envelope import refuse
from gateway.ingest import Ingest
from gateway.ingress import Ingress
from gateway.intake import Intake
from gateway.limiting import Limits, parse_networks
from gateway.orders import Orders
from gateway.readiness import Readiness
from gateway.refusing import Refusals
from gateway.sources import Sources
from gateway.tallying import Tallies
from shared import telemetry
from shared.artifacts import Artifacts
from shared.db import Database
from shared.heartbeat import beat
from shared.providers import providers
from shared.queue import Doorbell
from shared.sealing import KeyRing, SealingError
from shared.settings import Endpoints, Settings, SettingsError
from shared.store.feed import IN_ORDER

log = logging.getLogger(__name__)

_GRACE_S = 10
#: Proves nothing, and has the form that providers give their secrets.
_ANY_SECRET = "whsec_c2x1aWNlIHdhcm1zIHVwIGl0cyBTREtz"  # noqa: S105 - opens nothing
#: Connections that the kernel holds for us while the loop is busy.
_BACKLOG = 2048


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        # uvicorn raises the signal again when it is done, which would end us before the flush.
        yield


class _Protocol(HttpToolsProtocol):
    def send_400_response(self, msg: str) -> None:
        # What cannot be parsed never reaches the application; its answer is an envelope as well.
        span = telemetry.start_span("gateway.malformed", SpanKind.SERVER)
        answer = refuse("malformed_request", "This is not HTTP.", telemetry.trace_id_of(span))
        span.end()
        fields = [*answer.raw_headers, (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n%b\r\n%b" % (head, bytes(answer.body)))
        self.transport.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gateway; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m gateway")
    parser.add_argument("--heartbeat-fd", type=int, metavar="N", help="written to while alive")
    options = parser.parse_args(arguments)
    try:
        settings = Settings.read()
        endpoints = Endpoints.find(settings)
        keys = KeyRing.parse(endpoints.secret_key)
        shut_down = telemetry.set_up(
            "gateway",
            log_level=settings.log_level,
            admin_host=settings.host,
            admin_port=settings.admin_port,
        )
        try:
            uvloop.run(serve(settings, endpoints, keys, heartbeat_fd=options.heartbeat_fd))
        finally:
            shut_down()
    except (SettingsError, SealingError, OSError) as error:
        sys.stderr.write(f"sluice gateway: {error}\n")
        return 1
    return 0


async def serve(
    settings: Settings, endpoints: Endpoints, keys: KeyRing, *, heartbeat_fd: int | None = None
) -> None:
    """
    Listen until SIGTERM or SIGINT.

    Raises:
        SealingError: the database was sealed with a key that we lack.
        OSError: the address cannot be listened on.
    """
    async with opened(settings, endpoints, keys) as deps:
        server = _Server(
            uvicorn.Config(
                create_app(deps),
                host=settings.host,
                port=settings.port,
                loop="none",
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )

        def stop() -> None:
            server.force_exit = server.should_exit
            server.should_exit = True
            if deps.api is not None:
                # Their answers would stay open for as long as we wait.
                deps.api.followers.stop()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        prepare()
        pulse = None
        if heartbeat_fd is not None:
            pulse = asyncio.create_task(beat(heartbeat_fd), name="heartbeat")
            # It ends by itself only when our supervisor is gone.
            pulse.add_done_callback(lambda _: stop())
        await server.serve()
    if pulse is not None:
        pulse.cancel()


def prepare() -> None:
    """What the first requests would otherwise pay for, or every one."""
    for provider in providers().values():
        # An SDK is imported by the first signature it checks, which takes most of a second.
        with contextlib.suppress(Exception):
            now = datetime.now(UTC)
            provider.verify(provider.sign(b"{}", _ANY_SECRET, now), b"{}", [_ANY_SECRET], now, 60)
    # A request that waits for its commit outlives the young generation, and with the default of
    # 700 objects the collector walks all that wait, again and again: a third of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@contextlib.asynccontextmanager
async def opened(settings: Settings, endpoints: Endpoints, keys: KeyRing) -> AsyncGenerator[Deps]:
    """Everything the application needs; on leaving, what waits is flushed first."""
    url = endpoints.database["gateway"]
    async with contextlib.AsyncExitStack() as stack:
        doorbell = Doorbell(endpoints.redis)
        stack.push_async_callback(doorbell.close)
        sources = Sources(url, keys, timeout_s=settings.store_timeout_s)
        await sources.start()
        stack.push_async_callback(sources.close)
        readiness = Readiness(url, sources, lambda: doorbell.is_answered)
        stack.push_async_callback(readiness.close)
        intake = Intake(url, timeout_s=settings.store_timeout_s, ring=doorbell.ring)
        stack.push_async_callback(intake.close)
        artifacts = Artifacts(settings.artifacts_url, settings.home)
        trusted = parse_networks(settings.trusted_proxies)
        refusals = Refusals(url, sources, keys, settings.signature_tolerance_s, trusted)
        refusals.start()
        stack.push_async_callback(refusals.close)
        tallies = Tallies(url, sources)
        tallies.start()
        stack.push_async_callback(tallies.close)
        ingress = Ingress(
            sources=sources,
            store=intake,
            keys=keys,
            max_body_bytes=settings.max_body_bytes,
            tolerance_s=settings.signature_tolerance_s,
            refusals=refusals,
        )
        api = None
        if settings.api:
            reader = await Database.open(
                endpoints.database["reader"], "reader", name="sluice-gateway-api", resets=False
            )
            stack.push_async_callback(reader.close)
            # Hundreds may want to read at once: not on the connections of everybody else.
            trail = await Database.open(
                endpoints.database["reader"],
                "reader",
                name="sluice-gateway-feed",
                size=CONNECTIONS,
                settings=IN_ORDER,
            )
            stack.push_async_callback(trail.close)
            followers = Followers(trail)
            stack.push_async_callback(followers.close)
            limits = Limits.of(endpoints.redis, settings.api_rate, settings.api_failures)
            stack.push_async_callback(limits.counters.close)
            api = Api(
                reader=reader,
                keys=keys,
                sources=sources,
                orders=Orders(intake, sources),
                artifacts=artifacts,
                followers=followers,
                checks=Checks(reader),
                tokens=Tokens(reader, limits, note=doorbell.note_use, trusted=trusted),
                limits=limits,
                readiness=readiness,
                public_url=settings.public_url,
            )
        yield Deps(
            ingress=ingress,
            ingest=Ingest(ingress, artifacts, lambda: intake.is_open),
            readiness=readiness,
            api=api,
            origins=read_origins(settings.cors_origins),
        )


if __name__ == "__main__":
    sys.exit(main())
