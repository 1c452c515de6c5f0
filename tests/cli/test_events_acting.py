"""`sluice events`: filters, bodies, exports, the tail, and what operators do to single events."""

import asyncio
import csv
import io
import json
import os
import signal
import sys
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.cli.conftest import Sluice
from tests.cli.test_issues import fail
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription

#: Whom nobody has sent.
NOBODY = "00000000-0000-7000-8000-000000000000"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def created(number: int, tenant: str | None = "acme") -> bytes:
    return event(
        "customer.subscription.created",
        subscription(f"sub_{number}", customer=f"cus_{number}", tenant=tenant),
        event_id=f"evt_{number}",
    )


async def receive(stack: Stack, number: int) -> UUID:
    return (await stack.receive(created(number)))[0].tracking_id


@pytest.fixture
async def mixed(stack: Stack) -> dict[str, UUID]:
    """An event of each kind, by its name."""
    (applied,) = await stack.apply(created(1))
    (ignored,) = await stack.apply(
        event("payout.paid", {"id": "po_1", "object": "payout"}, event_id="evt_i")
    )
    dead, retrying, received = [await receive(stack, number) for number in (2, 3, 4)]
    await fail(stack, dead, "TimeoutError", "KeyError", dead=True)
    await fail(stack, retrying, "ConnectError")
    return {
        "applied": applied, "ignored": ignored, "dead": dead, "retrying": retrying,
        "received": received,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ("--status dead", "dead"),
        ("--outcome dead", "dead"),
        ("--outcome applied", "applied"),
        ("--code KeyError", "dead"),
        ("--code attempts_exhausted", "dead"),
        ("--code TimeoutError", ""),
        ("--code ConnectError", "retrying"),
        ("--tenant acme", "applied"),
        ("--customer cus_1", "applied"),
        ("--event evt_2", "dead"),
        ("--attempts 2", "dead"),
        ("--type customer.*", "received retrying dead applied"),
        ("--type payout.paid --source stripe", "ignored"),
        ("--since 1h", "received retrying dead ignored applied"),
        ("--until 1h", ""),
        (f"--trace {TRACE} --status ignored", "ignored"),
        ("--trace 0af7 --status ignored", ""),
        ("--source sluice-handlers", ""),
    ],
)
async def test_every_filter_of_a_list(
    sluice: Sluice, mixed: dict[str, UUID], filters: str, names: str
) -> None:
    listed = (await sluice("events", "list", *filters.split(), "--json")).json["items"]
    assert [item["trackingId"] for item in listed] == [str(mixed[one]) for one in names.split()]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("list --outcome done", "--outcome"),
        ("list --since yesterday", "--since"),
        ("list --attempts 0", "--attempts"),
        ("list --tenant=", "--tenant"),
        ("list --since 1h --until 2h", "--until"),
        ("tail --status deed", "--status"),
        ("export", "--all"),
        ("export --all --source stripe", "--all"),
        ("export --all --format xml", "--format"),
        ("retry --reason x", "--all"),
        ("ignore --reason x", "--all"),
        ("ignore evt_1 --reason x", "evt_1"),
        (f"ignore {NOBODY} --status dead --reason x", "tracking ids, or a filter"),
        (f"ignore {NOBODY}", "--reason"),
        (f"raw {NOBODY} --delivery 0", "--delivery"),
    ],
)
async def test_what_is_not_understood_never_means_all(
    sluice: Sluice, mixed: dict[str, UUID], stack: Stack, args: str, says: str
) -> None:
    said = await sluice("events", *args.split())
    assert (said.code, said.out) == (2, ""), said
    assert says in said.err
    assert await stack.value("SELECT count(*) FROM audit WHERE actor LIKE 'operator:%'") == 0


