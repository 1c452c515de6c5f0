"""What `sluice sources list` says of reconciling."""

import pytest

from tests.cli.conftest import Sluice
from tests.support.stack import Stack


@pytest.fixture
async def source(stack: Stack) -> int:
    """The source `polar`."""
    await stack.add_source("polar", "polar", True)
    return stack.sources["polar"]


async def add(stack: Stack, query: str, *args: object) -> None:
    async with stack.owner.connection() as conn:
        await conn.execute(query, *args)


async def test_a_source_that_was_never_reconciled_says_so(
    stack: Stack, sluice: Sluice, source: int
) -> None:
    item, _ = (await sluice("sources", "list", "--json")).json["items"]
    assert (item["reconciliation"], item["missing"]) == (None, 0)


async def test_progress_and_the_last_end_are_shown(
    stack: Stack, sluice: Sluice, source: int
) -> None:
    await add(
        stack,
        "INSERT INTO reconciliations (source_id, round, phase, page, begun_at, finished_at,"
        " looked_at, different, failed, last_error)"
        " VALUES ($1, 7, 'listed', 3, '2026-11-20T12:00:00Z', '2026-11-20T11:30:00Z', 210, 2, 1,"
        " 'timeout: no answer within 20 s')",
        source,
    )
    await add(
        stack,
        "INSERT INTO objects (source_id, account, livemode, kind, object_id, register, wants)"
        " VALUES ($1, '', true, 'subscription', 'sub_1', '{}', 'missing')",
        source,
    )
    said = await sluice("sources", "list", "--json")
    item, _ = said.json["items"]
    assert item["missing"] == 1
    assert item["reconciliation"] == {
        "round": 7, "phase": "listed", "begunAt": "2026-11-20T12:00:00Z",
        "finishedAt": "2026-11-20T11:30:00Z", "customers": 210, "different": 2, "failed": 1,
        "error": "timeout: no answer within 20 s",
    }  # fmt: skip
    assert said.err == ""
    told = " ".join((await sluice("sources", "list")).err.split())
    assert "polar: reconciling fails: timeout: no answer within 20 s" in told
    await add(stack, "UPDATE reconciliations SET phase = NULL, last_error = NULL")
    assert "reconciling fails" not in (await sluice("sources", "list")).err
