"""Sources that fall silent: what is learned of their rhythm, and when somebody is told."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from shared.store import rhythms
from tests.support.stack import Stack, new_crew
from workers.rounds import Rounds
from workers.sweep import Sweep

HOUR_S, DAY_S = 3600.0, 86400.0

ADD_EVENTS = """
INSERT INTO inbox (received_at, tracking_id, source_id, account, livemode, event_id, event_type,
                   subject, lane, secret, headers, body, trace_context)
SELECT now() - make_interval(secs => age_s), gen_random_uuid(),
       (SELECT id FROM sources WHERE name = $1), '', true, gen_random_uuid()::text, $3, 's', 1, $4,
       '[]', '{}', ''
FROM unnest($2::float8[]) AS age_s
"""


def sweep_of(stack: Stack) -> Sweep:
    async def nobody(_: int) -> Any:
        raise AssertionError("nothing is visited here")

    return Sweep(stack.crew, Rounds(nobody, 1, dict, set()))


async def heard(
    stack: Stack,
    ages_s: Sequence[float],
    source: str = "stripe",
    event_type: str = "customer.updated",
    secret: str = "0.1",
) -> None:
    """Events that came so long ago."""
    await stack.fetch(ADD_EVENTS, source, list(ages_s), event_type, secret)


async def look(stack: Stack, sweep: Sweep | None = None) -> dict[str, float]:
    """Have the sweep listen, as if a minute had passed since it last did."""
    await stack.fetch("UPDATE listening SET tried_at = NULL")
    sweep = sweep or sweep_of(stack)
    await sweep.listen()
    return sweep.silent


async def pass_time(stack: Stack, seconds: float) -> None:
    """The clock goes on: everything that was written is so much older."""
    ago = timedelta(seconds=seconds)
    await stack.fetch("UPDATE inbox SET received_at = received_at - $1::interval", ago)
    await stack.fetch(
        "UPDATE rhythms SET first_received_at = first_received_at - $1::interval,"
        " last_received_at = last_received_at - $1::interval, silent_at = silent_at - $1::interval",
        ago,
    )
    await stack.fetch(
        "UPDATE listening SET tried_at = tried_at - $1::interval, read_at = read_at - $1::interval,"
        " looked_at = looked_at - $1::interval, since = since - $1::interval",
        ago,
    )


async def pass_looking(stack: Stack, seconds: float) -> dict[str, float]:
    """The clock goes on, and the sweep looks all the time."""
    await pass_time(stack, seconds)
    await stack.fetch("UPDATE listening SET looked_at = now()")
    return await look(stack)


async def rhythm(stack: Stack, source: str = "stripe") -> rhythms.Rhythm:
    async with stack.crew.db.connection() as conn:
        return (await rhythms.read_rhythms(conn))[source]


def hourly(days: float, until_s: float = 60.0) -> list[float]:
    """One event an hour for so many days, the last of them `until_s` ago."""
    return [until_s + hour * HOUR_S for hour in range(int(days * 24))]


async def test_a_source_is_silent_when_it_never_was_for_so_long(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "workers.sweep")
    ages = [*hourly(8), 8 * DAY_S + 5 * HOUR_S]  # a gap of about five hours, long ago
    await heard(stack, ages)
    assert await look(stack) == {}
    known = await rhythm(stack)
    assert abs(known.longest_gap - timedelta(hours=6, seconds=-60)) < timedelta(seconds=2)
    assert known.minutes == len(ages)

    assert await pass_looking(stack, 5.8 * HOUR_S) == {}
    said = await pass_looking(stack, 0.3 * HOUR_S)
    assert set(said) == {"stripe"}
    assert abs(said["stripe"] - (6.1 * HOUR_S + 60)) < 10
    assert await pass_looking(stack, HOUR_S)  # still; and said once only
    warned = [one for one in caplog.records if one.msg == "source is silent"]
    assert [one.__dict__["source"] for one in warned] == ["stripe"]

    await heard(stack, [10.0])
    assert await pass_looking(stack, 60.0) == {}
    assert (await rhythm(stack)).longest_gap > timedelta(hours=7)
    # It has learned: as long as that again is no silence.
    assert await pass_looking(stack, 7 * HOUR_S) == {}


async def test_an_hour_is_nobodys_silence(stack: Stack) -> None:
    await heard(stack, [60.0 + minute * 60 for minute in range(8 * 24 * 60)])
    await look(stack)
    assert (await rhythm(stack)).longest_gap < timedelta(minutes=2)
    assert await pass_looking(stack, rhythms.SILENT_AFTER_S - 120) == {}
    assert set(await pass_looking(stack, 180)) == {"stripe"}


@pytest.mark.parametrize(
    "ages",
    [
        [60.0],
        hourly(6),  # less than a week
        [60.0, 10 * DAY_S],  # too few
        # A bulk: 2,000 events in two minutes, a week later one more.
        [60.0, *(8 * DAY_S + number * 0.05 for number in range(2000))],
    ],
    ids=["one", "young", "rare", "bulk"],
)
async def test_of_whom_too_little_is_known_nothing_is_said(stack: Stack, ages: list[float]) -> None:
    await heard(stack, ages)
    assert await look(stack) == {}
    assert await pass_looking(stack, 30 * DAY_S) == {}


async def test_what_sluice_brings_in_itself_is_no_sign_of_its_source(stack: Stack) -> None:
    """Answers of fetches, and what reconciling brings: no secret of the source proved them."""
    await heard(stack, hourly(8))
    await look(stack)
    await pass_looking(stack, 2 * HOUR_S)
    before = await rhythm(stack)
    assert before.silent_at is not None
    await heard(stack, [number * 10.0 + 10 for number in range(300)], secret="fetch",
                event_type="sluice.fetched")  # fmt: skip
    assert set(await look(stack)) == {"stripe"}
    assert await rhythm(stack) == before
    await heard(stack, [10.0], event_type="sluice.import")  # a push is one
    assert await look(stack) == {}


async def test_paused_sources_count_and_removed_ones_do_not(stack: Stack) -> None:
    await stack.configure({"stripe": True, "other": True})
    await heard(stack, hourly(8))
    await heard(stack, hourly(8), source="other")
    await stack.fetch("UPDATE sources SET paused_at = now(), paused_by = 'x' WHERE name = 'stripe'")
    await look(stack)
    await stack.fetch("UPDATE sources SET removed_at = now() WHERE name = 'other'")
    assert set(await pass_looking(stack, 2 * HOUR_S)) == {"stripe"}
    # Declared again, it begins anew.
    await stack.fetch("UPDATE sources SET removed_at = NULL WHERE name = 'other'")
    await heard(stack, [10.0], source="other")
    assert set(await look(stack)) == {"stripe"}
    assert (await rhythm(stack, "other")).minutes == 1


async def test_while_sluice_was_away_nobody_was_silent(stack: Stack) -> None:
    """Nothing could be received then: it is neither a silence nor a gap to learn."""
    await heard(stack, hourly(8))
    await look(stack)
    await pass_time(stack, 9 * HOUR_S)  # without a look: all was down
    assert await look(stack) == {}
    await heard(stack, [0.0])
    await pass_looking(stack, 120)
    assert (await rhythm(stack)).longest_gap == timedelta(hours=1)
    assert await pass_looking(stack, 0.9 * HOUR_S) == {}
    assert set(await pass_looking(stack, 0.2 * HOUR_S)) == {"stripe"}


async def test_a_late_row_is_heard_and_nothing_twice(stack: Stack) -> None:
    """A gateway whose clock is behind, or a commit that took its time."""
    await stack.configure({"stripe": True, "other": True})
    await heard(stack, [5 * HOUR_S], source="other")
    await heard(stack, [90.0, 15.0])
    await look(stack)
    await heard(stack, [40.0], source="other")
    await look(stack)
    late = await rhythm(stack, "other")
    assert late.longest_gap > timedelta(hours=4)
    again = await rhythm(stack)
    await look(stack)
    assert await rhythm(stack) == again
    assert again.minutes in (1, 2)


async def test_it_reads_on_where_it_stopped_whoever_does(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of any size come to the same, by several workers at once, or a new one each time."""
    await stack.configure({"stripe": True, "other": True})
    ages = [60.0 + number * 977 % (9 * DAY_S) for number in range(700)]
    await heard(stack, ages)
    await heard(stack, [one + 5 for one in ages[::7]], source="other")
    monkeypatch.setattr("workers.sweep.HEARD_AT_ONCE", 37)
    monkeypatch.setattr("workers.sweep.MOST_AT_ONCE", 3)
    async with new_crew(stack.endpoints, "other") as crew:
        beside = Stack(stack.endpoints, stack.owner, stack.gateway, crew, stack.sources)
        for _ in range(12):
            await asyncio.gather(look(stack), look(beside))
    assert await stack.value("SELECT looked_at IS NOT NULL FROM listening")
    for source, came in (("stripe", ages), ("other", [one + 5 for one in ages[::7]])):
        found = await rhythm(stack, source)
        ordered = sorted(came)
        longest_s = max(b - a for a, b in pairwise(ordered))
        assert abs(found.longest_gap.total_seconds() - longest_s) < 2, source
        minutes = await stack.value(
            "SELECT count(DISTINCT date_trunc('minute', received_at)) FROM inbox"
            " JOIN sources s ON s.id = source_id WHERE s.name = $1", source,
        )  # fmt: skip
        assert found.minutes == minutes, source