async def test_a_dead_event_is_ignored_and_no_issue_any_more(
    sluice: Sluice, mixed: dict[str, UUID], stack: Stack
) -> None:
    dead = mixed["dead"]
    dry = await sluice("events", "ignore", dead, "--reason", "a test", "--dry-run", "--json")
    told = {"count": 1, "events": [{"trackingId": str(dead), "became": "ignored"}]}
    assert (dry.code, dry.json) == (0, told | {"dryRun": True})
    assert len((await sluice("events", "list", "--status", "dead", "--json")).json["items"]) == 1
    done = await sluice("events", "ignore", dead, "--reason", "a test", "--json")
    assert (done.code, done.json) == (0, told)
    assert (await sluice("events", "list", "--status", "dead", "--json")).json["items"] == []
    issues = (await sluice("issues", "list", "--json")).json["items"]
    left = [(one["code"], one["dead"], one["retrying"]) for one in issues]
    assert left == [("ConnectError", 0, 1)]
    story = (await sluice("events", "show", dead, "--json")).json
    assert (story["status"], story["code"]) == ("ignored", "ignored_by_operator")
    assert (story["runs"][-1]["actor"], story["runs"][-1]["reason"]) == ("operator:ada", "a test")
    again = await sluice("events", "ignore", dead, "--reason", "again")
    assert again.code == 5
    assert "only what is dead or not finished" in again.err
    assert (await sluice("events", "ignore", uuid4(), "--reason", "x")).code == 3
    partly = await sluice("events", "ignore", dead, mixed["retrying"], "--reason", "x", "--json")
    assert (partly.code, partly.json["count"]) == (6, 1)
    # The bug was another one: it is applied after all.
    assert (await sluice("replay", dead, "--reason", "it is real")).code == 0
    await stack.fetch("DELETE FROM work WHERE tracking_id = $1", mixed["received"])
    await stack.drain()
    (found,) = await stack.outcomes([dead])
    assert found == "applied"
    assert (await sluice("audit", "verify")).code == 0


async def test_a_filter_ignores_what_failed_and_leaves_what_has_not(
    sluice: Sluice, mixed: dict[str, UUID], stack: Stack
) -> None:
    said = await sluice("events", "ignore", "--source", "stripe", "--reason", "moved on", "--json")
    assert (said.code, said.json["count"]) == (0, 2), said.err
    rows = await stack.fetch("SELECT tracking_id FROM work")
    assert [row[0] for row in rows] == [mixed["received"]]
    assert (await sluice("issues", "list", "--json")).json["items"] == []
    settled = await sluice("events", "ignore", "--status", "processed", "--reason", "x")
    assert settled.code == 5


async def test_what_waits_is_tried_at_once_and_what_is_settled_is_for_replay(
    sluice: Sluice, mixed: dict[str, UUID], stack: Stack
) -> None:
    waiting = mixed["retrying"]
    dry = await sluice("events", "retry", "--code", "ConnectError", "--reason", "x", "--dry-run")
    assert (dry.code, dry.out) == (0, "1 event would be due now\n")
    assert await stack.value("SELECT count(*) FROM work WHERE due_at > now()") == 1
    done = await sluice("events", "retry", "--code", "ConnectError", "--reason", "it is back")
    assert (done.code, done.out) == (0, "1 event is due now\n")
    settled = await sluice("events", "retry", mixed["dead"], "--reason", "x")
    assert settled.code == 5
    assert "`sluice replay`" in settled.err
    assert (await sluice("events", "retry", "--status", "dead", "--reason", "x")).code == 5
    assert (await sluice("events", "retry", uuid4(), "--reason", "x")).code == 3
    await stack.drain()
    assert await stack.outcomes([waiting]) == ["applied"]
    story = (await sluice("events", "show", waiting, "--json")).json
    assert [(one["what"], one["actor"], one["text"]) for one in story["notes"]] == [
        ("retried", "operator:ada", "it is back")
    ]


