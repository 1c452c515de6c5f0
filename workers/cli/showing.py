"""`sluice sources show`: one source, its secrets and when each last proved something."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import unknown, write_json
from workers.cli.output import (
    JsonOption,
    check_text,
    note,
    operate,
    plain,
    print_fields,
    print_heading,
    print_table,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.integrations import SecretVersion
    from shared.store.secrets import Use
    from shared.store.shadows import StoredShadow


def register(app: typer.Typer) -> None:
    """Add the command to `sluice sources`."""
    app.command(epilog="Example: sluice sources show stripe --json")(show)


def show(
    source: Annotated[str, typer.Argument(metavar="SOURCE")],
    as_json: JsonOption = False,
) -> None:
    """
    Show a source: its settings, its secrets by label, and its shadow's counts; never a value.

    When a secret last proved something is looked for among the newest 20,000 events.
    """
    from shared.store import secrets
    from shared.store.integrations import read_integration, read_secret_versions
    from shared.store.paging import iso
    from shared.store.shadows import read_shadows

    check_text("SOURCE", source)

    async def run(conn: "Conn", _: "Endpoints") -> dict[str, Any]:
        found = await read_integration(conn, source)
        if found is None:
            raise unknown("sources", f"no source {plain(source)}")
        versions = (await read_secret_versions(conn, [found.id]))[found.id]
        uses = await secrets.read_uses(conn, found.id)
        shadow = (await read_shadows(conn, found.id)).get(found.id)
        return {
            "name": found.name,
            "provider": found.provider,
            "livemode": found.livemode,
            "tenant": found.tenant,
            "settings": dict(found.settings),
            "apiKey": found.has_api_key,
            "pausedAt": iso(found.paused_at),
            "pausedBy": found.paused_by,
            "createdAt": iso(found.created_at),
            "secrets": [_secret(one, uses) for one in versions],
            "shadow": None if shadow is None else _shadow(shadow),
        }

    shown = operate(run)
    if as_json:
        write_json(shown)
    else:
        _print(shown)


def _secret(one: "SecretVersion", uses: "dict[str, Use]") -> dict[str, Any]:
    from shared.store.paging import iso

    label = f"{one.slot}.{one.version}"
    use = uses.get(label)
    ends = "retired" if one.is_retired else "retiring"
    return {
        "label": label,
        "state": "active" if one.retires_at is None else ends,
        "addedAt": iso(one.added_at),
        "addedBy": one.added_by,
        "retiresAt": iso(one.retires_at),
        "keyId": one.key_id,
        "lastUsedAt": None if use is None else iso(use.used_at),
        "recentEvents": 0 if use is None else use.events,
    }


def _shadow(one: "StoredShadow") -> dict[str, Any]:
    from shared.store.paging import iso

    tally = one.tally
    return {
        "provider": one.provider,
        "signature": None if one.signature is None else dict(one.signature),
        "addedAt": iso(one.added_at),
        "addedBy": one.added_by,
        "keyId": one.sealed.key_id,
        "bothAccept": tally.both_accept,
        "onlyReal": tally.only_real,
        "onlyShadow": tally.only_shadow,
        "bothRefuse": tally.both_refuse,
        "lastAcceptedAt": iso(one.last_accepted_at),
    }


def _print(shown: dict[str, Any]) -> None:
    print_fields({k: v for k, v in shown.items() if k not in ("secrets", "shadow")})
    print_heading("Secrets")
    columns = {
        "label": "label",
        "state": "state",
        "retiresAt": "retires",
        "lastUsedAt": "last used",
        "recentEvents": "events",
        "addedBy": "rotated in by",
        "addedAt": "added",
    }
    print_table(columns, shown["secrets"], keep=4)
    shadow = shown["shadow"]
    if shadow is None:
        return
    print_heading("Shadow: tried beside them, accepts nothing")
    print_fields(shadow)
    if shadow["onlyReal"]:
        note("the shadow refuses what the real secrets accept: it would not do yet")
    elif shadow["bothAccept"] or shadow["onlyShadow"]:
        note(f"it works: sluice sources shadow {shown['name']} --promote")
