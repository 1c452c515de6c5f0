"""
What a package has to survive: its events arrive over real HTTP while processes are killed.

The stack is the real one, started by `sluice up` with the package as it is installed: gateway,
workers, Postgres, Valkey. Whatever was acknowledged has to be applied exactly once, nothing may be
dead, and then the package's own test looks at what it has come to.
"""

import asyncio
import random
import time
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from shared import db
from shared.conformance.fixtures import Fixture
from shared.conformance.receiver import Receiver, receiving
from shared.conformance.running import RunningStack, Sending, running_stack, send_all
from shared.db import Conn
from shared.providers import providers
from shared.providers.base import Configured
from shared.store.tenants import read_tenant

_SETTLED_WITHIN_S = 90.0
#: Followers look several times a second; what nothing follows for so long is over.
_QUIET_S = 1.5
_SEED = 20261121
#: Who dies while sending has a message that nobody else sends until its lease, twice as long as a
#: sending may take, is over.
_PROCESSES = {"SLUICE_WORKER_PROCESSES": "3", "SLUICE_SEND_TIMEOUT_S": "3"}

#: What is still to do: work, messages on their way.
UNFINISHED = """
SELECT (SELECT count(*) FROM work) + (SELECT count(*) FROM outbox)
"""
NOT_PROCESSED = """
SELECT coalesce(array_agg(DISTINCT status || ' ' || coalesce(code, '')), '{}') FROM settlements
WHERE status = 'dead'
"""
DIED_ON_THE_WAY = """
SELECT coalesce(array_agg(DISTINCT code), '{}') FROM sendings WHERE outcome = 'dead'
"""
UNSETTLED = """
SELECT count(*) FROM ledger l LEFT JOIN settlements s USING (tracking_id)
WHERE s.tracking_id IS NULL
"""


class KillSurvival(ABC):
    """Derive from it, and say what is sent and what it comes to."""

    #: The TOML file of the stack, with literal secrets.
    configuration: ClassVar[str]
    #: Environment variables of its processes; "{receiver}" stands for the URL of `receiver`.
    environ: ClassVar[Mapping[str, str]] = {}
    #: SQL that the owner runs before anything is sent: tables of the package's own.
    schema: ClassVar[str] = ""
    #: For how long events arrive, and processes are killed.
    seconds: ClassVar[float] = 6.0
    #: Where messages of the package's handlers may be sent.
    receiver: Receiver

    @abstractmethod
    def events(self) -> Iterable[tuple[str, bytes | Fixture]]:
        """The events, about a hundred: each with the name of the source that it comes to."""

    @abstractmethod
    async def check(self, conn: Conn) -> None:
        """Look at what it has come to; `conn` acts as the database's owner."""

    def test_it_survives_kills(self, tmp_path: Path) -> None:
        """Nothing is lost, nothing is done twice, and nothing is dead."""
        asyncio.run(self._survive(tmp_path))

    async def _survive(self, directory: Path) -> None:
        async with receiving() as self.receiver:
            environ = {
                name: value.replace("{receiver}", self.receiver.url)
                for name, value in self.environ.items()
            }
            async with running_stack(
                directory, self.configuration, **{**_PROCESSES, **environ}
            ) as stack:
                await self._run(stack)

    async def _run(self, stack: RunningStack) -> None:
        owner = stack.endpoints.database["owner"]
        if self.schema:
            async with db.connect(owner, "owner") as conn:
                await conn.execute(self.schema)
        sendings = self._sendings()
        assert sendings, "events() says nothing"
        # What is sent within a handler's first second is none of its business: it listens from
        # the moment on at which a worker first said that it is here.
        await asyncio.sleep(2)
        sending = asyncio.create_task(
            send_all(stack.port, sendings, within_s=self.seconds, deadline_s=self.seconds + 60)
        )
        kills = await self._kill(stack, sending)
        await sending
        assert kills >= self.seconds, f"only {kills} processes were killed"
        await _settle(stack)
        assert not (found := await stack.value(NOT_PROCESSED)), f"events are dead: {found}"
        assert not (found := await stack.value(DIED_ON_THE_WAY)), f"messages are dead: {found}"
        verified = await stack.cli("audit", "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        async with db.connect(owner, "owner") as conn:
            await self.check(conn)

    async def _kill(self, stack: RunningStack, sending: "asyncio.Task[Any]") -> int:
        """Kill workers all the time and the gateway sometimes, until all is sent."""
        rng, kills = random.Random(_SEED), 0  # noqa: S311 - the same kills again
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline or not sending.done():
            if time.monotonic() < deadline:
                victim = "gateway" if rng.random() < 0.15 else "workers.fleet"
                kills += await asyncio.to_thread(stack.kill_one, victim, rng)
            await asyncio.sleep(rng.uniform(0.2, 0.6))
        return kills

    def _sendings(self) -> list[Sending]:
        sources = tomllib.loads(self.configuration)["sources"]
        found = []
        for name, event in self.events():
            source = sources[name]
            provider = providers()[source["provider"]]
            configured = Configured(
                {
                    **source.get("settings", {}),
                    **{one: source[one] for one in provider.tables if one in source},
                },
                source.get("livemode"),
                source.get("tenant"),
            )
            body, headers = (
                (event.body, event.headers) if isinstance(event, Fixture) else (event, ())
            )
            made = provider.for_source(configured)
            found.append(Sending(name, made, source["secrets"][0], body, headers))
        return found


async def entitlements_of(conn: Conn, tenant: str) -> dict[str, Any]:
    """Feature → what the tenant may use of it now; nothing of one that nobody has named."""
    found = await read_tenant(conn, tenant)
    given = found["entitlements"] if found is not None else []
    return {one["feature"]: one["value"] for one in given}


async def _settle(stack: RunningStack) -> None:
    """Wait until nothing is left to do, and nothing follows for a while."""
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    quiet_since = None
    while quiet_since is None or time.monotonic() - quiet_since < _QUIET_S:
        left = await stack.value(UNFINISHED) + await stack.value(UNSETTLED)
        if left:
            quiet_since = None
        elif quiet_since is None:
            quiet_since = time.monotonic()
        assert time.monotonic() < deadline, f"{left} events or messages are not settled"
        await asyncio.sleep(0.2)
