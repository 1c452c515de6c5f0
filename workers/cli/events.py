"""`sluice events`: what was received, and what became of it."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from workers.cli.exits import unknown, write_json
from workers.cli.output import (
    CursorOption,
    JsonOption,
    LimitOption,
    operate,
    print_fields,
    print_heading,
    print_page,
    print_table,
    tracking_id,
)
from workers.cli.selecting import selecting

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.domain.commands import Command
    from shared.domain.selection import Selection
    from shared.settings import Endpoints
    from shared.store.events import Evidence
    from workers.surroundings import Surroundings

app = typer.Typer(help="Events: what was received, and what became of it.", no_args_is_help=True)


@app.command("list", epilog="Example: sluice events list --status dead --since 48h --json")
@selecting
def list_command(
    wanted: "Selection",
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List events, newest first."""
    from shared.store.events import list_events
    from shared.store.paging import Page, decode_cursor, encode_cursor, iso
    from shared.store.selecting import select_events

    def key(received_at: str, number: str) -> tuple[datetime, UUID]:
        return datetime.fromisoformat(received_at), UUID(number)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        after = decode_cursor(cursor, key) if cursor else None
        found = await select_events(conn, wanted, after, limit + 1)
        shown = found[:limit]
        items = await list_events(conn, [one.tracking_id for one in shown])
        more = None
        if len(found) > limit:
            more = encode_cursor(iso(shown[-1].received_at), str(shown[-1].tracking_id))
        # All of them have the status that was asked for: why is what tells them apart.
        failed = wanted.status in ("dead", "retrying")
        columns = {
            "trackingId": "tracking id",
            **({"error": "error"} if failed else {"status": "status"}),
            "type": "type",
            "source": "source",
            "tenant": "tenant",
            "receivedAt": "received",
        }
        print_page(Page(items, more), columns, as_json=as_json, nothing="no events")

    operate(run)


@app.command("show", epilog="Example: sluice events show 019a1b2c-… --json")
def show_command(
    event: Annotated[str, typer.Argument(metavar="ID", help="The event's tracking id.")],
    as_json: JsonOption = False,
) -> None:
    """Tell one event's whole story: receipt, runs, failures, what it asked for and changed."""
    wanted = tracking_id(event)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        story = await tell(conn, wanted)
        if as_json:
            write_json(story)
        else:
            _print_story(story)

    operate(run)


async def tell(conn: "Conn", wanted: UUID) -> dict[str, Any]:
    """
    The story: the event as lists show it, and "account", "livemode", "subject", "secret" (the
    slot and version that matched), "verdict", "bodyBytes", "artifact", "traceContext", "receipts",
    "trace" (its id), "refused" ({"code", "error", "handler"}: why it is not applied; None where it
    is, or was not tried), "notes" (what operators noted, and had tried again), "runs", "failures",
    "commands", "objects", "audit".

    Raises:
        CommandError: no such event (3).
    """
    from shared.store import events, tended, trail
    from shared.store.paging import iso
    from workers.actions import act_of, begin_action, replay_action
    from workers.surroundings import Surroundings

    evidence = await events.read_event(conn, wanted)
    runs = await events.read_runs(conn, wanted)
    if evidence is None and not runs:
        raise unknown("events", f"no event {wanted}")
    redeliveries = await events.read_redeliveries(conn, wanted)
    actions = [replay_action(wanted, run["run"]) for run in runs if run["run"] > 1]
    actions += {begin_action(UUID(run["replay"])) for run in runs if run["replay"] is not None}
    actions.append(act_of(wanted))
    audit = await trail.list_records_of_event(conn, wanted, actions, None, None, 500)
    surroundings = Surroundings()
    await surroundings.refresh(conn)
    story = _of_evidence(evidence) if evidence is not None else _without_evidence(wanted, runs)
    first = {
        "receivedAt": story["receivedAt"],
        "secret": story["secret"],
        "traceContext": story["traceContext"],
        "sameBody": True,
        "conflictAt": None,
    }
    return {
        **story,
        "trace": _trace_of(story["traceContext"]),
        "refused": _refusal(story, runs),
        "receipts": [first, *redeliveries],
        "notes": [
            {
                "at": iso(act.at),
                "what": act.action.removeprefix("event."),
                "actor": act.actor,
                "text": act.note or act.reason,
            }
            for act in await tended.read_acts(conn, act_of(wanted))
        ],
        "runs": runs,
        "failures": await events.read_failures(conn, wanted),
        "commands": _commands(surroundings, evidence),
        "objects": await events.read_objects(conn, wanted),
        "audit": audit.items[::-1],
    }


def _trace_of(trace_context: str | None) -> str | None:
    """The trace id of a W3C traceparent."""
    parts = (trace_context or "").split("-")
    return parts[1] if len(parts) == 4 else None