async def test_notes_are_told_in_the_order_they_were_written(
    sluice: Sluice, mixed: dict[str, UUID]
) -> None:
    dead = mixed["dead"]
    await sluice("events", "note", dead, "asked them", "--dry-run")
    said = await asyncio.gather(
        *(sluice("events", "note", dead, f"note {number}", "--json") for number in range(1))
    )
    assert said[0].json["note"] == "note 0"
    second = await sluice("events", "note", dead, "ticket 4711 ✓", "--actor", "grace")
    assert second.code == 0, second.err
    story = (await sluice("events", "show", dead, "--json")).json
    assert [(one["actor"], one["text"]) for one in story["notes"]] == [
        ("operator:ada", "note 0"), ("operator:grace", "ticket 4711 ✓"),
    ]  # fmt: skip
    assert (story["trace"], story["refused"]) == (
        TRACE, {"code": "attempts_exhausted", "error": "it says KeyError", "handler": None},
    )  # fmt: skip
    said = await sluice("events", "show", dead)
    assert "ticket 4711" in said.out
    assert '{"code"' not in said.out
    _, _, why = said.out.partition("Why it is not applied\n")
    told = dict(line.split(maxsplit=1) for line in why.split("\n\n")[0].splitlines())
    assert told == {name: value or "-" for name, value in story["refused"].items()}
    assert [one["action"] for one in story["audit"]] == ["event.noted", "event.noted"]
    assert (await sluice("events", "note", uuid4(), "x")).code == 3
    assert (await sluice("events", "note", dead, " ")).code == 2
    assert (await sluice("audit", "verify")).code == 0


async def run_sluice(*args: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workers.cli", *map(str, args),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=dict(os.environ),
    )  # fmt: skip


async def test_bodies_are_what_came_to_the_byte(stack: Stack, home: Path) -> None:
    body = created(1)
    other = body.replace(b'"pending_webhooks": 1', b'"pending_webhooks": 0')
    (tracking,) = await stack.apply(body)
    await stack.apply(body, other)
    for number, expected in ((1, body), (2, body), (3, other)):
        ran = await run_sluice("events", "raw", tracking, "--delivery", number)
        out, _ = await ran.communicate()
        assert (ran.returncode, out) == (0, expected)
    ran = await run_sluice("events", "raw", tracking, "--delivery", 4)
    out, err = await ran.communicate()
    assert (ran.returncode, out) == (3, b"")
    assert b"was not delivered 4 times" in err


async def test_headers_are_shown(sluice: Sluice, stack: Stack) -> None:
    (receipt,) = await stack.receive(
        created(1), headers=[(("content-type", "application/json"), ("x-\x1b", "y"))]
    )
    shown = await sluice("events", "headers", receipt.tracking_id)
    assert shown.out == "content-type: application/json\nx-\\x1b: y\n"
    as_json = await sluice("events", "headers", receipt.tracking_id, "--json")
    assert as_json.json == [["content-type", "application/json"], ["x-\x1b", "y"]]
    assert (await sluice("events", "headers", uuid4())).code == 3


async def test_exports_have_every_event_of_the_filter(
    sluice: Sluice, mixed: dict[str, UUID]
) -> None:
    lines = (await sluice("events", "export", "--all")).out.splitlines()
    listed = (await sluice("events", "list", "--json")).json["items"]
    assert [json.loads(line) for line in lines] == listed
    said = await sluice("events", "export", "--status", "dead", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(said.out))
    assert (row["trackingId"], row["code"]) == (str(mixed["dead"]), "attempts_exhausted")
    assert said.err == "1 events\n"


async def test_a_tail_shows_what_comes_and_ends_well(stack: Stack, home: Path) -> None:
    (before,) = await stack.apply(created(1))
    ran = await run_sluice("events", "tail", "--json", "--since", "1h", "--type", "customer.*")
    assert ran.stdout is not None

    async def line() -> dict[str, object]:
        assert ran.stdout is not None
        read: dict[str, object] = json.loads(await asyncio.wait_for(ran.stdout.readline(), 20))
        return read

    first = await line()
    assert (first["what"], first["trackingId"], first["run"]) == ("settled", str(before), 1)
    await stack.receive(event("payout.paid", {"id": "po_1", "object": "payout"}, event_id="e"))
    new = await receive(stack, 2)
    second = await line()
    assert (second["what"], second["trackingId"], second["status"]) == (
        "received", str(new), "received",
    )  # fmt: skip
    await stack.drain()
    third = await line()
    assert (third["what"], third["trackingId"], third["outcome"]) == (
        "settled", str(new), "applied",
    )  # fmt: skip
    ran.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(ran.communicate(), 20)
    assert (ran.returncode, out, err) == (0, b"", b"")