async def test_who_waited_for_another_knows_what_that_one_heard(stack: Stack) -> None:
    ages = [60.0 + number * HOUR_S for number in range(40)]
    await heard(stack, ages)
    async with stack.crew.db.connection() as first:
        await first.execute("BEGIN")
        await rhythms.listen(first, 20, again=True)
        async with new_crew(stack.endpoints, "other") as crew, crew.db.transaction() as second:
            listening = asyncio.create_task(rhythms.listen(second, 20, again=False))
            while not await stack.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.01)
            await first.execute("COMMIT")
            assert await listening == 20
    found = await rhythm(stack)
    assert abs(found.longest_gap.total_seconds() - HOUR_S) < 1
    assert found.minutes == 40


async def test_one_worker_listens_and_all_know(stack: Stack) -> None:
    await heard(stack, hourly(8))
    await look(stack)
    await pass_time(stack, 2 * HOUR_S)
    await stack.fetch("UPDATE listening SET looked_at = now(), tried_at = NULL")
    sweeps = [sweep_of(stack) for _ in range(3)]
    await asyncio.gather(*(one.listen() for one in sweeps))
    begun: datetime = await stack.value("SELECT tried_at FROM listening")
    for one in sweeps:
        await one.listen()
    assert await stack.value("SELECT tried_at FROM listening") == begun
    assert [set(one.silent) for one in sweeps] == [{"stripe"}] * 3


