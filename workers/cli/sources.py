"""`sluice sources`: where events come from."""

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from workers.cli.exits import unknown, write_json
from workers.cli.output import (
    ActorOption,
    CursorOption,
    DryRunOption,
    JsonOption,
    LimitOption,
    ReasonOption,
    actor_name,
    as_shown,
    check_text,
    checked_reason,
    in_transaction,
    note,
    operate,
    plain,
    print_page,
    say_dry_run,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.configuration import ListedRound, ListedSource
    from shared.store.rhythms import Rhythm

app = typer.Typer(help="Sources: where events come from.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Sources: where events come from. They are declared with `sluice apply`."""


@app.command("list", epilog="Example: sluice sources list --json")
def list_command(
    removed: Annotated[bool, typer.Option("--all", help="The removed ones too.")] = False,
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    List the sources by name, with what each one's provider must be told: where to send its
    events, and which types (--json names them). Of secrets and keys, only whether there are any.
    """
    from shared.store.configuration import list_sources
    from shared.store.paging import Page, decode_cursor, page_of
    from shared.store.rhythms import read_rhythms

    async def run(conn: "Conn", endpoints: "Endpoints") -> None:
        after = decode_cursor(cursor, str) if cursor else None
        rows = await list_sources(conn, after, removed=removed, limit=limit + 1)
        page = page_of(rows, limit, lambda row: _shown(row, endpoints), lambda row: (row.name,))
        known = await read_rhythms(conn)
        for item in page.items:
            item["rhythm"] = _rhythm(known.get(item["name"]))
        lines = [_in_a_line(item) for item in page.items]
        columns = {
            "name": "source",
            "url": "url",
            "provider": "provider",
            "paused": "paused",
            "livemode": "live",
            "eventTypes": "event types",
            "apiKey": "api key",
            "fetches": "fetches",
            "reconciliation": "reconciled",
            "secrets": "secrets",
            "tenant": "tenant",
        }
        nothing = "no sources; declare some: sluice apply FILE"
        shown = page if as_json else Page(lines, page.next)
        print_page(shown, columns, as_json=as_json, nothing=nothing, whole=("url",))
        for item in () if as_json else page.items:
            _say_what_fails(item)

    operate(run)


@app.command(epilog='Example: sluice sources pause stripe --reason "the vendor migrates"')
def pause(
    source: Annotated[str, typer.Argument(metavar="SOURCE")],
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Receive and store a source's events from now on, and apply none of them."""
    _switch(source, reason, actor, is_paused=True, as_json=as_json, dry_run=dry_run)


@app.command(epilog='Example: sluice sources resume stripe --reason "it is done"')
def resume(
    source: Annotated[str, typer.Argument(metavar="SOURCE")],
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Apply a source's events again, those that waited first."""
    _switch(source, reason, actor, is_paused=False, as_json=as_json, dry_run=dry_run)


def _switch(
    source: str,
    reason: str,
    actor: str | None,
    *,
    is_paused: bool,
    as_json: bool,
    dry_run: bool,
) -> None:
    from shared.store import operating
    from workers.actions import new_action, record_action
    from workers.pausing import PAUSED, RESUMED, switch

    who, why = actor_name(actor), checked_reason(reason)
    check_text("SOURCE", source)
    word = "paused" if is_paused else "resumed"

    async def run(conn: "Conn", endpoints: "Endpoints") -> None:
        async def act() -> bool:
            await operating.take_turn(conn)
            work_id = await operating.next_work(conn)
            done = await switch(conn, source, is_paused=is_paused, actor=who, work_id=work_id)
            if done is None:
                raise unknown("sources", f"no source {plain(source)}")
            if done.outcome != "applied":
                return False
            await record_action(
                conn,
                new_action(),
                PAUSED if is_paused else RESUMED,
                who,
                source=source,
                subject=f"source/{source}",
                before=done.before,
                after=done.after,
                reason=why,
            )
            return True

        is_news = await in_transaction(conn, act, dry_run=dry_run)
        if as_json:
            said = {"source": source, "isPaused": is_paused, "changed": is_news}
            write_json(as_shown(said, dry_run=dry_run))
        else:
            is_so = "would be" if dry_run else "is"
            note(f"{source} {is_so} {word}" if is_news else f"{source} was {word} already")
            say_dry_run(dry_run=dry_run)

    operate(run)


def url_of(endpoints: "Endpoints", source: str) -> str:
    """Where the source's provider must send its events."""
    return f"{endpoints.http}/api/v1/webhooks/{quote(source)}"


def push_url_of(endpoints: "Endpoints", source: str) -> str:
    """Where third parties push documents to the source."""
    return f"{endpoints.http}/api/v1/ingest/{quote(source)}"


def _shown(source: "ListedSource", endpoints: "Endpoints") -> dict[str, Any]:
    from shared.providers import providers
    from shared.store.paging import iso

    provider = providers().get(source.provider)
    return {
        "name": source.name,
        "provider": source.provider,
        "installed": provider is not None,
        "livemode": source.livemode,
        "tenant": source.tenant,
        "secrets": source.secrets,
        "lanes": source.lanes,
        "settings": dict(source.settings),
        "url": url_of(endpoints, source.name),
        "ingestUrl": push_url_of(endpoints, source.name) if "ingest" in source.settings else None,
        "eventTypes": list(provider.event_types(source.settings)) if provider else [],
        "apiKey": source.has_api_key,
        "apiBase": source.api_base,
        "fetches": {
            "wanting": source.wanting,
            "failing": source.failing,
            "stoppedUntil": iso(source.stopped_until),
            "error": source.fetch_error,
        },
        "missing": source.missing,
        "pausedAt": iso(source.paused_at),
        "pausedBy": source.paused_by,
        "reconciliation": _reconciliation(source.reconciled),
        "createdAt": iso(source.created_at),
        "removedAt": iso(source.removed_at),
    }


def _reconciliation(last: "ListedRound | None") -> dict[str, Any] | None:
    from shared.store.paging import iso

    if last is None:
        return None
    return {
        "round": last.round,
        "phase": last.phase,
        "begunAt": iso(last.begun_at),
        "finishedAt": iso(last.finished_at),
        "customers": last.looked_at,
        "different": last.different,
        "failed": last.failed,
        "error": last.error,
    }


def _rhythm(known: "Rhythm | None") -> dict[str, Any] | None:
    """How the source was heard so far; None: never since that is kept."""
    from shared.store.paging import iso

    if known is None:
        return None
    return {
        "firstReceivedAt": iso(known.first_received_at),
        "lastReceivedAt": iso(known.last_received_at),
        "longestGapS": known.longest_gap.total_seconds(),
        "minutes": known.minutes,
        "isSilent": known.silent_at is not None,
        "silentAt": iso(known.silent_at),
    }


def _in_a_line(item: dict[str, Any]) -> dict[str, Any]:
    """As the table has it: names of event types would fill it."""
    fetches = item["fetches"]
    words = [f"{fetches[name]} {name}" for name in ("wanting", "failing") if fetches[name]]
    if fetches["stoppedUntil"]:
        words.insert(0, "stopped")
    last = item["reconciliation"]
    reconciled = last and (f"at {last['customers']}" if last["phase"] else last["finishedAt"])
    return {
        **item,
        "paused": item["pausedBy"],
        "eventTypes": len(item["eventTypes"]),
        "fetches": ", ".join(words),
        "reconciliation": reconciled,
    }


def _say_what_fails(item: dict[str, Any]) -> None:
    fetches, last = item["fetches"], item["reconciliation"]
    if item["ingestUrl"] and not item["removedAt"]:
        note(f"{item['name']}: documents are pushed to {plain(item['ingestUrl'])}")
    if item["pausedAt"]:
        since, by = plain(item["pausedAt"]), plain(item["pausedBy"])
        note(
            f"{item['name']}: paused since {since} by {by}: its events are stored, none is applied"
        )
    if item["rhythm"] and item["rhythm"]["isSilent"] and not item["removedAt"]:
        heard = plain(item["rhythm"]["lastReceivedAt"])
        note(f"{item['name']}: silent since {heard}, for longer than ever: does its provider send?")
    if not item["installed"] and not item["removedAt"]:
        name = plain(item["provider"])
        note(
            f"{item['name']}: its provider {name} is not installed here; a gateway without it has"
            " its senders come again"
        )
    if last and last["error"]:
        note(f"{item['name']}: reconciling fails: {plain(last['error'])}")
    if fetches["stoppedUntil"]:
        until = plain(fetches["stoppedUntil"])
        note(f"{item['name']}: nothing is fetched until {until}: {plain(fetches['error'])}")
    elif fetches["error"]:
        note(f"{item['name']}: fetches fail: {plain(fetches['error'])}")
    elif fetches["wanting"] and not item["apiKey"]:
        note(f"{item['name']}: objects want to be fetched, and there is no api_key to do it with")
