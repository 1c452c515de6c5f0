"""`sluice secrets`: what is sealed with which key, and sealing it anew."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import write_json
from workers.cli.following import bar
from workers.cli.output import (
    ActorOption,
    CursorOption,
    DryRunOption,
    JsonOption,
    LimitOption,
    ReasonOption,
    YesOption,
    actor_name,
    checked_reason,
    confirm,
    in_transaction,
    note,
    operate,
    print_page,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.secrets import SealedThing
    from workers.rekeying import Rekeyed

app = typer.Typer(
    help="Secrets at rest: what is sealed with which key of SLUICE_SECRET_KEY.",
    no_args_is_help=True,
)


@app.command("list", epilog="Example: sluice secrets list --old --json")
def list_command(
    old: Annotated[
        bool, typer.Option("--old", help="Only what is not sealed with the first key.")
    ] = False,
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what is sealed, and with which key; never a value."""
    from shared.sealing import KeyRing
    from shared.store import secrets
    from shared.store.paging import decode_cursor, page_of

    def key(source: str, slot: int) -> tuple[str, int]:
        return str(source), int(slot)

    async def run(conn: "Conn", endpoints: "Endpoints") -> None:
        keys = KeyRing.parse(endpoints.secret_key)
        after = decode_cursor(cursor, key) if cursor else None
        but_by = keys.first if old else None
        rows = await secrets.read_sealed(conn, but_by=but_by, after=after, limit=limit + 1)
        page = page_of(
            rows, limit, lambda one: _shown(one, keys.first), lambda one: (one.source, one.slot)
        )
        columns = {
            "source": "source",
            "kind": "what",
            "label": "label",
            "keyId": "key",
            "isFirstKey": "first key",
            "addedAt": "added",
            "ageDays": "days old",
            "retiresAt": "retires",
        }
        print_page(page, columns, as_json=as_json, nothing="nothing is sealed with such a key")
        needed = [key_id for key_id, _ in await secrets.read_seals(conn)]
        note(f"to start, a process needs: {', '.join(needed) or 'no key'}")

    operate(run)


@app.command(epilog='Example: sluice secrets rekey --reason "yearly"')
def rekey(
    reason: ReasonOption,
    actor: ActorOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """
    Seal everything anew with the first key of SLUICE_SECRET_KEY; the others can go afterwards.

    Every process must hold both keys by now. Stopped in between, it goes on where it ended.
    """
    from shared.sealing import KeyRing
    from workers.actions import new_action, record_action
    from workers.rekeying import REKEYED, has_old
    from workers.rekeying import rekey as seal_anew

    who, why = actor_name(actor), checked_reason(reason)

    async def run(conn: "Conn", endpoints: "Endpoints") -> dict[str, Any]:
        keys = KeyRing.parse(endpoints.secret_key)
        if not dry_run and await has_old(conn, keys):
            confirm("Does every gateway, worker and operator hold the first key by now?", yes=yes)

        async def act() -> "Rekeyed":
            # A dry run goes through all of it at once: what does not open is found.
            done = await (seal_anew(conn, keys, limit=None) if dry_run else seal_anew(conn, keys))
            if done.sealed or done.forgotten:
                await record_action(
                    conn,
                    new_action(),
                    REKEYED,
                    who,
                    before={"forgotten": list(done.forgotten)},
                    after={"keyId": keys.first, "sealed": done.sealed},
                    reason=why,
                )
            return done

        counts: dict[str, int] = {
            "secret": 0, "api_key": 0, "shadow": 0, "audit_key": 0,
        }  # fmt: skip
        with bar("sealed anew", above=100) as report:
            while True:
                done = await in_transaction(conn, act, dry_run=dry_run)
                for kind, count in done.sealed.items():
                    counts[kind] += count
                report(sum(counts.values()), None)
                if done.is_over:
                    break
        return {
            "keyId": keys.first,
            "secrets": counts["secret"],
            "apiKeys": counts["api_key"],
            "shadows": counts["shadow"],
            "auditKeys": counts["audit_key"],
            "forgotten": list(done.forgotten),
            "waiting": done.waiting,
            **({"dryRun": True} if dry_run else {}),
        }

    shown = operate(run)
    if as_json:
        write_json(shown)
    else:
        _say(shown, dry_run=dry_run)


def _say(shown: dict[str, Any], *, dry_run: bool) -> None:
    total = sum(shown[kind] for kind in ("secrets", "apiKeys", "shadows", "auditKeys"))
    if total or shown["forgotten"]:
        note(f"{total} {'would be' if dry_run else 'are'} sealed anew with {shown['keyId']}")
    else:
        note(f"nothing to do: all that is sealed is sealed with {shown['keyId']}")
    for key_id in shown["forgotten"]:
        will = "could" if dry_run else "can"
        note(f"nothing is sealed with {key_id} any more: it {will} leave SLUICE_SECRET_KEY")
    if shown["waiting"]:
        note(f"{shown['waiting']} rotations wait to be carried out: run this again afterwards")


def _shown(one: "SealedThing", first: str) -> dict[str, Any]:
    from shared.store.paging import iso

    return {
        "source": None if one.kind == "audit_key" else one.source,
        "kind": one.kind,
        "label": one.label,
        "keyId": one.sealed.key_id,
        "isFirstKey": one.sealed.key_id == first,
        "addedAt": iso(one.added_at),
        "ageDays": (datetime.now(UTC) - one.added_at).days,
        "addedBy": one.added_by,
        "retiresAt": iso(one.retires_at),
    }