async def test_minutes_that_are_over_are_tallied(stack: Stack) -> None:
    await heard(stack, [number * 7.0 for number in range(60)])
    await look(stack)
    rows = await stack.fetch("SELECT * FROM tallies ORDER BY minute")
    assert [row["settled"] for row in rows] == [None, None]  # from where, nobody knows yet
    await stack.fetch("UPDATE tallies SET tallied_at = now() - interval '10 minutes'")
    await stack.fetch(
        "INSERT INTO audit (chain, position, previous_hash, hash, cause, cause_id, run, tenant,"
        " step, action, actor, source, subject, feature, catalog_version, xid, at)"
        " SELECT n::text, 1, '', '', 'event', n::text, 1, '', n % 2, 'applied', 'x', '', '', '',"
        " 0, '1', now() - n * interval '5 seconds' FROM generate_series(0, 60) AS n"
    )
    await look(stack)
    rows = await stack.fetch(
        "SELECT *, (SELECT count(*) FROM inbox WHERE date_trunc('minute', received_at) = minute)"
        "   AS came, (SELECT count(*) FROM audit WHERE date_trunc('minute', at) = minute"
        "   AND step = 0) AS done"
        " FROM tallies ORDER BY minute DESC LIMIT 2"
    )
    for row in rows:
        assert row["received"] == row["came"] > 0
        assert row["settled"] == row["done"] > 0
    await stack.fetch("UPDATE tallies SET minute = minute - interval '3 hours'")
    await look(stack)
    assert await stack.value("SELECT count(*) FROM tallies") == 2
