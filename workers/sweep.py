"""
Everything that happens because time passed.

Each duty stands alone: one that fails is logged and tried again at the next turn, and keeps no
other from its own. With Redis gone, or a wake-up lost, this is what drains.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from shared import telemetry
from shared.db import Conn, is_platform_fault
from shared.domain.audit import Draft
from shared.store import audit, holdings, work
from shared.store.partitions import DAYS_AHEAD, make_partitions
from workers import entitle, settling
from workers.crew import Crew
from workers.entitle import SetGrew
from workers.rounds import Rounds

log = logging.getLogger(__name__)

EVERY_S = 1.0
PARTITIONS_EVERY_S = 3600.0
TENANTS_AT_ONCE = 100


@dataclass
class _Duty:
    name: str
    every_s: float
    do: Callable[[], Awaitable[None]]
    due_at_s: float = 0.0


async def sweep(crew: Crew, rounds: Rounds, source_names: Callable[[int], str]) -> None:
    """Sweep until cancelled."""
    ages: dict[str, float] = {}
    telemetry.observe_oldest(lambda: ages)

    async def learn() -> None:
        async with crew.db.connection() as conn:
            await crew.surroundings.refresh(conn)

    async def wake() -> None:
        async with crew.db.connection() as conn:
            rounds.wake(await work.lanes_with_due_work(conn))

    async def age() -> None:
        async with crew.db.connection() as conn:
            found = await work.oldest_unfinished_s(conn)
        ages.clear()
        ages.update({source_names(source_id): age_s for source_id, age_s in found.items()})

    async def derive() -> None:
        async with crew.db.connection() as conn:
            outdated = await holdings.outdated_tenants(conn, TENANTS_AT_ONCE)
        for tenant in outdated:
            await derive_again(crew, tenant)

    async def partitions() -> None:
        async with crew.db.connection() as conn:
            ahead = await make_partitions(conn)
        if ahead <= DAYS_AHEAD:
            log.error("inbox partitions are missing", extra={"days": ahead})

    duties = [
        _Duty("learn", EVERY_S, learn),
        _Duty("wake", EVERY_S, wake),
        _Duty("age", 5 * EVERY_S, age),
        _Duty("derive", EVERY_S, derive),
        _Duty("partitions", PARTITIONS_EVERY_S, partitions),
    ]
    clock = asyncio.get_running_loop().time
    while True:
        for duty in duties:
            if clock() >= duty.due_at_s:
                duty.due_at_s = clock() + duty.every_s * 0.9
                await _do(duty)
        await asyncio.sleep(EVERY_S * (0.75 + random.random() / 2))  # noqa: S311 - jitter


async def _do(duty: _Duty) -> None:
    try:
        await duty.do()
    except Exception as error:
        duty.due_at_s = 0.0
        if is_platform_fault(error):
            log.warning("sweep put off", extra={"duty": duty.name, "error": repr(error)})
        else:
            log.exception("sweep failed", extra={"duty": duty.name})


async def derive_again(crew: Crew, tenant: str) -> None:
    """Derive a tenant's grants with the current catalog, in a transaction of its own."""
    more: frozenset[holdings.CustomerKey] = frozenset()
    while True:
        try:
            async with crew.db.transaction() as conn:
                await _derive(conn, crew, tenant, more)
            return
        except SetGrew as grew:
            more = grew.customers


async def _derive(
    conn: Conn, crew: Crew, tenant: str, more: frozenset[holdings.CustomerKey]
) -> None:
    now, xid = await audit.moment(conn)
    changes, version = await entitle.derive_tenant(
        conn, crew.surroundings, now, tenant, more_customers=more
    )
    like = Draft(
        chain="",
        cause="catalog",
        cause_id=str(version),
        run=1,
        tenant=tenant,
        step=0,
        action="",
        actor="system:sweep",
        catalog_version=version,
    )
    drafts = settling.changes_to_drafts(changes, first_step=1, draft=like)
    await audit.append(conn, drafts, now=now, xid=xid)