def _refusal(story: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    from shared.domain.issues import IssueKey

    if story["status"] not in ("dead", "retrying", "ignored") or not runs:
        return None
    key = IssueKey(story["source"] or "", story["type"] or "", story["code"] or "")
    return {"code": story["code"], "error": story["error"], "handler": key.handler}


def _of_evidence(evidence: "Evidence") -> dict[str, Any]:
    return {
        **evidence.shown,
        "account": evidence.arrival.identity.account,
        "livemode": evidence.arrival.identity.livemode,
        "subject": evidence.arrival.identity.subject,
        "secret": evidence.secret,
        "verdict": evidence.unreadable or "verified",
        "bodyBytes": (
            len(evidence.arrival.body)
            if evidence.artifact_bytes is None
            else evidence.artifact_bytes
        ),
        # Where the body lies, if not in the inbox: its SHA-256 in the artifact store.
        "artifact": None if evidence.artifact is None else evidence.artifact.hex(),
        "traceContext": evidence.trace_context,
    }


def _without_evidence(wanted: UUID, runs: list[dict[str, Any]]) -> dict[str, Any]:
    from shared.domain.events import received_at_of
    from shared.store.paging import iso

    last = runs[-1]
    nothing = ("source", "eventId", "type", "occurredAt", "account", "livemode", "subject")
    return {
        "trackingId": str(wanted),
        **dict.fromkeys(nothing),
        "status": last["status"],
        "outcome": last["outcome"],
        "receivedAt": iso(received_at_of(wanted)),
        "settledAt": last["settledAt"],
        "tenant": last["tenant"],
        "code": last["code"],
        "attempts": sum(run["attempts"] for run in runs),
        "deliveries": None,
        "error": last["error"] or last["code"],
        "secret": None,
        "verdict": "the body went by retention",
        "bodyBytes": None,
        "artifact": None,
        "traceContext": None,
    }


def _commands(
    surroundings: "Surroundings", evidence: "Evidence | None"
) -> list[dict[str, Any]] | None:
    """What the body asks for by today's code; None where nothing can be read."""
    from shared.domain.events import IMPORT
    from shared.providers.base import PayloadError
    from workers.surroundings import UnknownSource

    if evidence is None or evidence.unreadable:
        return None
    if evidence.arrival.identity.event_type == IMPORT:
        return [{"command": "import_results", "object": f"import/{evidence.shown['trackingId']}"}]
    if evidence.artifact is not None:
        return None
    try:
        commands = surroundings.provider(evidence.source_id).translate(evidence.arrival)
    except (PayloadError, UnknownSource):
        return None
    return [_command(command) for command in commands]


def _command(command: "Command") -> dict[str, Any]:
    from shared.domain.commands import Ignore, ImportRecord, Observe

    if isinstance(command, Ignore):
        return {"command": "ignore", "code": command.code}
    if isinstance(command, Observe):
        return {
            "command": "observe",
            "object": f"{command.kind}/{command.object_id}",
            "version": command.version,
            "shape": command.shape,
            "status": command.after.status,
        }
    if isinstance(command, ImportRecord):
        return {
            "command": "import_record",
            "object": f"record/{command.record_id}",
            "version": command.version,
            "tenant": command.tenant,
        }
    return {"command": type(command).__name__}


_PARTS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    (
        "Deliveries",
        "receipts",
        {
            "receivedAt": "received",
            "secret": "secret",
            "sameBody": "same body",
            "conflictAt": "conflict",
        },
    ),
    (
        "Runs",
        "runs",
        {
            "run": "run",
            "status": "status",
            "outcome": "outcome",
            "code": "code",
            "attempts": "attempts",
            "settledAt": "settled",
            "dueAt": "due",
            "actor": "asked for by",
        },
    ),
    (
        "Failed attempts",
        "failures",
        {"run": "run", "number": "no.", "failedAt": "failed", "code": "code", "error": "error"},
    ),
    ("Notes", "notes", {"at": "at", "what": "what", "actor": "by", "text": "text"}),
    ("Commands", "commands", {"command": "command", "object": "object", "status": "status"}),
    (
        "Objects, as they stand now",
        "objects",
        {"object": "object", "tenant": "tenant", "needs": "needs", "ambiguous": "ambiguous"},
    ),
    (
        "Audit",
        "audit",
        {
            "id": "id",
            "action": "action",
            "tenant": "tenant",
            "feature": "feature",
            "after": "after",
            "before": "before",
            "at": "at",
            "actor": "actor",
        },
    ),
)


def _print_story(story: dict[str, Any]) -> None:
    parts = {"refused", *(key for _, key, _ in _PARTS)}
    print_fields({name: value for name, value in story.items() if name not in parts})
    if story["refused"] is not None:
        print_heading("Why it is not applied")
        print_fields(story["refused"])
    for heading, key, columns in _PARTS:
        rows = story[key]
        if rows:
            print_heading(heading)
            print_table(columns, [{**dict.fromkeys(columns), **row} for row in rows])
