"""What the API says of the deployment: `/api/v1/health` and `…/detailed`."""

from typing import Any, Literal

import msgspec

from gateway.api.operations import OPERATORS, Call, Nothing, Operation, Shown
from gateway.readiness import Check
from shared.store.health import read_health

Verdict = Literal["ok", "degraded", "failed"]


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """Whether all is well."""

    status: Literal["ok", "degraded"]


class CheckMade(msgspec.Struct, frozen=True, rename="camel"):
    """One thing that was looked at. `detail` is for people."""

    name: str
    status: Verdict
    detail: str


class SourceAtWork(msgspec.Struct, frozen=True, rename="camel"):
    """
    What is unfinished of a source: the age of its oldest event (null: nothing is), and in how many
    of its lanes.
    """

    source: str
    is_paused: bool
    oldest_s: float | None
    lanes: int


class JobsAtWork(msgspec.Struct, frozen=True, rename="camel"):
    """Jobs of a kind that are not done."""

    kind: str
    waiting: int
    running: int
    paused: int


class Process(msgspec.Struct, frozen=True, rename="camel"):
    """Who has connections to the database, by the name they go by there; workers among them."""

    name: str
    connections: int


class Details(msgspec.Struct, frozen=True, rename="camel"):
    """
    All of it. `lanesVisited` are those that a worker is at, `limitsAreShared` says whether rate
    limits are counted in Redis.
    """

    status: Literal["ok", "degraded"]
    checks: list[CheckMade]
    sources: list[SourceAtWork]
    lanes_visited: int
    jobs: list[JobsAtWork]
    processes: list[Process]
    limits_are_shared: bool


async def read_status(call: Call[Nothing, Nothing]) -> Shown:
    """Whether all is well: "degraded" where somebody should look. One look serves a second."""
    return Shown(Status(_verdict(await _checks(call))))


async def read_details(call: Call[Nothing, Nothing]) -> Shown:
    """Every check, what is unfinished of each source, jobs and processes."""
    checks = await _checks(call)
    async with call.reading() as conn:
        health = await read_health(conn)
    details = Details(
        status=_verdict(checks),
        checks=[CheckMade(one.name, one.verdict, one.detail) for one in checks],
        sources=[SourceAtWork(**one) for one in health.sources],
        lanes_visited=health.visited,
        jobs=[JobsAtWork(**one) for one in health.jobs],
        processes=[Process(**one) for one in health.processes],
        limits_are_shared=call.api.limits.counters.is_shared,
    )
    return Shown(details)


async def _checks(call: Call[Any, Any]) -> list[Check]:
    return await call.api.readiness.checks() if call.api.readiness is not None else []


def _verdict(checks: list[Check]) -> Literal["ok", "degraded"]:
    return "ok" if all(check.verdict == "ok" for check in checks) else "degraded"


OPERATIONS = (
    Operation("GET", "/api/v1/health", read_status, "Whether all is well", Status),
    Operation(
        "GET",
        "/api/v1/health/detailed",
        read_details,
        "What is well, and what is not",
        Details,
        who=OPERATORS,
    ),
)
